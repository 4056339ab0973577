"""No value in a row makes the reads of other rows fail: Postgres refuses it, or it is read as something harmless."""

from __future__ import annotations

import psycopg
import pytest

from niyanta.lifecycle import Door
from niyanta.store.state import StateManager
from tests.store.make import intake

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
