"""Concurrent writers: counters stay exact, and versions resolve conflicts."""

from __future__ import annotations

import asyncio
import random

import pytest

from niyanta.lifecycle import TRANSITIONS, Event
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager
from tests.store.make import arrive, change, intake

pytestmark = pytest.mark.store


async def test_sixteen_writers_keep_the_counters_exact(state: StateManager, epoch: int) -> None:
    seeds = random.Random(7)
    rows: dict[str, WorkloadRow] = {}
    wins = losses = 0

    async def write(rng: random.Random, number: int) -> None:
        nonlocal wins, losses
        for _ in range(6):
            fresh = [
                intake(customer=f"c{rng.randrange(3)}", class_id=f"k{rng.randrange(4)}")
                for _ in range(rng.randrange(8))
            ]
            for row in await state.take_in(fresh, epoch=epoch if number % 2 else None):
                rows[row.id] = row
            chosen = rng.sample(sorted(rows), min(len(rows), 25))
            changes = []
            for id_ in chosen:
                events = [event for phase, event in TRANSITIONS if phase is rows[id_].phase]
                if events:
                    changes.append(change(rows[id_], rng.choice(events)))
            rng.shuffle(changes)
            result = await state.update_workload_status_batch(changes, epoch=epoch)
            wins += len(result.applied)
            losses += len(result.stale)
            assert result.illegal == []
            for row in result.applied:
                if rows[row.id].version < row.version:
                    rows[row.id] = row

    await asyncio.gather(*(write(random.Random(seeds.random()), number) for number in range(16)))

    assert losses > 0, "the writers never met: the test shows nothing"
    stored = await state.get_workloads(rows)
    assert sum(row.version - 1 for row in stored) == wins
    assert await state.wrong_counters() == []
    depth = await state.get_queue_depth()
    assert sum(vars_of(depth.total)) == len(stored)
    for name, of_customer in depth.customers.items():
        assert sum(vars_of(of_customer)) == sum(row.customer == name for row in stored)


def vars_of(depth: object) -> list[int]:
    return [getattr(depth, name) for name in depth.__slots__]  # type: ignore[attr-defined]


async def test_of_two_changes_of_one_version_one_wins(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch)
    results = await asyncio.gather(
        *(
            state.update_workload_status_batch([change(row, event)], epoch=epoch)
            for event in (Event.PLACE, Event.HOLD, Event.CANCEL, Event.SUSPEND)
        )
    )
    assert sorted(len(result.applied) for result in results) == [0, 0, 0, 1]
    assert sorted(len(result.stale) for result in results) == [0, 1, 1, 1]
    assert len(await state.get_events(row.id)) == 2


async def test_counters_of_unused_classes_are_pruned_and_come_back(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch)
    await state.update_workload_status_batch([change(row, Event.CANCEL)], epoch=epoch)
    await state.maintain_partitions()
    assert (await state.get_queue_depth()).total.cancelled == 1
    await arrive(state, epoch=epoch)
    assert (await state.get_queue_depth()).total.pending == 1
    assert await state.wrong_counters() == []


async def test_a_wrong_counter_is_noticed(state: StateManager, epoch: int) -> None:
    await arrive(state, epoch=epoch)
    async with state._pool.connection() as connection:
        await connection.execute("UPDATE queue_counters SET pending = pending + 1")
    assert len(await state.wrong_counters()) == 1
