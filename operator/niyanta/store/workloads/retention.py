"""Retention: rows of finished workloads are deleted after a time, in slices, together with their events and attempts.

`StateManager.get_expired` and `delete_expired` call it. Counters of finished workloads are totals of all times, so they
stay; answers to idempotency keys are kept for a day, so they end before their rows. A row whose object exists must not
be deleted: the object would be taken for new work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from niyanta.store.postgres.pool import Connection, Pool, fetch
from niyanta.store.postgres.queries import sql


@dataclass(frozen=True, slots=True)
class ExpiredRow:
    """A finished row whose retention is over. `object_uid`: of its Workload object, which may exist or not; None: none
    was made."""

    id: str
    finished_at: datetime
    object_uid: str | None


BEGINNING = ExpiredRow("00000000-0000-0000-0000-000000000000", datetime(1970, 1, 1, tzinfo=UTC), None)
"""Comes before every row."""


async def expired_rows(pool: Pool, *, days: int, after: ExpiredRow, limit: int) -> list[ExpiredRow]:
    """At most `limit` rows that ended more than `days` days ago and come after `after`, in the order of their ends."""
    page = {"days": days, "after_at": after.finished_at, "after_id": after.id, "limit": limit}
    return [ExpiredRow(id_, at, uid) for id_, at, uid in await pool.fetch("finished_rows", page)]


async def delete_rows(connection: Connection, ids: Sequence[str], *, days: int) -> int:
    """Delete those of the rows that are finished for more than `days` days and not locked; returns their number."""
    locked = await fetch(connection, "lock_finished_rows", {"ids": list(ids), "days": days})
    if not locked:
        return 0
    found = {"ids": [id_ for id_, _, _ in locked]}
    async with connection.pipeline():
        # A transaction's events have one time, its rows and attempts may be a little off it.
        since = min(created for _, created, _ in locked) - timedelta(hours=1)
        until = max(finished for _, _, finished in locked) + timedelta(hours=1)
        await connection.execute(sql("delete_events_of"), found | {"since": since, "until": until})
        await connection.execute(sql("delete_attempts_of"), found)
        await connection.execute(sql("delete_names_of"), found)
        await connection.execute(sql("delete_rows"), found)
    return len(locked)
