"""Empty workers of pools: the precedence of their sources, and their conversion like real workers."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.cluster.api.objects import Node, NodeMetadata, NodeSpec, NodeStatus, NodeTaint, StatusCondition
from niyanta.cluster.state import empty_workers
from niyanta.cluster.state.empty_workers import EmptyWorker, declared, empty_pools, from_record, limit, to_record
from niyanta.cluster.state.pool_info import pool_infos
from niyanta.cluster.state.worker_info import worker
from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.sizing.pool_growth import hypothetical
from niyanta.engine.types import HOSTNAME_TOPOLOGY, REGION_TOPOLOGY, ZONE_TOPOLOGY
from niyanta.resources.models.worker_pool import WorkerPool
from tests.cluster.state.test_cache import POOL, FedCache

pytestmark = pytest.mark.unit

GIB = 2**30
SPEC: dict[str, Any] = {
    "nodeSelector": {
        "matchLabels": {"pool": "a100"},
        "matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64", "arm64"]}],
    },
    "region": "eu-west",
    "gpu": {"model": "A100", "count": 8, "memory": "80Gi"},
    "tags": {"tier": "gold"},
    "capabilities": ["training"],
    "compliance": ["hipaa"],
    "slotsPerWorker": 10,
    "strategy": "Spread",
}
OFFERS = {"cpu": "96", "memory": "1024Gi", "nvidia.com/gpu": 8, "pods": 200}
SHAPE = {"allocatable": OFFERS, "labels": {"disk": "nvme"}, "taints": [{"key": "gpu", "effect": "NoSchedule"}]}


def pool(**spec: Any) -> WorkerPool:
    return WorkerPool.model_validate({"metadata": {"name": "a100"}, "spec": {**SPEC, **spec}})


def empty(of: WorkerPool, learned: EmptyWorker | None = None, workers: int = 0) -> EmptyPool:
    known = {"a100": learned} if learned is not None else {}
    (found,) = empty_pools([of], pool_infos([of]), learned=known, workers={"a100": workers})
    return found


def test_an_empty_worker_is_read_as_the_node_it_will_be() -> None:
    of = pool(workerShape=SHAPE, zones=["eu-west-1a"])
    labels = {"pool": "a100", "arch": "amd64", "disk": "nvme", HOSTNAME_TOPOLOGY: "a100/00000"}
    labels |= {ZONE_TOPOLOGY: "eu-west-1a", REGION_TOPOLOGY: "eu-west"}
    node = Node(
        metadata=NodeMetadata(name="a100/00000", labels=labels),
        spec=NodeSpec(taints=(NodeTaint("gpu", "", "NoSchedule"),)),
        status=NodeStatus({k: str(v) for k, v in OFFERS.items()}, (StatusCondition("Ready", "True"),)),
    )
    (view,) = pool_infos([of])
    (template,) = empty(of).templates
    assert hypothetical(template, 0) == worker(node, view)


def test_zones_are_the_pools_else_those_seen() -> None:
    of = pool(workerShape=SHAPE, zones=["z1", "z2"])
    assert [template.zone for template in empty(of).templates] == ["z1", "z2"]
    learned = EmptyWorker({"cpu": 1000, "memory": GIB}, zones=("z3", "z4"))
    assert [template.zone for template in empty(pool(), learned).templates] == ["z3", "z4"]


def test_the_manifest_goes_before_the_node_template_before_what_was_seen() -> None:
    node = {"metadata": {"labels": {"disk": "hdd"}}, "status": {"allocatable": {"cpu": "8", "memory": "1Gi"}}}
    kwok = {"kwok": {"nodeTemplate": node}}
    learned = EmptyWorker({"cpu": 4000, "memory": GIB})

    def cpu(of: WorkerPool) -> int:
        return dict(empty(of, learned).templates[0].allocatable)["cpu"]

    assert cpu(pool(workerShape=SHAPE, provider=kwok)) == 96000
    assert cpu(pool(provider=kwok)) == 8000
    assert cpu(pool()) == 4000
    assert empty(pool()).templates == ()


def test_the_pools_gpus_are_offered_where_the_shape_names_none() -> None:
    (template,) = empty(pool(workerShape={"allocatable": {"cpu": 1, "memory": "1Gi"}})).templates
    assert template.gpu is not None
    assert (template.gpu.model, template.gpu.count, template.gpu.memory) == ("A100", 8, 80 * GIB)
    assert dict(template.allocatable)["nvidia.com/gpu"] == 8
    (other,) = empty(pool(workerShape={"allocatable": {"cpu": 1, "memory": "1Gi", "nvidia.com/gpu": 4}})).templates
    assert other.gpu is not None
    assert other.gpu.count == 4


def test_limits() -> None:
    kwok = {"kwok": {}}
    assert limit(pool(maxReplicas=5, provider=kwok), 2) == (5, False)
    assert limit(pool(provider=kwok), 2) == (None, False)
    assert limit(pool(maxReplicas=5), 2) == (5, False)
    assert limit(pool(), 2) == (2, True)


async def test_a_shape_is_learned_from_the_smallest_ready_worker_without_its_passing_pods() -> None:
    case = FedCache()
    await case.cache.set_pools([POOL])
    case.node("n1", cpu="8", disk="ssd", **{ZONE_TOPOLOGY: "z1", HOSTNAME_TOPOLOGY: "n1"})
    case.node("n2", cpu="4", disk="ssd", **{ZONE_TOPOLOGY: "z2", HOSTNAME_TOPOLOGY: "n2"})
    case.node("n3", cpu="1", ready=False)
    daemon = {"kind": "DaemonSet", "uid": "d", "controller": True}
    case.pod("agent", node="n2", owners=[daemon])
    case.pod("passing", node="n2")
    case.pod("ours", node="n2", workload="w/1/0")

    (shape,) = (await empty_workers.observed(case.cache)).values()

    assert shape.allocatable == {"cpu": 3000, "pods": 109}
    assert shape.labels == {"disk": "ssd", "pool": "p"}
    assert shape.zones == ("z1", "z2")
    assert shape.daemons == {"cpu": 1000, "pods": 1}


def test_a_shape_comes_back_as_it_was_written() -> None:
    shape = EmptyWorker({"cpu": 1}, {"a": "b"}, (("k", "v", "NoSchedule"),), ("z",), {"cpu": 1})
    assert from_record(to_record(shape)) == shape
    assert declared(pool()) is None
    assert empty_workers.declared(pool(workerShape=SHAPE)) is not None
