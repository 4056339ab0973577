"""WorkerPools: their conversion to PoolInfo, and transition times of conditions. Customers: their projection."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.cluster.state.pool_info import pool_infos
from niyanta.cluster.status.conditions import stamped
from niyanta.pools.pool_status import customer_row, utilization, wants_none
from niyanta.resources.models.base import parse
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool, WorkerPoolStatus
from niyanta.store.rows import WorkerRow
from tests.pools.test_boundaries import Reported, pool

pytestmark = pytest.mark.unit


def test_a_pools_gpu_keeps_the_resource_it_names() -> None:
    gpu = {"model": "MI300X", "count": 2, "memory": "192Gi", "resource": "example.com/accelerator"}
    pool = WorkerPool.model_validate(
        {"metadata": {"name": "odd"}, "spec": {"nodeSelector": {"matchLabels": {"a": "b"}}, "gpu": gpu}}
    )
    (view,) = pool_infos([pool])
    assert view.gpu is not None
    assert (view.gpu.model, view.gpu.count, view.gpu.memory) == ("MI300X", 2, 192 * 2**30)
    assert view.gpu.resource == "example.com/accelerator"


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = stamped([{"type": "Ready", "status": "False", "reason": "NoNodeSelected"}], [], 0)
    assert first[0]["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    other_reason = stamped([{"type": "Ready", "status": "False", "reason": "NoWorkerReady"}], first, 5_000_000)
    assert other_reason[0]["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    ready = stamped([{"type": "Ready", "status": "True", "reason": "WorkersReady"}], other_reason, 9_000_000)
    assert ready[0]["lastTransitionTime"] == "1970-01-01T00:00:09Z"


def conditions(reported: Reported, name: str) -> dict[str, tuple[str, str]]:
    """Type -> status and reason, as last written."""
    found = reported.recorder.statuses[name]["conditions"]
    return {c["type"]: (c["status"], c["reason"]) for c in found}


def sized(name: str, **spec: Any) -> WorkerPool:
    made = pool(name)
    return made.model_copy(update={"spec": made.spec.model_copy(update=spec)})


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, False),
        ({"replicas": 1}, False),
        ({"replicas": 0}, True),
        ({"replicas": 0, "min_replicas": 1}, False),
        ({"replicas": 3, "max_replicas": 0}, True),
    ],
)
async def test_a_pool_without_workers_is_ready_if_it_wants_none(spec: dict[str, Any], expected: bool) -> None:
    reported = Reported()
    reported.workers.clear()
    reported.pools = {"pool-a": sized("pool-a", **spec)}
    assert wants_none(reported.pools["pool-a"]) is expected
    await reported.writer.report()
    ready = ("True", "NoWorkersWanted") if expected else ("False", "NoNodeSelected")
    assert conditions(reported, "pool-a")["Ready"] == ready


async def test_a_pool_with_a_worker_is_ready_whatever_it_wants() -> None:
    reported = Reported()
    reported.pools = {"pool-a": sized("pool-a", replicas=0), "pool-b": sized("pool-b", replicas=5)}
    await reported.writer.report()
    for name in reported.pools:
        assert conditions(reported, name)["Ready"] == ("True", "WorkersReady")


async def test_conditions_keep_the_times_that_were_written_last() -> None:
    """The watched object may be older than the status."""
    reported = Reported()
    reported.pools = {"pool-b": pool("pool-b")}
    worker = reported.workers.pop("b-1")
    await reported.writer.report()
    reported.clock.seconds = 60
    reported.workers["b-1"] = worker
    await reported.writer.report()
    reported.clock.seconds = 120
    reported.workers["b-2"] = worker
    await reported.writer.report()
    times = {c["type"]: c["lastTransitionTime"] for c in reported.recorder.statuses["pool-b"]["conditions"]}
    assert times == {"Ready": "1970-01-01T00:01:00Z", "Overlapping": "1970-01-01T00:00:00Z"}


async def test_a_remade_pool_gets_a_status_again() -> None:
    reported = Reported()
    await reported.writer.report()
    reported.recorder.statuses.clear()
    await reported.writer.report()
    assert reported.recorder.statuses == {}
    reported.recorder.remade = "another"
    remade = reported.pools["pool-a"].metadata.model_copy(update={"uid": "another"})
    reported.pools["pool-a"] = reported.pools["pool-a"].model_copy(update={"metadata": remade})
    await reported.writer.report()
    assert set(reported.recorder.statuses) == {"pool-a"}


def test_utilization_is_in_whole_percent_of_what_is_offered() -> None:
    rows = [
        WorkerRow("a", "p", allocatable={"cpu": 3000, "memory": 8, "nvidia.com/gpu": 8}, used={"cpu": 1000}, slots=4),
        WorkerRow("b", "p", allocatable={"memory": 8}, used={"memory": 1}, slots=4, slots_used=4),
    ]
    found = utilization(rows)
    assert found == {"cpu": 33, "memory": 6, "gpu": 0, "slots": 50}
    parse(WorkerPoolStatus, {"utilization": found})
    assert utilization([]) == {}


def test_the_limits_of_a_customer_reach_the_rest_door_also_when_they_are_zero() -> None:
    spec = {"maxPriority": 0, "maxConcurrent": 3}
    row = customer_row(Customer.model_validate({"metadata": {"name": "acme"}, "spec": spec}))
    assert row.limits == spec
