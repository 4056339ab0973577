"""REST rows of a customer are held and released in Postgres, in bounded batches."""

from __future__ import annotations

import pytest

from niyanta.lifecycle import Door, Phase
from niyanta.store.state import StateManager
from niyanta.store.workloads.limits import QUEUE_FULL
from tests.store.make import arrive, intake

pytestmark = pytest.mark.store


async def test_rows_of_a_customer_are_held_in_batches(state: StateManager, epoch: int) -> None:
    rest = await state.take_in([intake(door=Door.REST, name=f"r{n}") for n in range(5)], epoch=epoch)
    others = [
        await arrive(state, epoch=epoch),
        await arrive(state, epoch=epoch, door=Door.REST, customer="other"),
        await arrive(state, epoch=epoch, door=Door.REST, phase=Phase.RUNNING),
    ]
    batches = [await state.hold_rows("acme", "CustomerGone", "no Customer", epoch=epoch, limit=2) for _ in range(3)]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    held = {row.id: row for batch in batches for row in batch}
    assert {row.id: row for row in await state.get_workloads(held)} == held
    assert held.keys() == {row.id for row in rest}
    assert {(row.phase, row.reason, row.message) for row in held.values()} == {
        (Phase.HELD, "CustomerGone", "no Customer")
    }
    assert sorted(await state.get_workloads(row.id for row in others), key=str) == sorted(others, key=str)
    assert await state.wrong_counters() == []


async def test_held_rows_are_released_in_queue_order_up_to_the_limit(state: StateManager, epoch: int) -> None:
    low, high, elsewhere = await state.take_in(
        [
            intake(door=Door.REST, name="low", priority=1),
            intake(door=Door.REST, name="high", priority=90),
            intake(door=Door.REST, name="elsewhere", namespace="else"),
        ],
        epoch=epoch,
    )
    await state.hold_rows("acme", "CustomerGone", "", epoch=epoch)
    parked = await arrive(state, epoch=epoch, door=Door.REST, phase=Phase.HELD)

    moved = await state.release_rows("acme", epoch=epoch, namespaces=["team"], reasons=["CustomerGone"], queue_limit=1)

    assert [(row.id, row.phase, row.reason) for row in moved] == [
        (high.id, Phase.PENDING, "Released"),
        (low.id, Phase.HELD, QUEUE_FULL),
    ]
    assert [row.phase for row in await state.get_workloads([elsewhere.id, parked.id])] == [Phase.HELD] * 2
    assert await state.release_rows("acme", epoch=epoch, reasons=["CustomerGone"], namespaces=["team"]) == []
    assert {row.id for row in await state.release_rows("acme", epoch=epoch)} == {elsewhere.id, parked.id}
    assert await state.wrong_counters() == []
