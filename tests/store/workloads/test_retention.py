"""Retention: finished rows are deleted with everything that belongs to them, and nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import psycopg
import pytest

from niyanta.lifecycle import Door, Phase
from niyanta.settings import Settings
from niyanta.store.errors import StaleEpochError
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager
from niyanta.store.workloads.retention import BEGINNING, ExpiredRow
from testing.processes.postgres import Postgres
from tests.store.make import arrive, check_plans, crowded

pytestmark = pytest.mark.store

DAYS = 30


@pytest.fixture
async def sql(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A connection for the test's own statements."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection


async def age(sql: psycopg.AsyncConnection[tuple[object, ...]], row: WorkloadRow, *, days: float) -> None:
    """Let a row have ended so many days ago, with all its events."""
    await sql.execute(
        "UPDATE workload_state SET finished_at = finished_at - %(by)s, created_at = created_at - %(by)s"
        " WHERE id = %(id)s",
        {"by": timedelta(days=days), "id": row.id},
    )
    await sql.execute(
        "UPDATE workload_events SET at = at - %(by)s WHERE workload_id = %(id)s",
        {"by": timedelta(days=days), "id": row.id},
    )


async def expired(state: StateManager, *, days: int = DAYS, after: ExpiredRow = BEGINNING) -> list[str]:
    return [row.id for row in await state.get_expired(days=days, after=after, limit=100)]


async def leftovers(sql: psycopg.AsyncConnection[tuple[object, ...]], id_: str) -> dict[str, object]:
    """Rows of each table that belong to a workload."""
    tables = {"workloads": "id", "workload_state": "id", "workload_events": "workload_id", "attempts": "workload_id"}
    found = {}
    for table, column in {**tables, "rest_names": "id"}.items():
        cursor = await sql.execute(f"SELECT count(*) FROM {table} WHERE {column} = %s".encode(), [id_])
        found[table] = (await cursor.fetchone() or (0,))[0]
    return {table: count for table, count in found.items() if count}


async def test_a_finished_row_goes_with_its_history_after_its_retention(
    state: StateManager, epoch: int, sql: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    old = await arrive(state, epoch=epoch, phase=Phase.SUCCEEDED)
    young = await arrive(state, epoch=epoch, phase=Phase.SUCCEEDED)
    running = await arrive(state, epoch=epoch, phase=Phase.RUNNING)
    await age(sql, old, days=DAYS + 0.01)
    await age(sql, young, days=DAYS - 0.01)
    assert await expired(state) == [old.id]
    every = [old.id, young.id, running.id]
    assert await state.delete_expired(every, days=DAYS, epoch=epoch) == 1
    assert await leftovers(sql, old.id) == {}
    assert set(await leftovers(sql, young.id)) == {"workloads", "workload_state", "workload_events", "attempts"}
    assert {row.id for row in await state.get_workloads(every)} == {young.id, running.id}
    assert await state.delete_expired(every, days=DAYS, epoch=epoch) == 0


async def test_totals_of_finished_workloads_stay(
    state: StateManager, epoch: int, sql: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    old = await arrive(state, epoch=epoch, phase=Phase.FAILED)
    await arrive(state, epoch=epoch)
    await age(sql, old, days=2)
    await state.delete_expired([old.id], days=1, epoch=epoch)
    cursor = await sql.execute("SELECT sum(failed)::int, sum(pending)::int FROM queue_counters")
    assert await cursor.fetchone() == (1, 1)
    assert await state.wrong_counters(rows_deleted=True) == []


async def test_counters_below_the_rows_are_wrong_even_after_deletions(
    state: StateManager, epoch: int, sql: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    await arrive(state, epoch=epoch, phase=Phase.FAILED)
    await sql.execute("UPDATE queue_counters SET failed = failed - 1")
    assert len(await state.wrong_counters(rows_deleted=True)) == 1


async def test_a_name_that_stayed_behind_is_free_again(
    state: StateManager, epoch: int, sql: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    old = await arrive(state, epoch=epoch, phase=Phase.CANCELLED, door=Door.REST)
    await sql.execute(
        "INSERT INTO rest_names (customer_id, name, id) VALUES (%s, %s, %s)", [old.customer, old.name, old.id]
    )
    await age(sql, old, days=DAYS + 1)
    await state.delete_expired([old.id], days=DAYS, epoch=epoch)
    assert await leftovers(sql, old.id) == {}


async def test_rows_that_others_have_locked_are_left_to_the_next_pass(
    state: StateManager, epoch: int, sql: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    rows = [await arrive(state, epoch=epoch, phase=Phase.CANCELLED) for _ in range(2)]
    for row in rows:
        await age(sql, row, days=DAYS + 1)
    ids = [row.id for row in rows]
    async with sql.transaction():
        await sql.execute("SELECT 1 FROM workload_state WHERE id = %s FOR NO KEY UPDATE", [ids[0]])
        assert await state.delete_expired(ids, days=DAYS, epoch=epoch) == 1
    assert await expired(state) == [ids[0]]


async def test_only_the_leader_deletes(state: StateManager, epoch: int) -> None:
    with pytest.raises(StaleEpochError):
        await state.delete_expired(["00000000-0000-0000-0000-000000000001"], days=DAYS, epoch=epoch + 1)


async def test_pages_follow_the_order_of_the_ends_and_name_the_objects(
    state: StateManager, epoch: int, sql: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    kubernetes = await arrive(state, epoch=epoch, phase=Phase.CANCELLED)
    without = await arrive(state, epoch=epoch, phase=Phase.CANCELLED, door=Door.REST)
    rest = await arrive(state, epoch=epoch, phase=Phase.SUCCEEDED, door=Door.REST)
    await state.set_object(rest.id, uid="object-uid", name="job-1", epoch=epoch)
    for days, row in ((33, rest), (32, kubernetes), (31, without)):
        await age(sql, row, days=days)
    first = await state.get_expired(days=DAYS, after=BEGINNING, limit=2)
    assert [(row.id, row.object_uid) for row in first] == [(rest.id, "object-uid"), (kubernetes.id, kubernetes.id)]
    (last,) = await state.get_expired(days=DAYS, after=first[-1], limit=2)
    assert (last.id, last.object_uid) == (without.id, None)


_FILL = """
INSERT INTO workloads (id, door, namespace, name, customer_id, generation, spec, class_id, replicas, created_at)
SELECT gen_random_uuid(), 'rest', 'n', 'w' || n, 'c' || n % 50, 1, '{}', 'class-' || n % 40, 1,
       now() - n * interval '2 minutes'
  FROM generate_series(1, 50000) n;
INSERT INTO workload_state (id, door, customer_id, class_id, status, priority, tier_weight, queue_key, queued_at,
                            created_at, finished_at, attempt)
SELECT id, door, customer_id, class_id, 'SUCCEEDED', 10, 10, 0, created_at, created_at, created_at, 1 FROM workloads;
INSERT INTO attempts (workload_id, attempt, workers) SELECT id, 1, '{w1}' FROM workloads;
INSERT INTO workload_events (workload_id, at, event, to_phase)
SELECT id, created_at, 'Accepted', 'PENDING' FROM workloads;
"""


def _fill(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(_FILL)
        connection.execute("VACUUM ANALYZE workloads, workload_state, attempts, workload_events")


@pytest.fixture(scope="module")
def many_dsn(postgres: Postgres) -> Iterator[str]:
    with crowded(postgres, "retention", _fill) as dsn:
        yield dsn


@pytest.fixture
async def many(many_dsn: str) -> AsyncIterator[Pool]:
    async with await open_pool(Settings(dsn=many_dsn, db_pool_min=1)) as pool:
        yield pool


async def test_with_fifty_thousand_rows_a_slice_follows_indexes(many: Pool) -> None:
    state = StateManager(many, Settings())
    page = await state.get_expired(days=DAYS, after=BEGINNING, limit=200)
    ids = {"ids": [row.id for row in page]}
    first = {"days": DAYS, "after_at": BEGINNING.finished_at, "after_id": BEGINNING.id, "limit": 200}
    day = {"since": page[0].finished_at, "until": page[-1].finished_at}
    await check_plans(
        many,
        [
            ("finished_rows", first, ["workload_state_finished", "workloads_pkey"]),
            ("lock_finished_rows", ids | {"days": DAYS}, ["Index Scan"]),
            ("delete_events_of", ids | day, ["workload_id"]),
            ("delete_attempts_of", ids, ["attempts_pkey"]),
            ("delete_names_of", ids, []),
            ("delete_rows", ids, ["workloads_pkey"]),
        ],
    )


async def test_fifty_thousand_rows_are_deleted_down_to_the_retention(many: Pool) -> None:
    state = StateManager(many, Settings())
    while page := await state.get_expired(days=DAYS, after=BEGINNING, limit=2_000):
        await state.delete_expired([row.id for row in page], days=DAYS, epoch=None)
    async with many.connection() as connection:
        cursor = await connection.execute(
            b"SELECT (SELECT count(*) FROM workload_state), (SELECT count(*) FROM workloads),"
            b" (SELECT count(*) FROM attempts), (SELECT count(*) FROM workload_events)"
        )
        states, *others = await cursor.fetchone() or (0,)
    assert abs(states - DAYS * 24 * 30) <= 1
    assert others == [states] * 3
