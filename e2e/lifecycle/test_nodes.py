"""Workloads on nodes that are drained, fail, are partitioned, return or are deleted.

Kubelets are simulated: a kwok Stage plays a NotReady kubelet that still finalises deletions, a partitioned kubelet is
silent and its Lease has another holder (`Cluster.partition_node`), and a rejection is a patch of the pod's status.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from testing.cluster.cluster import Cluster
from testing.scenarios.workloads import ATTEMPT, PodRecorder, Workloads, node_names
from testing.waiting import until

pytestmark = pytest.mark.e2e

Nodes = Callable[..., list[str]]
FENCE_TAINT = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
ZONE = "topology.kubernetes.io/zone"


@pytest.fixture
def pair(nodes: Nodes, unique: str) -> tuple[str, str]:
    """Two nodes, and a healthy tainted one in their zone, because evictions stop in a zone without healthy nodes."""
    first, second = nodes(2, labels={ZONE: unique})
    nodes(1, labels={ZONE: unique}, taints=[{"key": "companion", "effect": "NoSchedule"}])
    return first, second


@pytest.fixture
def cut_off(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Partitions a node, and heals it after the test when it still exists."""
    cut: list[str] = []

    def partition(node: str) -> None:
        cut.append(node)
        cluster.partition_node(node)

    yield partition
    for node in cut:
        if cluster.api.find(f"/api/v1/nodes/{node}") is not None:
            cluster.heal_node(node, wait=False)


def taint(cluster: Cluster, node: str, *taints: dict[str, str]) -> None:
    """Adds taints to those that the node has; again if the control plane, which writes the whole list, removes them."""
    path = f"/api/v1/nodes/{node}"
    wanted = {(taint["key"], taint["effect"]) for taint in taints}
    seen_at: list[float] = []

    def stays() -> bool:
        kept = cluster.api.get(path)["spec"].get("taints", [])
        if wanted <= {(taint["key"], taint["effect"]) for taint in kept}:
            seen_at.append(time.monotonic())
            return seen_at[-1] - seen_at[0] >= 1
        seen_at.clear()
        cluster.api.patch(path, {"spec": {"taints": [*kept, *taints]}})
        return False

    until(stays, what=f"node {node} has the taints for a second")


def on_node(workloads: Workloads, uid: str, node: str) -> list[str]:
    """Attempts of the pods that are bound to the node."""
    return [p["metadata"]["labels"][ATTEMPT] for p in workloads.pods(uid) if p["spec"]["nodeName"] == node]


def test_workloads_of_a_drained_node_move_to_another(workloads: Workloads, pair: tuple[str, str]) -> None:
    """`kubectl drain` cordons the node and evicts pods through the eviction API."""
    with PodRecorder(workloads.cluster, workloads.namespace):
        workloads.apply("moves", backoffLimit=2)
        (before,) = node_names(workloads.wait("moves", "Running"))
        workloads.cluster.kubectl("drain", before, "--ignore-daemonsets", "--force", "--timeout=60s")
        status = workloads.wait("moves", "Running", attempts=2)
    assert node_names(status) == [other(pair, before)]


def other(pair: tuple[str, str], node: str) -> str:
    return pair[1] if node == pair[0] else pair[0]


def test_workloads_leave_a_not_ready_node_that_still_stops_its_pods(
    workloads: Workloads, pair: tuple[str, str]
) -> None:
    """The kubelet confirms evictions, so that no fence is needed under nodeLossPolicy Wait."""
    with PodRecorder(workloads.cluster, workloads.namespace):
        workloads.apply("leaves", backoffLimit=2)
        (before,) = node_names(workloads.wait("leaves", "Running"))
        workloads.cluster.set_node_ready(before, False)
        status = workloads.wait("leaves", "Running", attempts=2)
    assert node_names(status) == [other(pair, before)]
    workloads.cluster.set_node_ready(before, True)


def test_a_node_that_is_not_ready_for_a_moment_keeps_its_workloads(workloads: Workloads, pair: tuple[str, str]) -> None:
    """It is Ready again before the eviction (5 s here): the attempt goes on, and its status is Running again."""
    uid = workloads.apply("stays")
    (node,) = node_names(workloads.wait("stays", "Running"))
    workloads.cluster.set_node_ready(node, False)
    workloads.cluster.set_node_ready(node, True)
    until(
        lambda: workloads.database.row(uid)["reason"] != "WaitingForNodeFence",  # type: ignore[index]
        what="the workload waits for no fence",
    )
    status = workloads.wait("stays", "Running")
    assert status["attempts"] == 1
    assert len(workloads.live_pods(uid)) == 1
    # The node takes new pods: these replicas need both nodes.
    workloads.apply("more", replicas=2, cpu="5")
    workloads.wait("more", "Running")


def lose(workloads: Workloads, name: str, cut_off: Callable[[str], None], **fields: object) -> tuple[str, str]:
    """Runs a Workload and partitions its node; returns its UID and the node."""
    uid = workloads.apply(name, backoffLimit=2, **fields)
    (node,) = node_names(workloads.wait(name, "Running"))
    cut_off(node)
    return uid, node


def assert_waits_for_fence(workloads: Workloads, name: str, uid: str, node: str) -> None:
    """Asserts that the workload waits with its first pod, although the pod is evicted."""
    workloads.wait_message(name, "WaitingForNodeFence", node)

    def evicted() -> bool:
        return any("deletionTimestamp" in pod["metadata"] for pod in workloads.pods(uid))

    until(evicted, what="the control plane evicts the pod", timeout=60)
    status = workloads.wait_message(name, "WaitingForNodeFence", node)
    assert status["attempts"] == 1
    assert [pod["spec"]["nodeName"] for pod in workloads.pods(uid)] == [node]


@pytest.mark.parametrize("fence", ["out-of-service taint", "node deleted", "node returns"])
def test_workloads_of_a_partitioned_node_wait_until_it_is_fenced(
    workloads: Workloads, pair: tuple[str, str], cut_off: Callable[[str], None], fence: str
) -> None:
    """nodeLossPolicy Wait: no pod is started elsewhere until one of the three fences is in place."""
    cluster = workloads.cluster
    with PodRecorder(cluster, workloads.namespace):
        uid, node = lose(workloads, "careful", cut_off)
        assert_waits_for_fence(workloads, "careful", uid, node)
        if fence == "out-of-service taint":
            taint(cluster, node, FENCE_TAINT)
        elif fence == "node deleted":
            cluster.delete_nodes([node])
        else:
            cluster.heal_node(node)
        status = workloads.wait("careful", "Running", attempts=2, timeout=90)
        until(lambda: "1" not in on_node(workloads, uid, node), what="the lost pod is gone", timeout=90)
    if fence != "node returns":
        assert node_names(status) == [other(pair, node)]
    assert len(workloads.live_pods(uid)) == 1


def test_workloads_that_allow_it_leave_a_partitioned_node_after_the_grace_period(
    workloads: Workloads, pair: tuple[str, str], cut_off: Callable[[str], None]
) -> None:
    """nodeLossPolicy Replace (at-least-once), with a grace period of 5 s."""
    uid, node = lose(workloads, "eager", cut_off, nodeLossPolicy="Replace")
    status = workloads.wait("eager", "Running", attempts=2)
    assert node_names(status) == [other(pair, node)]
    first, second = workloads.database.attempts(uid)
    assert first["reason"] == "NodeLost"
    noticed = next(e for e in workloads.database.events(uid) if e["reason"] in ("WaitingForNodeFence", "NodeLost"))
    assert (second["scheduled_at"] - noticed["at"]).total_seconds() >= 4.5
    until(lambda: not on_node(workloads, uid, node), what="the lost pod is removed")


def test_workloads_of_a_deleted_node_move_at_once(workloads: Workloads, pair: tuple[str, str]) -> None:
    uid = workloads.apply("homeless", backoffLimit=2)
    (node,) = node_names(workloads.wait("homeless", "Running"))
    workloads.cluster.delete_nodes([node])
    status = workloads.wait("homeless", "Running", attempts=2)
    assert node_names(status) == [other(pair, node)]
    assert workloads.database.attempts(uid)[0]["reason"] in ("NodeLost", "PodFailed", "PodDisrupted")
    until(lambda: not on_node(workloads, uid, node), what="the lost pod is removed", timeout=90)


def test_a_cordoned_node_takes_no_new_pods(workloads: Workloads, nodes: Nodes) -> None:
    (node,) = nodes(1)
    workloads.cluster.cordon(node)
    workloads.apply("waits")
    workloads.wait_message("waits", "Unschedulable", "cordoned")
    workloads.cluster.cordon(node, False)
    workloads.wait("waits", "Running")


def reject(workloads: Workloads, uid: str, attempt: int) -> str:
    """Rejects the pod of an attempt with the status that a kubelet writes; returns the node."""

    def bound() -> dict[str, object] | None:
        pods = [p for p in workloads.pods(uid) if p["metadata"]["labels"][ATTEMPT] == str(attempt)]
        return pods[0] if pods else None

    pod = until(bound, what=f"a pod of attempt {attempt}")
    meta = pod["metadata"]
    status = {"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}
    path = f"/api/v1/namespaces/{workloads.namespace}/pods/{meta['name']}/status"  # type: ignore[index]
    workloads.cluster.api.patch(path, {"status": status})
    return str(pod["spec"]["nodeName"])  # type: ignore[index]


def test_a_pod_rejected_by_a_kubelet_moves_without_a_retry(workloads: Workloads, nodes: Nodes) -> None:
    """backoffLimit is 0. The patched status is Failed with OutOfcpu, without container statuses."""
    nodes(2)
    uid = workloads.apply("refused", backoffLimit=0, life={"start_after": "2s"})
    node = reject(workloads, uid, 1)
    status = workloads.wait("refused", "Running", attempts=2)
    assert node_names(status) != [node]
    first = workloads.database.attempts(uid)[0]
    assert (first["outcome"], first["reason"]) == ("Requeue", "RejectedByKubelet")
    row = workloads.database.row(uid)
    assert row is not None
    assert row["failures"] == 0
    requeued = next(e for e in workloads.database.events(uid) if e["event"] == "Requeue")
    assert "OutOfcpu Node didn't have enough resource" in requeued["message"]


def test_the_only_worker_is_tried_again_after_its_exclusion(workloads: Workloads, nodes: Nodes) -> None:
    """The exclusion lasts 4 s here (60 s by default); the Workload is Unschedulable meanwhile."""
    nodes(1)
    uid = workloads.apply("patient", backoffLimit=0, life={"start_after": "2s"})
    reject(workloads, uid, 1)
    workloads.wait_message("patient", "Unschedulable")
    workloads.wait("patient", "Running", attempts=2)


def test_a_rejected_pod_requeues_its_group(workloads: Workloads, nodes: Nodes) -> None:
    nodes(3, cpu="1")
    with PodRecorder(workloads.cluster, workloads.namespace):
        uid = workloads.apply("group", replicas=2, cpu="800m", backoffLimit=0, life={"start_after": "2s"})
        node = reject(workloads, uid, 1)
        status = workloads.wait("group", "Running", attempts=2)
    assert node not in node_names(status)
    assert len(workloads.live_pods(uid)) == 2
