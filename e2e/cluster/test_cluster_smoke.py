"""The test cluster itself: simulated nodes and pods behave as those of real kubelets do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.cluster import stages
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster
from testing.waiting import until

pytestmark = pytest.mark.e2e

Nodes = Callable[..., list[str]]
OUTCOME = "niyanta.io/outcome"


class Pods:
    """Bare pods, bound to a node at creation as the operator's are."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._api = cluster.api
        self._path = f"/api/v1/namespaces/{namespace}/pods"

    def create(self, name: str, node: str, *, finalizers: tuple[str, ...] = (), **life: str) -> None:
        """`life` takes the names of the stages module's annotations in lower case: run_for="1s"."""
        notes = {getattr(stages, key.upper()): value for key, value in life.items()}
        spec: dict[str, Any] = {
            "nodeName": node,
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "registry.invalid/none"}],
        }
        meta = {"name": name, "annotations": notes, "finalizers": list(finalizers)}
        self._api.post(self._path, {"metadata": meta, "spec": spec})

    def find(self, name: str) -> JSON | None:
        return self._api.find(f"{self._path}/{name}")

    def annotate(self, name: str, key: str, value: str | None) -> None:
        self._api.patch(f"{self._path}/{name}", {"metadata": {"annotations": {key: value}}})

    def delete(self, name: str) -> None:
        self._api.delete(f"{self._path}/{name}")

    def release(self, name: str) -> None:
        self._api.patch(f"{self._path}/{name}", {"metadata": {"finalizers": None}})

    def wait_phase(self, name: str, phase: str) -> JSON:
        def reached() -> JSON | None:
            pod = self.find(name)
            return pod if pod is not None and pod["status"]["phase"] == phase else None

        return until(reached, what=f"pod {name} is {phase}")

    def wait_gone(self, name: str) -> None:
        until(lambda: self.find(name) is None, what=f"pod {name} is gone")


@pytest.fixture
def pods(cluster: Cluster, namespace: str) -> Pods:
    return Pods(cluster, namespace)


def exit_code(pod: JSON) -> int:
    return int(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"])


def test_nodes_become_ready_with_their_resources_and_labels(cluster: Cluster, nodes: Nodes) -> None:
    (name,) = nodes(1, cpu="4", gpus=2, labels={"zone": "a"})
    node = cluster.api.get(f"/api/v1/nodes/{name}")
    assert node["status"]["allocatable"] == {"cpu": "4", "memory": "32Gi", "pods": "110", "nvidia.com/gpu": "2"}
    assert node["metadata"]["labels"]["zone"] == "a"


def test_a_pod_succeeds_after_its_run_time(nodes: Nodes, pods: Pods) -> None:
    (node,) = nodes()
    pods.create("short", node, run_for="1.5s")
    pods.create("endless", node)
    pods.wait_phase("short", "Running")
    pod = pods.wait_phase("short", "Succeeded")
    assert exit_code(pod) == 0
    assert pods.wait_phase("endless", "Running")["status"]["podIP"]


def test_a_patch_while_running_does_not_start_the_run_over(nodes: Nodes, pods: Pods) -> None:
    (node,) = nodes()
    pods.create("busy", node, run_for="3s")
    pods.wait_phase("busy", "Running")
    patches = 0

    def patched_to_the_end() -> bool:
        nonlocal patches
        patches += 1
        pods.annotate("busy", "example.com/tick", str(patches))
        pod = pods.find("busy")
        return pod is not None and pod["status"]["phase"] == "Succeeded"

    # With a patch every half second, a run time that starts over would never reach 3 s.
    until(patched_to_the_end, what="the run ends", timeout=60, interval=0.5)


def test_a_pod_fails_with_its_exit_code(nodes: Nodes, pods: Pods) -> None:
    (node,) = nodes()
    pods.create("bad", node, run_for="100ms", exit="3")
    assert exit_code(pods.wait_phase("bad", "Failed")) == 3


def test_a_kubelet_rejects_a_pod(nodes: Nodes, pods: Pods) -> None:
    first, second = nodes(2)
    pods.create("away", first, reject="OutOfcpu", reject_on=first)
    pods.create("welcome", second, reject="OutOfcpu", reject_on=first)
    pod = pods.wait_phase("away", "Failed")
    assert pod["status"]["reason"] == "OutOfcpu"
    assert "containerStatuses" not in pod["status"]
    pods.wait_phase("welcome", "Running")


def test_a_pod_that_can_not_start_is_pending_until_it_can(nodes: Nodes, pods: Pods) -> None:
    (node,) = nodes()
    pods.create("pulling", node, never_start="true")
    until(lambda: (pods.find("pulling") or {})["status"].get("containerStatuses"), what="its container waits")
    assert pods.wait_phase("pulling", "Pending")
    pods.annotate("pulling", stages.NEVER_START, None)
    pods.wait_phase("pulling", "Running")


def test_a_deleted_pod_ends_failed_and_stays_for_its_finalizer(nodes: Nodes, pods: Pods) -> None:
    (node,) = nodes()
    pods.create("kept", node, finalizers=(OUTCOME,))
    pods.wait_phase("kept", "Running")
    pods.delete("kept")
    pod = pods.wait_phase("kept", "Failed")
    assert exit_code(pod) == 143
    until(lambda: (pods.find("kept") or {})["metadata"].get("deletionGracePeriodSeconds") == 0, what="grace is 0")
    assert (pods.find("kept") or {})["metadata"]["finalizers"] == [OUTCOME]
    pods.release("kept")
    pods.wait_gone("kept")


def test_a_pod_that_ended_before_its_deletion_keeps_its_outcome(nodes: Nodes, pods: Pods) -> None:
    (node,) = nodes()
    pods.create("done", node, finalizers=(OUTCOME,), run_for="100ms")
    pods.wait_phase("done", "Succeeded")
    pods.delete("done")
    until(lambda: (pods.find("done") or {})["metadata"].get("deletionTimestamp"), what="it is deleted")
    assert (pods.find("done") or {})["status"]["phase"] == "Succeeded"
    pods.release("done")
    pods.wait_gone("done")


def test_a_stuck_pod_stays_until_it_is_released(nodes: Nodes, pods: Pods) -> None:
    stuck_on, other = nodes(2)
    pods.create("stuck", stuck_on, stuck="true")
    pods.create("loose", other)
    for name in ("stuck", "loose"):
        pods.wait_phase(name, "Running")
        pods.delete(name)
    # The end of the other pod shows that deletions are processed.
    pods.wait_gone("loose")
    assert (pods.find("stuck") or {})["status"]["phase"] == "Running"
    pods.annotate("stuck", stages.STUCK, None)
    pods.wait_gone("stuck")


def test_a_node_reports_not_ready_and_back(cluster: Cluster, nodes: Nodes) -> None:
    (node,) = nodes()
    cluster.set_node_ready(node, False)
    cluster.set_node_ready(node, True)
    cluster.wait_nodes_usable([node])


def test_a_partitioned_node_is_unknown_and_heals(cluster: Cluster, nodes: Nodes, pods: Pods) -> None:
    node, _ = nodes(2)
    pods.create("ends-meanwhile", node, run_for="5s")
    pods.create("evicted", node)
    for name in ("ends-meanwhile", "evicted"):
        pods.wait_phase(name, "Running")
    cluster.partition_node(node)
    pods.create("newcomer", node)
    # The control plane evicts the pod, and the partitioned kubelet does not stop it.
    until(lambda: (pods.find("evicted") or {})["metadata"].get("deletionTimestamp"), what="it is evicted", timeout=90)
    assert (pods.find("evicted") or {})["status"]["phase"] == "Running"
    assert (pods.find("ends-meanwhile") or {})["status"]["phase"] == "Running"
    cluster.heal_node(node)
    for name in ("evicted", "ends-meanwhile"):
        pods.wait_gone(name)


def test_kubectl_works_with_a_token_alone(cluster: Cluster, namespace: str) -> None:
    kubeconfig = cluster.service_account_kubeconfig(namespace, "default")
    who = cluster.kubectl(
        "--kubeconfig", str(kubeconfig), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"
    )
    assert who == f"system:serviceaccount:{namespace}:default"
