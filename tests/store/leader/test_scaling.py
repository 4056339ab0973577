"""Scaling decisions and drains, which only the leader may write."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from niyanta.store.errors import StaleEpochError
from niyanta.store.leader.scaling import DrainRow, DrainStep, ScalingDecision
from niyanta.store.postgres.partitions import maintain_partitions
from niyanta.store.state import StateManager

pytestmark = pytest.mark.store

UP = ScalingDecision("gpu", "ScaleUp", wanted=5, had=2, message="3 more workers")
DOWN = ScalingDecision("gpu", "ScaleDown", worker="w1", instance="i-1", wanted=1, had=2, reason="empty")
DRAIN = DrainRow("gpu", "i-1", "w1", was_cordoned=True, started_at=0)


async def test_decisions_come_newest_first_in_pages(state: StateManager, epoch: int) -> None:
    await state.record_scaling([UP, DOWN, replace(UP, pool="cpu")], epoch=epoch)
    first, *_ = await state.get_scaling_decisions("gpu", limit=1)
    (second,) = await state.get_scaling_decisions("gpu", before=first.id)
    assert (first.action, first.worker, first.instance, first.reason) == ("ScaleDown", "w1", "i-1", "empty")
    assert (second.action, second.wanted, second.had, second.epoch) == ("ScaleUp", 5, 2, epoch)


async def test_when_pools_were_last_scaled(state: StateManager, epoch: int) -> None:
    await state.record_scaling([UP, UP], epoch=epoch)
    last = await state.last_scaled(["ScaleUp", "ScaleDown"])
    assert last.keys() == {("gpu", "ScaleUp")}
    assert abs(last["gpu", "ScaleUp"] - await state.clock()) < 60_000_000


async def test_a_drain_is_kept_from_its_begin_to_its_end(state: StateManager, epoch: int) -> None:
    await state.record_scaling([DOWN], epoch=epoch, begin=[DRAIN])
    (begun,) = await state.get_drains()
    assert (begun.worker, begun.was_cordoned, begun.cordoned_at) == ("w1", True, None)
    await state.step_drain(DRAIN, DrainStep.CORDONED, epoch=epoch)
    (cordoned,) = await state.get_drains()
    assert cordoned.cordoned_at is not None
    await state.step_drain(DRAIN, DrainStep.CORDONED, epoch=epoch)
    await state.step_drain(DRAIN, DrainStep.REMOVING, epoch=epoch)
    await state.record_scaling([DOWN], epoch=epoch, begin=[DRAIN])  # a drain that exists is not changed
    (going,) = await state.get_drains()
    assert (going.started_at, going.cordoned_at) == (begun.started_at, cordoned.cordoned_at)
    assert going.removing_at is not None
    await state.record_scaling([replace(DOWN, action="WorkerRemoved")], epoch=epoch, end=[going])
    assert await state.get_drains() == []


async def test_a_leader_that_was_replaced_writes_nothing(state: StateManager, epoch: int) -> None:
    with pytest.raises(StaleEpochError):
        await state.record_scaling([DOWN], epoch=epoch - 1, begin=[DRAIN])
    with pytest.raises(StaleEpochError):
        await state.step_drain(DRAIN, DrainStep.REMOVING, epoch=epoch - 1)
    assert await state.get_scaling_decisions("gpu") == []
    assert await state.get_drains() == []


async def test_decisions_are_kept_for_thirty_days(state: StateManager, epoch: int, dsn: str) -> None:
    await state.record_scaling([UP, DOWN], epoch=epoch)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE scaling_decisions SET at = at - interval '31 days' WHERE action = 'ScaleUp'")
    maintain_partitions(dsn)
    assert [row.action for row in await state.get_scaling_decisions("gpu")] == ["ScaleDown"]
