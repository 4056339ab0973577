"""The stream of changed rows, in the order of their transactions, for followers such as the leader.

A cursor says which transactions' changes were read: all up to a position, except those that were in progress then. So
a transaction that stays open, in this or another database of the server, costs one number in the cursor: it delays
no change of another transaction, and nothing is read twice because of it. `StateManager` calls this module.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from niyanta.store.postgres.pool import Pool
from niyanta.store.row_mapping import record_id, workload_rows
from niyanta.store.rows import Cursor, WorkloadRow


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Ids of transactions: those below `end` have ended, except `running`; the others have not begun or not ended."""

    end: int
    running: frozenset[int]


async def _snapshot(pool: Pool) -> _Snapshot:
    ((end, running),) = await pool.fetch("change_snapshot")
    return _Snapshot(end, frozenset(running))


async def current_cursor(pool: Pool) -> Cursor:
    """The end of the stream: changes of all transactions that end from now on follow it."""
    snapshot = await _snapshot(pool)
    return Cursor(snapshot.end, missed=tuple(sorted(snapshot.running)))


async def changes_since(
    pool: Pool, cursor: Cursor, *, limit: int, not_by: int | None
) -> tuple[list[WorkloadRow], Cursor]:
    """At most `limit` rows that changed after `cursor`, and the next cursor; see `StateManager.changes_since`."""
    # Taken before the rows are read: a transaction that ends in between counts as running, and is read again.
    snapshot = await _snapshot(pool)
    # Transaction ids decrease only when the database was replaced (restore, failover to a lagging standby).
    start = cursor if cursor.xid <= snapshot.end else Cursor()
    late: list[tuple[Any, ...]] = []
    if ended := [xid for xid in start.missed if xid not in snapshot.running]:
        xid, id_ = start.late
        params = {"ended": list(map(str, ended)), "xid": str(xid), "id": id_, "limit": limit, "not_by": not_by}
        late = await pool.fetch("changes_late", params)
        if len(late) == limit:
            xid = late[-1][-1]
            unread = tuple(missed for missed in start.missed if missed in snapshot.running or missed >= xid)
            return workload_rows(late), Cursor(start.xid, start.id, unread, (xid, record_id(late[-1])), more=True)
    room = limit - len(late)
    params = {"xid": str(start.xid), "id": start.id, "end": str(snapshot.end), "limit": room, "not_by": not_by}
    window = await pool.fetch("changes_window", params)
    more = len(window) == room
    to_xid, to_id = (window[-1][-1], record_id(window[-1])) if more else (snapshot.end, Cursor().id)
    passed = {xid for xid in snapshot.running if xid <= to_xid}
    missed = tuple(sorted(passed.intersection(start.missed) | {xid for xid in passed if xid >= start.xid}))
    # A row may be in both parts when it changed between the two statements; the later one is newer.
    found = {row.id: row for row in workload_rows((*late, *window))}
    return list(found.values()), Cursor(to_xid, to_id, missed, more=more)


class HorizonWatch:
    """Measures the age of the oldest open transaction on the server, which keeps dead rows of all databases.

    Transactions of other roles show their start only to `pg_read_all_stats`; without that right, the age is the time
    for which the oldest transaction id in progress was seen not to change.
    """

    def __init__(self) -> None:
        self._oldest = 0
        self._since = 0.0

    async def measure(self, pool: Pool) -> float:
        """The age in seconds; 0 when no transaction is open. Raises StoreUnavailableError."""
        ((oldest, end, reported),) = await pool.fetch("horizon_age")
        now = time.monotonic()
        if oldest != self._oldest:
            self._oldest, self._since = oldest, now
        return max(reported or 0.0, now - self._since if oldest < end else 0.0)
