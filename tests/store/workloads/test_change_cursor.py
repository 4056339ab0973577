"""The change cursor misses no change, even of transactions that commit late."""

from __future__ import annotations

import asyncio
import random

import psycopg
import pytest

from niyanta.lifecycle import Event, Phase
from niyanta.store.postgres.pool import Pool
from niyanta.store.rows import Cursor
from niyanta.store.state import StateManager
from testing.processes.postgres import Postgres
from tests.store.make import arrive, change, intake, move

pytestmark = pytest.mark.store

_TOUCH = "UPDATE workload_state SET message = %s, changed = pg_current_xact_id() WHERE id = %s"


async def test_a_change_that_commits_after_later_ones_is_not_missed(
    pool: Pool, state: StateManager, epoch: int
) -> None:
    slow, quick = [await arrive(state, epoch=epoch) for _ in range(2)]
    cursor = await state.cursor()
    async with pool.transaction() as connection:
        await connection.execute(_TOUCH, ["late", slow.id])
        await move(state, quick, Event.HOLD, epoch=epoch)
        rows, cursor = await state.changes_since(cursor)
        assert [row.id for row in rows] == [quick.id], "what is committed is seen while an older transaction runs"
    rows, cursor = await state.changes_since(cursor)
    assert {row.id: row.message for row in rows}[slow.id] == "late"
    rows, cursor = await state.changes_since(cursor)
    assert rows == []


async def test_an_open_transaction_in_another_database_delays_and_repeats_nothing(
    postgres: Postgres, state: StateManager, epoch: int
) -> None:
    cursor = await state.cursor()
    seen: list[str] = []
    with psycopg.connect(postgres.dsn) as elsewhere:
        elsewhere.execute("SELECT pg_current_xact_id()")
        rows = await state.take_in([intake() for _ in range(25)], epoch=epoch)
        for _ in range(3):
            page, cursor = await state.changes_since(cursor, limit=10)
            seen += [row.id for row in page]
        assert sorted(seen) == sorted(row.id for row in rows)
        assert not cursor.more
        page, cursor = await state.changes_since(cursor, limit=10)
        assert page == []
    assert (await state.changes_since(cursor))[0] == []


async def test_a_late_commit_is_read_in_pages_and_others_meanwhile(pool: Pool, state: StateManager, epoch: int) -> None:
    rows = await state.take_in([intake() for _ in range(25)], epoch=epoch)
    cursor = await state.cursor()
    async with pool.transaction() as connection:
        for row in rows:
            await connection.execute(_TOUCH, ["late", row.id])
        other = await arrive(state, epoch=epoch)
        page, cursor = await state.changes_since(cursor, limit=10)
        assert page == [other]
    seen: list[str] = []
    last = await arrive(state, epoch=epoch)
    for expected in (10, 10, 6):
        page, cursor = await state.changes_since(cursor, limit=10)
        assert (len(page), cursor.more) == (expected, expected == 10)
        seen += [row.id for row in page]
    assert sorted(seen) == sorted([*(row.id for row in rows), last.id])
    assert await state.changes_since(cursor) == ([], cursor)


async def test_the_age_of_an_open_transaction_of_anybody_is_measured(postgres: Postgres, state: StateManager) -> None:
    with psycopg.connect(postgres.dsn) as elsewhere:
        elsewhere.execute("SELECT pg_current_xact_id()")
        # Older transactions, such as autovacuum's, may end first.
        async with asyncio.timeout(60):
            while await state.measure_horizon() < 0.05:
                elsewhere.execute("SELECT pg_sleep(0.05)")


async def test_an_idle_database_repeats_nothing(state: StateManager, epoch: int) -> None:
    cursor = await state.cursor()
    row = await arrive(state, epoch=epoch)
    rows, cursor = await state.changes_since(cursor)
    assert rows == [row]
    assert await state.changes_since(cursor) == ([], cursor)


async def test_a_follower_has_the_final_state_in_any_order_of_commits(
    pool: Pool, state: StateManager, epoch: int
) -> None:
    rows = await state.take_in([intake() for _ in range(40)], epoch=epoch)
    cursor = await state.cursor()
    seen: dict[str, int] = {}
    writing = True

    async def write(rng: random.Random) -> None:
        for number in range(15):
            async with pool.transaction() as connection:
                for row in sorted(rng.sample(rows, 3), key=lambda row: row.id):
                    await connection.execute(_TOUCH, [str(number), row.id])
                    await asyncio.sleep(rng.random() * 0.01)

    async def follow() -> None:
        nonlocal cursor
        while writing:
            await look()
            await asyncio.sleep(0.005)

    async def look() -> None:
        nonlocal cursor
        changed, cursor = await state.changes_since(cursor, limit=7)
        seen.update({row.id: row.message for row in changed})  # type: ignore[misc]

    follower = asyncio.create_task(follow())
    await asyncio.gather(*(write(random.Random(seed)) for seed in range(6)))
    writing = False
    await follower
    for _ in range(20):
        await look()
    truth = {row.id: row.message for row in await state.get_workloads(row.id for row in rows) if row.message}
    assert seen == truth


async def test_a_backlog_comes_in_pages_even_when_one_transaction_wrote_it(state: StateManager, epoch: int) -> None:
    rows = await state.take_in([intake() for _ in range(25)], epoch=epoch)
    cursor, seen = Cursor(), []
    for expected in (10, 10, 5):
        page, cursor = await state.changes_since(cursor, limit=10)
        assert len(page) == expected
        seen += [row.id for row in page]
    assert sorted(seen) == sorted(row.id for row in rows)


async def test_a_cursor_beyond_the_horizon_belongs_to_another_database_and_starts_over(
    state: StateManager, epoch: int
) -> None:
    row = await arrive(state, epoch=epoch)
    rows, cursor = await state.changes_since(Cursor(xid=2**40))
    assert rows == [row]
    assert cursor.xid < 2**40


async def test_loading_in_chunks_is_complete_and_leaves_out_finished_workloads(state: StateManager, epoch: int) -> None:
    wanted = {}
    for phase in Phase:
        row = await arrive(state, epoch=epoch, phase=phase)
        if not phase.terminal:
            wanted[row.id] = row
    due = await arrive(state, epoch=epoch, phase=Phase.SUCCEEDED)
    await state.set_wake([due.id], 300.0, epoch=epoch)  # as earlier releases did

    loaded = [row async for row in state.get_active(chunk=2)]

    assert [row.id for row in loaded] == sorted(wanted)
    assert {row.id: row for row in loaded} == wanted


async def test_workloads_of_a_worker_are_those_bound_to_it(state: StateManager, epoch: int) -> None:
    scheduled, running, done = [
        await arrive(state, epoch=epoch, phase=phase) for phase in (Phase.SCHEDULED, Phase.RUNNING, Phase.SUCCEEDED)
    ]
    assert done.workers == ("w1",)
    group = await arrive(state, epoch=epoch, replicas=2)
    result = await state.update_workload_status_batch([change(group, Event.PLACE, workers=("w2", "w1"))], epoch=epoch)
    expected = sorted([scheduled.id, running.id, group.id])
    assert [row.id for row in await state.get_workloads_by_worker("w1")] == expected
    assert await state.get_workloads_by_worker("w2") == result.applied
    assert await state.get_workloads_by_worker("w3") == []
