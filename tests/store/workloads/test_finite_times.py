"""Times that no client can represent can't be stored, so no row makes the reads of others fail."""

from __future__ import annotations

import psycopg
import pytest

from niyanta.lifecycle import Door
from niyanta.store.state import StateManager
from tests.store.make import intake

pytestmark = pytest.mark.store

COLUMNS = ("queued_at", "created_at", "not_before", "wake_at", "paused_at", "scheduled_at", "started_at", "finished_at")


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01Z"])
@pytest.mark.parametrize("column", COLUMNS)
async def test_a_time_out_of_range_is_refused(
    state: StateManager, dsn: str, epoch: int, column: str, moment: str
) -> None:
    (row,) = await state.take_in([intake()], epoch=epoch)
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            f"UPDATE workload_state SET {column} = %s::timestamptz WHERE id = %s".encode(), (moment, row.id)
        )
    assert [found.id async for found in state.get_active(pending_doors=(Door.KUBERNETES,))] == [row.id]
