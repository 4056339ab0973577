"""Every manifest of examples/ is applied with kubectl, and has the result that its comment promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from testing.checks.observed_cluster import observe
from testing.checks.placement_checker import violations
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster
from testing.cluster.nodes import nodes_of_pool
from testing.cluster.stages import EXIT, RUN_FOR
from testing.processes.niyanta import OperatorProcess
from testing.processes.run_directory import REPO
from testing.scenarios.placement import CUSTOMERS, GROUP, POOLS
from testing.scenarios.workloads import node_names
from testing.waiting import ConditionTimeoutError, until

pytestmark = pytest.mark.e2e

FOLDER = REPO / "examples"
SETUP = sorted(FOLDER.glob("[0-9]*.yaml"))
"""Namespaces, pools and customers; the other files are Workloads."""
MANIFESTS = sorted(path.name for path in FOLDER.glob("*.yaml") if path not in SETUP)
ZONE = "topology.kubernetes.io/zone"


def documents(path: Path) -> list[JSON]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@dataclass
class Examples:
    """The pools and customers of examples/, two nodes for each pool, and the manifests that a test applied."""

    cluster: Cluster
    pools: list[JSON]
    nodes: list[str]
    applied: list[JSON]

    def apply(self, name: str, change: Callable[[JSON], None] = lambda manifest: None) -> None:
        """`kubectl apply` of one file, by default unchanged."""
        manifests = documents(FOLDER / name)
        for manifest in manifests:
            change(manifest)
        if manifests == documents(FOLDER / name):
            self.cluster.kubectl("apply", "-f", str(FOLDER / name))
        else:
            self.cluster.apply(*manifests)
        self.applied += manifests

    def status(self, namespace: str, name: str) -> JSON:
        path = f"{GROUP}/namespaces/{namespace}/workloads/{name}"
        status: JSON = self.cluster.api.get(path).get("status", {})
        return status

    def wait(self, namespace: str, name: str, phase: str, *words: str) -> JSON:
        last: JSON = {}

        def reached() -> bool:
            last.clear()
            last.update(self.status(namespace, name))
            return last.get("phase") == phase and all(word in last.get("message", "") for word in words)

        try:
            until(reached, what=f"{namespace}/{name} is {phase} {words}", timeout=90)
        except ConditionTimeoutError as error:
            raise AssertionError(f"{error}; its status: {last}") from None
        return last

    def zone(self, worker: str) -> str:
        return str(self.cluster.api.get(f"/api/v1/nodes/{worker}")["metadata"]["labels"][ZONE])

    def check(self) -> None:
        found = violations(observe(self.cluster, self.applied, self.pools))
        assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def _setup(env: object) -> Iterator[tuple[Cluster, list[JSON], list[str]]]:
    cluster: Cluster = env.cluster  # type: ignore[attr-defined]
    for path in SETUP:
        cluster.kubectl("apply", "-f", str(path))
    pools = documents(FOLDER / "00-pools.yaml")
    nodes = cluster.create_nodes(spec for pool in pools for spec in nodes_of_pool(pool, 2))
    yield cluster, pools, nodes
    cluster.delete_nodes(nodes)
    for manifest in (manifest for path in SETUP for manifest in documents(path)):
        name = manifest["metadata"]["name"]
        match manifest["kind"]:
            case "WorkerPool":
                cluster.api.delete(f"{POOLS}/{name}")
            case "Customer":
                cluster.api.delete(f"{CUSTOMERS}/{name}")
            case "Namespace":
                cluster.delete_namespace(name, wait=False)


@pytest.fixture
def examples(_setup: tuple[Cluster, list[JSON], list[str]], operator: OperatorProcess) -> Iterator[Examples]:
    made = Examples(*_setup, applied=[])

    def known() -> bool:
        return sum(pool.get("status", {}).get("readyReplicas", 0) for pool in made.cluster.api.items(POOLS)) == 8

    until(known, what="the operator knows the workers of the examples")
    yield made
    for manifest in made.applied:
        meta = manifest["metadata"]
        made.cluster.api.delete(f"{GROUP}/namespaces/{meta['namespace']}/workloads/{meta['name']}")
    # The next example starts with empty workers.
    until(lambda: not _pods(made.cluster), what="the pods of the example are gone")


def _pods(cluster: Cluster) -> list[JSON]:
    return [
        pod for namespace in ("team-a", "team-b") for pod in cluster.api.items(f"/api/v1/namespaces/{namespace}/pods")
    ]


def _pool(status: JSON) -> str:
    """Pool of the first pod."""
    return str(status["assignments"][0]["poolName"])


# Promises of the comments


def cpu_job(examples: Examples) -> None:
    examples.apply("cpu-job.yaml")
    status = examples.wait("team-a", "thumbnails", "Running")
    assert _pool(status) in ("cpu-eu", "cpu-us")
    assert status["score"] == 50


def gpu_either(examples: Examples) -> None:
    examples.apply("gpu-either-of-two-models.yaml")
    status = examples.wait("team-a", "fine-tune", "Running")
    assert (_pool(status), status["score"]) == ("gpu-h100-us", 100)

    def second(manifest: JSON) -> None:
        manifest["metadata"]["name"] = "fine-tune-2"

    for node in ("gpu-h100-us-0", "gpu-h100-us-1"):
        examples.cluster.cordon(node)
    try:
        examples.apply("gpu-either-of-two-models.yaml", second)
        status = examples.wait("team-a", "fine-tune-2", "Running")
        assert (_pool(status), status["score"]) == ("gpu-a100-eu", 0)
    finally:
        for node in ("gpu-h100-us-0", "gpu-h100-us-1"):
            examples.cluster.cordon(node, False)
        examples.cluster.wait_nodes_usable(["gpu-h100-us-0", "gpu-h100-us-1"])


def region_preference(examples: Examples) -> None:
    examples.apply("region-preference.yaml")
    status = examples.wait("team-a", "nightly-report", "Running")
    assert (_pool(status), status["score"]) == ("cpu-eu", 100)


def compliance(examples: Examples) -> None:
    examples.apply("compliance.yaml")
    assert _pool(examples.wait("team-a", "patient-records", "Running")) == "cpu-us"


def anti_affinity(examples: Examples) -> None:
    examples.apply("anti-affinity.yaml")
    one = examples.wait("team-a", "transcode", "Running")
    other = examples.wait("team-a", "warm-cache", "Running")
    assert node_names(one) != node_names(other)


def near_data(examples: Examples) -> None:
    first, second = documents(FOLDER / "near-data.yaml")
    examples.cluster.apply(second)
    examples.wait("team-b", "build-features", "Pending", "not near a required running workload")
    examples.apply("near-data.yaml")
    (data,) = node_names(examples.wait("team-b", "dataset-cache", "Running"))
    (features,) = node_names(examples.wait("team-b", "build-features", "Running"))
    assert examples.zone(data) == examples.zone(features)
    assert first["metadata"]["name"] == "dataset-cache"


def gang_in_one_zone(examples: Examples) -> None:
    examples.apply("gang-in-one-zone.yaml")
    status = examples.wait("team-b", "solve", "Running")
    assert len(status["assignments"]) == 3
    assert len({examples.zone(node) for node in node_names(status)}) == 1


def group_of_eight(examples: Examples) -> None:
    examples.cluster.cordon("gpu-a100-eu-0")
    bare = {"name": "main", "image": "registry.invalid/none", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    spec = {"nodeName": "gpu-a100-eu-1", "containers": [bare]}
    examples.cluster.api.post("/api/v1/namespaces/default/pods", {"metadata": {"name": "one-gpu"}, "spec": spec})
    try:
        examples.apply("group-of-eight.yaml")
        examples.wait("team-a", "pretrain", "Pending", "have room for one replica but not for all replicas together")
        assert _pods(examples.cluster) == []
    finally:
        examples.cluster.cordon("gpu-a100-eu-0", False)
        examples.cluster.api.delete("/api/v1/namespaces/default/pods/one-gpu", {"gracePeriodSeconds": 0})
    status = examples.wait("team-a", "pretrain", "Running")
    assert _pool(status) == "gpu-a100-eu"
    assert len(node_names(status)) == 8


def retries(examples: Examples) -> None:
    examples.apply("retries-and-timeout.yaml")
    path = "/api/v1/namespaces/team-b/pods"
    for attempt, code in (("1", "1"), ("2", "1"), ("3", "0")):
        selector = f"niyanta.io/workload=flaky-import,niyanta.io/attempt={attempt}"
        (pod,) = until(
            lambda selector=selector: examples.cluster.api.items(path, labelSelector=selector),  # type: ignore[misc]
            what=f"attempt {attempt} has its pod",
            timeout=90,
        )
        # Simulates `exit $(( $(date +%s) % 2 ))` of the container.
        outcome = {"metadata": {"annotations": {RUN_FOR: "10ms", EXIT: code}}}
        examples.cluster.api.patch(f"{path}/{pod['metadata']['name']}", outcome)
    assert examples.wait("team-b", "flaky-import", "Succeeded")["attempts"] == 3


def suspended(examples: Examples) -> None:
    examples.apply("suspended.yaml")
    examples.wait("team-b", "month-end", "Suspended")
    assert _pods(examples.cluster) == []
    patch = '{"spec": {"suspend": false}}'
    examples.cluster.kubectl(
        "patch", "workloads.niyanta.io", "-n", "team-b", "month-end", "--type", "merge", "-p", patch
    )
    examples.wait("team-b", "month-end", "Running")


def worker_expressions(examples: Examples) -> None:
    examples.apply("worker-expressions.yaml")
    examples.wait("team-b", "simulate", "Pending", "8 tags do not match")
    for node, generation in (("cpu-us-0", "3"), ("cpu-eu-0", "5"), ("cpu-eu-1", "4")):
        examples.cluster.kubectl("label", "node", node, f"generation={generation}")
    assert node_names(examples.wait("team-b", "simulate", "Running")) == ["cpu-eu-1"]


PROMISES: dict[str, Callable[[Examples], None]] = {
    "anti-affinity.yaml": anti_affinity,
    "compliance.yaml": compliance,
    "cpu-job.yaml": cpu_job,
    "gang-in-one-zone.yaml": gang_in_one_zone,
    "gpu-either-of-two-models.yaml": gpu_either,
    "group-of-eight.yaml": group_of_eight,
    "near-data.yaml": near_data,
    "region-preference.yaml": region_preference,
    "retries-and-timeout.yaml": retries,
    "suspended.yaml": suspended,
    "worker-expressions.yaml": worker_expressions,
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_an_example_has_the_result_that_its_comment_promises(examples: Examples, name: str) -> None:
    assert name in PROMISES, f"examples/{name} is new: add a function for the promise of its comment"
    PROMISES[name](examples)
    examples.check()
