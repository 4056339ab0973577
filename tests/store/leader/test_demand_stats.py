"""Demand statistics and shapes of pools: only the leader writes, all processes read."""

from __future__ import annotations

import pytest

from niyanta.store.errors import StaleEpochError
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats, PoolStats, from_record, to_record
from niyanta.store.rows import PoolRow
from niyanta.store.state import StateManager

pytestmark = pytest.mark.store

_POOL = PoolStats(
    pool="gpu-a100",
    region="eu",
    workers=3,
    ready_workers=2,
    workers_in_use=1,
    running_workloads=4,
    running_slots=5,
    queued_workloads=6,
    queued_slots=7,
    oldest_age_seconds=8.5,
    workers_needed=9,
    utilization={"cpu": 0.5, "memory": 0.25, "gpu": None, "slots": None},
    utilization_percent_sum=150,
)
_FIGURES = DemandStats(
    at=1_700_000_000_000_000, epoch=1, pools=(_POOL,), namespaces=(NamespaceStats("team-a", 6, 7, 4, 5, 8.5),)
)


async def test_statistics_are_read_as_written_with_their_age(state: StateManager, epoch: int) -> None:
    assert await state.get_figures() is None

    await state.write_figures(_FIGURES, epoch=epoch)
    found = await state.get_figures()

    assert found is not None
    assert found[0] == _FIGURES
    assert 0 <= found[1] < 60
    assert found[0].pools[0].demand == 12


async def test_a_process_that_does_not_lead_cannot_write_statistics(state: StateManager, epoch: int) -> None:
    with pytest.raises(StaleEpochError):
        await state.write_figures(_FIGURES, epoch=epoch + 1)
    assert await state.get_figures() is None


def test_statistics_of_a_later_release_are_read() -> None:
    record = to_record(_FIGURES)
    record["pools"][0]["new"] = 1
    assert from_record(record) == _FIGURES


async def test_shapes_belong_to_pools_and_outlive_status_reports(state: StateManager, epoch: int) -> None:
    shape = {"allocatable": {"cpu": 8000}, "labels": {"node": "a"}}
    await state.upsert_pools([PoolRow("a100")])

    assert await state.write_shapes({"a100": shape, "unknown": shape}, epoch=epoch) == {"a100"}
    await state.upsert_pools([PoolRow("a100", status={"replicas": 0})])

    assert await state.get_shapes() == {"a100": shape}
    await state.delete_pools(["a100"])
    assert await state.get_shapes() == {}
