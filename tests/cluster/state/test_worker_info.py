"""Nodes and pods in the engine's words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from niyanta.cluster.api.objects import Node, Pod
from niyanta.cluster.state.worker_info import (
    PoolGpuInfo,
    PoolInfo,
    by_age,
    host_ports,
    pod_charge,
    pod_requests,
    pod_subject,
    pools_for,
    worker,
)
from niyanta.engine.types import Expression, Gpu, HostPort, Op, Strategy, Subject, Taint
from tests.fakes import scripted_api_server

pytestmark = pytest.mark.unit
GI = 2**30


def node(labels: dict[str, str] | None = None, /, *, ready: str = "True", **extra: Any) -> Node:
    return msgspec.convert(
        {
            "metadata": {"name": "n1", "uid": "u1", "resourceVersion": "1", "labels": labels or {}},
            "spec": extra.get("spec", {}),
            "status": {
                "allocatable": extra.get("allocatable", {"cpu": "7910m", "memory": "32Gi", "pods": "50"}),
                "conditions": [{"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": ready}],
            },
        },
        Node,
    )


def pod(spec: dict[str, Any], *, labels: dict[str, str] | None = None, phase: str = "Running", owner: str = "") -> Pod:
    meta: dict[str, Any] = {"name": "p", "namespace": "ns", "uid": "pu", "resourceVersion": "5", "labels": labels or {}}
    meta["ownerReferences"] = [scripted_api_server.owner(owner)] if owner else []
    meta["annotations"] = {"niyanta.io/workload-labels": '{"app":"x"}', "other": "y"}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": {"phase": phase}}, Pod)


def container(cpu: str = "", *, memory: str = "", limits: dict[str, str] | None = None, **extra: Any) -> dict[str, Any]:
    requests = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value}
    return {"name": "c", "resources": {"requests": requests, "limits": limits or {}}, **extra}


# --- nodes -----------------------------------------------------------------------------------------------------------


def test_a_worker_carries_what_node_and_pool_say() -> None:
    spec = {
        "taints": [
            {"key": "a", "value": "b", "effect": "NoSchedule"},
            {"key": "c", "effect": "PreferNoSchedule"},
        ],
        "unschedulable": True,
    }
    pool = PoolInfo(
        "p",
        region="eu",
        zones=("z1",),
        tags=(("tier", "hot"), ("x", "pool")),
        capabilities=frozenset({"video"}),
        compliance=frozenset({"hipaa"}),
        slots_per_worker=4,
        strategy=Strategy.SPREAD,
    )
    found = worker(node({"x": "node", "y": "1"}, spec=spec), pool)
    assert found.allocatable == (("cpu", 7910), ("memory", 32 * GI), ("pods", 50))
    assert found.tags == (("tier", "hot"), ("x", "pool"), ("y", "1"))
    assert found.labels == (("x", "node"), ("y", "1"))
    assert found.taints == (Taint("a", "b", "NoSchedule"),)
    assert (found.region, found.zone, found.slots) == ("eu", "z1", 4)
    assert (found.ready, found.cordoned, found.strategy) == (True, True, Strategy.SPREAD)


def test_topology_labels_of_the_node_win_over_the_pool() -> None:
    labels = {"topology.kubernetes.io/region": "us", "topology.kubernetes.io/zone": "us-a"}
    found = worker(node(labels), PoolInfo("p", region="eu", zones=("z1",)))
    assert (found.region, found.zone) == ("us", "us-a")


def test_a_pool_of_several_zones_says_nothing_about_one_node() -> None:
    assert worker(node(), PoolInfo("p", zones=("z1", "z2"))).zone == ""


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_only_ready_true_is_ready(status: str) -> None:
    assert not worker(node(ready=status), PoolInfo("p")).ready


def test_a_node_that_does_not_say_takes_110_pods() -> None:
    assert ("pods", 110) in worker(node(allocatable={"cpu": "1"}), PoolInfo("p")).allocatable


@pytest.mark.parametrize(
    ("labels", "allocatable", "pool_gpu", "expected"),
    [
        ({}, {"nvidia.com/gpu": "8"}, PoolGpuInfo("A100", 8, 40 * GI), Gpu("A100", 8, 40 * GI)),
        ({}, {"nvidia.com/gpu": "7"}, PoolGpuInfo("A100", 8), Gpu("A100", 7)),
        ({"niyanta.io/gpu-model": "H100"}, {"nvidia.com/gpu": "2"}, None, Gpu("H100", 2)),
        (
            {"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "15360"},
            {"nvidia.com/gpu": "1"},
            None,
            Gpu("Tesla-T4", 1, 15 * GI),
        ),
        ({}, {"amd.com/gpu": "4"}, None, Gpu("", 4, 0, "amd.com/gpu")),
        ({}, {}, PoolGpuInfo("A100", 8), Gpu("A100", 0)),
        ({}, {"nvidia.com/gpu": "1", "x.io/gpu": "2"}, PoolGpuInfo("X", 2, 0, "x.io/gpu"), Gpu("X", 2, 0, "x.io/gpu")),
        ({"nvidia.com/gpu.product": "T4"}, {}, None, None),
    ],
    ids=["pool", "fewer than the pool says", "label", "nvidia labels", "amd", "plugin not up", "two kinds", "no gpu"],
)
def test_gpus(
    labels: dict[str, str], allocatable: dict[str, str], pool_gpu: PoolGpuInfo | None, expected: Gpu | None
) -> None:
    assert worker(node(labels, allocatable=allocatable), PoolInfo("p", gpu=pool_gpu)).gpu == expected


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        (Expression("a", Op.IN, ("1", "2")), True),
        (Expression("a", Op.IN, ("2",)), False),
        (Expression("b", Op.IN, ("1",)), False),
        (Expression("a", Op.NOT_IN, ("1",)), False),
        (Expression("b", Op.NOT_IN, ("1",)), True),
        (Expression("a", Op.EXISTS), True),
        (Expression("b", Op.EXISTS), False),
        (Expression("b", Op.DOES_NOT_EXIST), True),
        (Expression("a", Op.GT, ("0",)), True),
        (Expression("b", Op.LT, ("5",)), False),
    ],
)
def test_pools_select_by_expressions(expression: Expression, matches: bool) -> None:
    assert PoolInfo("p", match_expressions=(expression,)).selects({"a": "1"}) is matches


def test_the_oldest_pool_wins_and_names_break_ties() -> None:
    pools = by_age(
        [
            PoolInfo("late", created="2026-03-01T00:00:00Z"),
            PoolInfo("b", created="2026-01-01T00:00:00Z"),
            PoolInfo("a", created="2026-01-01T00:00:00Z"),
            PoolInfo("other", created="2025-01-01T00:00:00Z", match_labels=(("x", "y"),)),
        ]
    )
    assert [pool.name for pool in pools_for(node(), pools)] == ["a", "b", "late"]


# --- pods ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [container("1"), container("500m")]}, 1500),
        ({"containers": [container("1")], "initContainers": [container("3"), container("2")]}, 3000),
        ({"containers": [container("1")], "initContainers": [container("200m", restartPolicy="Always")]}, 1200),
        (
            # the sidecar runs beside the init container that follows it, not beside the one before
            {
                "containers": [container("1")],
                "initContainers": [container("2"), container("500m", restartPolicy="Always"), container("1900m")],
            },
            2400,
        ),
        ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, 1250),
        ({"containers": [container(limits={"cpu": "2"})]}, 2000),
        ({"containers": [container("1", limits={"cpu": "2"})]}, 1000),
        ({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "1"}}, 4000),
        ({"containers": [container()]}, 0),
    ],
    ids=["sum", "init", "sidecar", "order", "overhead", "limit only", "both", "pod level", "none"],
)
def test_requests_are_counted_as_kubernetes_does(spec: dict[str, Any], cpu: int) -> None:
    found = dict(pod_requests(pod(spec)))
    assert found.get("cpu", 0) == cpu
    assert found["pods"] == 1


def test_host_ports() -> None:
    ports = [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]
    named = [{"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"}]
    found = host_ports(pod({"containers": [container(ports=ports), container(ports=named)]}))
    assert found == (HostPort(53, "UDP", "10.0.0.1"), HostPort(8080))
    on_host = pod({"hostNetwork": True, "containers": [container(ports=[{"containerPort": 9}])]})
    assert host_ports(on_host) == (HostPort(9),)


def test_the_subject_of_our_pods_comes_from_their_labels() -> None:
    labels = {
        "niyanta.io/workload-uid": "w",
        "niyanta.io/customer": "acme",
        "niyanta.io/type": "video",
        "app": "x",
    }
    assert pod_subject(pod({}, labels=labels)) is None, "labels alone make no pod of Niyanta"
    assert pod_subject(pod({}, labels=labels, owner="w")) == Subject("ns", "acme", "video", (("app", "x"),))
    assert pod_subject(pod({}, labels={"app": "x"})) is None


def test_charges_are_for_bound_pods_that_are_not_done() -> None:
    bound = {"nodeName": "n1", "containers": [container("1")]}
    ours = {"niyanta.io/workload-uid": "w", "niyanta.io/attempt": "2", "niyanta.io/index": "0"}
    foreign = pod_charge(pod(bound))
    assert foreign is not None
    assert (foreign.key, foreign.worker, foreign.subject) == ("pu", "n1", None)
    own = pod_charge(pod(bound, labels=ours, phase="Pending", owner="w"))
    assert own is not None
    assert own.key == "w/2/0"
    assert pod_charge(pod(bound, phase="Succeeded")) is None
    assert pod_charge(pod({"containers": []})) is None
