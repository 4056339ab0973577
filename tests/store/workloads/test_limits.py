"""Limits per customer are exact under concurrency, and no workload is lost."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.lifecycle import Door, Event, Phase
from niyanta.store.postgres.pool import Pool
from niyanta.store.state import StateManager
from tests.store.make import arrive, change, intake, move

pytestmark = pytest.mark.store


async def test_a_workload_beyond_the_limit_is_held_with_a_message(state: StateManager, epoch: int) -> None:
    wanted = [intake() for _ in range(3)] + [intake(customer="other")]
    rows = await state.take_in(wanted, epoch=epoch, queue_limits={"acme": 2})
    assert [row.phase for row in rows] == [Phase.PENDING, Phase.PENDING, Phase.HELD, Phase.PENDING]
    assert rows[2].reason == "QueueFull"
    assert "2 workloads waiting" in rows[2].message
    assert "maxQueueDepth is 2" in rows[2].message
    assert rows[2].paused_at is not None
    again = await state.take_in(wanted, epoch=epoch, queue_limits={"acme": 1})
    assert again == rows, "known workloads aren't weighed again"
    assert await state.wrong_counters() == []


async def test_a_limit_of_zero_holds_everything_and_none_nothing(state: StateManager, epoch: int) -> None:
    (held,) = await state.take_in([intake()], epoch=epoch, queue_limits={"acme": 0})
    (free,) = await state.take_in([intake()], epoch=epoch, queue_limits={"acme": None})
    assert (held.phase, free.phase) == (Phase.HELD, Phase.PENDING)


async def test_the_limit_is_exact_under_concurrent_intakes(state: StateManager) -> None:
    batches = [[intake() for _ in range(7)] for _ in range(16)]
    answers = await asyncio.gather(*(state.take_in(b, epoch=None, queue_limits={"acme": 50}) for b in batches))
    rows = [row for answer in answers for row in answer]
    assert sum(row.phase is Phase.PENDING for row in rows) == 50
    assert sum(row.phase is Phase.HELD for row in rows) == 16 * 7 - 50
    assert await state.wrong_counters() == []


async def test_held_workloads_are_released_in_queue_order(state: StateManager, epoch: int) -> None:
    first = (await state.take_in([intake()], epoch=epoch, queue_limits={"acme": 1}))[0]
    low, high, older = await state.take_in(
        [intake(priority=1), intake(priority=50), intake(priority=50)], epoch=epoch, queue_limits={"acme": 1}
    )
    elsewhere = await arrive(state, epoch=epoch, phase=Phase.HELD)
    assert await state.release_held("acme", 1, epoch=epoch) == []
    await move(state, first, Event.PLACE, epoch=epoch)
    (released,) = await state.release_held("acme", 1, epoch=epoch)
    assert (released.id, released.phase, released.reason, released.paused_at) == (
        high.id,
        Phase.PENDING,
        "Released",
        None,
    )
    assert [row.id for row in await state.release_held("acme", None, epoch=epoch)] == [older.id, low.id]
    (other,) = await state.get_workloads([elsewhere.id])
    assert other.phase is Phase.HELD, "what is held for another reason stays"
    assert [e.event for e in await state.get_events(low.id)] == ["Accepted", "Release"]
    assert await state.wrong_counters() == []


async def test_releases_and_arrivals_at_once_keep_the_limit(state: StateManager, epoch: int) -> None:
    rows = await state.take_in([intake() for _ in range(60)], epoch=epoch, queue_limits={"acme": 20})
    pending = [row for row in rows if row.phase is Phase.PENDING]
    await state.update_workload_status_batch([change(row, Event.PLACE) for row in pending[:10]], epoch=epoch)
    await asyncio.gather(
        *(state.release_held("acme", 20, epoch=epoch) for _ in range(4)),
        *(state.take_in([intake() for _ in range(5)], epoch=None, queue_limits={"acme": 20}) for _ in range(4)),
    )
    assert (await state.get_queue_depth("acme")).total.pending == 20
    assert await state.wrong_counters() == []


async def test_running_work_is_counted_for_max_concurrent(state: StateManager, epoch: int) -> None:
    await arrive(state, epoch=epoch, phase=Phase.RUNNING)
    await arrive(state, epoch=epoch, phase=Phase.SCHEDULED)
    await arrive(state, epoch=epoch, phase=Phase.PENDING, customer="waits")
    await arrive(state, epoch=epoch, phase=Phase.SUCCEEDED, customer="done")
    depths = (await state.get_queue_depth()).customers.items()
    counts = {name: depth.scheduled + depth.running for name, depth in depths}
    assert {name: count for name, count in counts.items() if count} == {"acme": 2}


async def test_the_backlog_of_the_rest_door_is_left_out(state: StateManager, epoch: int, pool: Pool) -> None:
    kept = {(await arrive(state, epoch=epoch, phase=phase)).id for phase in (Phase.PENDING, Phase.HELD)}
    kept.add((await arrive(state, epoch=epoch, phase=Phase.RUNNING, door=Door.REST)).id)
    left_out = {
        (await arrive(state, epoch=epoch, phase=phase, door=Door.REST)).id for phase in (Phase.PENDING, Phase.HELD)
    }
    assert {row.id async for row in state.get_active(pending_doors=(Door.KUBERNETES,), chunk=2)} == kept
    assert {row.id async for row in state.get_active(pending_doors=(Door.REST,))} == left_out | {
        row.id async for row in state.get_active() if row.phase.bound
    }
    assert {row.id async for row in state.get_active()} == kept | left_out
