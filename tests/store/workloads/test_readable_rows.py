"""No value in a row makes the reads of other rows fail: Postgres refuses it, or it is read as something harmless."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from niyanta.containment import CONTAINED_ERRORS, Boundary
from niyanta.lifecycle import Door, Event, Phase
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager
from niyanta.store.workloads.limits import QUEUE_FULL
from tests.store.make import arrive, change, intake

pytestmark = pytest.mark.store

TIMES = ("queued_at", "created_at", "not_before", "wake_at", "paused_at", "scheduled_at", "started_at", "finished_at")
REFUSED = [
    *(("workload_state", f"{column} = '{moment}'") for column in TIMES for moment in ("infinity", "20000-01-01Z")),
    ("workload_state", "excluded = '[1]'"),
    ("workloads", "door = 'window'"),
    ("workloads", "created_at = '-infinity'"),
    ("workloads", "spec = 'null'"),
    ("workloads", "spec = '[]'"),
    ("workloads", "labels = '7'"),
]
HARMLESS = [
    ("workloads", "spec = (repeat('{\"a\":', 1100) || '1' || repeat('}', 1100))::jsonb"),
    ("workloads", "spec = '{\"priority\": 1e400}'"),
    ("workloads", 'labels = \'{"a": {"b": 1}}\''),
    ("workload_state", 'excluded = \'{"a": "b", "c": 7, "d": "2020-01-01"}\''),
    ("workload_state", "workers = ARRAY[NULL, '']"),
]


@pytest.mark.parametrize(("table", "change"), REFUSED)
async def test_a_value_that_cannot_be_read_is_refused(
    state: StateManager, dsn: str, epoch: int, table: str, change: str
) -> None:
    (row,) = await state.take_in([intake()], epoch=epoch)
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE {table} SET {change} WHERE id = '{row.id}'".encode())


@pytest.mark.parametrize(("table", "change"), HARMLESS)
async def test_a_strange_value_does_not_hide_other_rows(
    state: StateManager, dsn: str, epoch: int, table: str, change: str
) -> None:
    strange, other = await state.take_in([intake(), intake(name="other")], epoch=epoch)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"UPDATE {table} SET {change} WHERE id = '{strange.id}'".encode())
    found = {row.id: row async for row in state.get_active(pending_doors=(Door.KUBERNETES,))}
    assert found.keys() == {strange.id, other.id}
    assert found[other.id] == other
    assert found[strange.id].excluded == {}


# --- Rows that were stored before Postgres checked them --------------------------------------------------------------


@pytest.fixture
def unchecked(dsn: str) -> Iterator[str]:
    """The DSN of a database that doesn't check new rows, until the end of the test."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'workloads_readable'"
        ).fetchone()
        assert found is not None
        connection.execute("ALTER TABLE workloads DROP CONSTRAINT workloads_readable")
    yield dsn
    with psycopg.connect(dsn) as connection:
        connection.execute(f"ALTER TABLE workloads ADD CONSTRAINT workloads_readable {found[0]}".encode())


def spoil(dsn: str, row: WorkloadRow) -> None:
    """Make the row one that can't be mapped, as only a row of an older release can be."""
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE workloads SET door = 'window' WHERE id = %s", [row.id])


def left_out() -> float:
    return float(CONTAINED_ERRORS.labels(Boundary.ROW.value)._value.get())


async def test_an_unreadable_row_is_left_out_of_a_paged_reading(
    state: StateManager, unchecked: str, epoch: int
) -> None:
    rows = sorted(await state.take_in([intake(name=f"j{n}") for n in range(5)], epoch=epoch), key=lambda row: row.id)
    spoil(unchecked, rows[1])
    before = left_out()
    found = [row.id async for row in state.get_active(chunk=2)]
    assert found == [row.id for row in rows if row is not rows[1]]
    assert left_out() == before + 1
    assert len(await state.get_workloads([row.id for row in rows])) == 4
    assert len(await state.retier("acme", 77, epoch=epoch)) == 4


async def test_an_unreadable_row_is_passed_by_the_stream_of_changes(
    state: StateManager, unchecked: str, epoch: int
) -> None:
    cursor = await state.cursor()
    rows = sorted(await state.take_in([intake(name=f"j{n}") for n in range(4)], epoch=epoch), key=lambda row: row.id)
    spoil(unchecked, rows[1])
    found: list[str] = []
    for _ in range(4):
        page, cursor = await state.changes_since(cursor, limit=2)
        found += [row.id for row in page]
    assert found == [row.id for row in rows if row is not rows[1]]
    assert not cursor.more


async def test_an_unreadable_row_takes_no_place_among_held_and_released_rows(
    state: StateManager, unchecked: str, epoch: int
) -> None:
    first, *others = await state.take_in(
        [intake(door=Door.REST, name=f"j{n}", priority=90 - n) for n in range(3)], epoch=epoch
    )
    spoil(unchecked, first)
    held = await state.hold_rows("acme", "CustomerGone", "", epoch=epoch, limit=2)
    assert [row.id for row in held] == [row.id for row in others], "a full batch, so that the caller goes on"
    released = await state.release_rows("acme", epoch=epoch, limit=2)
    assert [row.id for row in released] == [row.id for row in others]


async def test_an_unreadable_row_takes_no_place_in_a_full_queue(
    state: StateManager, unchecked: str, epoch: int
) -> None:
    first, second = [await arrive(state, epoch=epoch, priority=priority) for priority in (90, 10)]
    changes = [change(row, Event.HOLD, reason=QUEUE_FULL) for row in (first, second)]
    await state.update_workload_status_batch(changes, epoch=epoch)
    spoil(unchecked, first)
    assert [(row.id, row.phase) for row in await state.release_held("acme", 1, epoch=epoch)] == [
        (second.id, Phase.PENDING)
    ]
