"""The placement checker of the end-to-end tests finds every broken rule, and finds nothing when all rules hold."""

from __future__ import annotations

from typing import Any

import pytest

from testing.checks.kubernetes_rules import amount
from testing.checks.observed_cluster import ObservedCluster
from testing.checks.placement_checker import needlessly_waiting, violations
from testing.cluster.nodes import NodeSpec
from testing.scenarios.placement import workload

pytestmark = pytest.mark.unit

ZONE = "topology.kubernetes.io/zone"
POOL = {
    "metadata": {"name": "main"},
    "spec": {"nodeSelector": {"matchLabels": {"pool": "main"}}, "gpu": {"model": "A100"}, "slotsPerWorker": 2},
}


def node(name: str, *, zone: str = "a", **fields: Any) -> dict[str, Any]:
    made = NodeSpec(name, labels={"pool": "main", ZONE: zone}, **fields).manifest()
    made["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    return made


def asked(name: str, **fields: Any) -> dict[str, Any]:
    made = workload(name, **fields)
    made["metadata"]["namespace"] = "ns"
    return made


def pod(of: dict[str, Any] | None, on: str, *, index: int = 0, cpu: str = "1", gpus: int = 0) -> dict[str, Any]:
    name = of["metadata"]["name"] if of else "foreign"
    requests = {"cpu": cpu, "memory": "1Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    container: dict[str, Any] = {"name": "main", "resources": {"requests": requests}}
    if of and (ports := of["spec"]["template"]["spec"]["containers"][0].get("ports")):
        container["ports"] = ports
    owners = [{"kind": "Workload", "name": name}] if of else []
    labels = {"niyanta.io/index": str(index), "niyanta.io/customer": "acme"} if of else {}
    meta = {"name": f"{name}-{index}", "namespace": "ns", "labels": labels, "ownerReferences": owners}
    return {
        "metadata": meta,
        "spec": {"nodeName": on, "containers": [container]},
        "status": {"phase": "Running"},
    }


def found(nodes: list[Any], pods: list[Any], workloads: list[Any]) -> str:
    return "\n".join(violations(ObservedCluster(nodes, pods, workloads, [POOL])))


def test_correct_placements_have_no_violations() -> None:
    first, second = asked("first", gpu={"models": ["A100"], "count": 2}), asked("second", replicas=2)
    pods = [pod(first, "n0", gpus=2), pod(second, "n0"), pod(second, "n1", index=1), pod(None, "n1", cpu="7")]
    assert found([node("n0", gpus=2), node("n1", gpus=2)], pods, [first, second]) == ""


@pytest.mark.parametrize(
    ("words", "fields", "pods"),
    [
        ("cpu too many", {}, [("n0", 0, "9", 0)]),
        ("1 of 2 pods", {"replicas": 2}, [("n0", 0, "1", 0)]),
        ("live more than once", {"replicas": 2}, [("n0", 0, "1", 0), ("n1", 0, "1", 0)]),
        ("more than slots", {"replicas": 3}, [("n0", n, "1", 0) for n in range(3)]),
        ("GPU model A100", {"gpu": {"models": ["H100"]}}, [("n0", 0, "1", 1)]),
        ("takes 1 nvidia.com/gpu, asked for 2", {"gpu": {"count": 2}}, [("n0", 0, "1", 1)]),
        ("takes 1 cpu, asked for 2", {"cpu": "2"}, [("n0", 0, "1", 0)]),
        ("zones: a", {"hard": {"zones": ["b"]}}, [("n0", 0, "1", 0)]),
        ("lacks capabilities", {"type": "etl"}, [("n0", 0, "1", 0)]),
        ("lacks compliance", {"hard": {"compliance": ["hipaa"]}}, [("n0", 0, "1", 0)]),
        ("tags do not match", {"hard": {"workerTags": {"disk": "ssd"}}}, [("n0", 0, "1", 0)]),
        ("nodeSelector", {"pod": {"nodeSelector": {"disk": "ssd"}}}, [("n0", 0, "1", 0)]),
        ("taint dedicated", {}, [("tainted", 0, "1", 0)]),
        ("no pool selects", {}, [("stranger", 0, "1", 0)]),
        (
            "keeps away",
            {"replicas": 2, "anti": [{"workloadSelector": {}, "topologyKey": ZONE}]},
            [("n0", 0, "1", 0), ("n1", 1, "1", 0)],
        ),
        (
            "is not near a pod",
            {"hard": {"near": [{"workloadSelector": {"matchLabels": {"app": "x"}}}]}},
            [("n0", 0, "1", 0)],
        ),
        (
            "ns/one is not in one domain of kubernetes.io/hostname",
            {"replicas": 2, "topology": {"key": "kubernetes.io/hostname"}},
            [("n0", 0, "1", 0), ("n1", 1, "1", 0)],
        ),
        (
            "share a host port",
            {"replicas": 2, "ports": [{"containerPort": 1, "hostPort": 1}]},
            [("n0", 0, "1", 0), ("n0", 1, "1", 0)],
        ),
    ],
)
def test_each_broken_rule_is_a_violation(words: str, fields: dict[str, Any], pods: list[Any]) -> None:
    one = asked("one", **fields)
    taint = {"key": "dedicated", "effect": "NoSchedule"}
    nodes = [node("n0", gpus=2), node("n1", gpus=2), node("tainted", taints=[taint])]
    placed = [pod(one, on, index=index, cpu=cpu, gpus=gpus) for on, index, cpu, gpus in pods]
    assert words in found(nodes, placed, [one])


def test_only_a_workload_that_fits_waits_needlessly() -> None:
    fits, too_big = asked("fits", cpu="2"), asked("too-big", cpu="3")
    seen = ObservedCluster([node("n0")], [pod(None, "n0", cpu="6")], [fits, too_big], [POOL])
    assert needlessly_waiting(seen) == ["ns/fits waits, and n0 could take it"]


@pytest.mark.parametrize(
    ("text", "value"), [("100m", 0.1), ("1e3", 1000), ("0.5", 0.5), ("1Gi", 2**30), ("2k", 2000), ("1E", 10**18)]
)
def test_quantities_have_the_value_that_kubernetes_gives_them(text: str, value: float) -> None:
    assert float(amount(text)) == value
