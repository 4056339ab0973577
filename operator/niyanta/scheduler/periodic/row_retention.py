"""Retention of finished rows: the leader deletes them from Postgres some days after their end, a slice at a time.

A row whose object still exists is passed over, because the object would be taken for new work without it; `expiry` may
delete the object later. `maintenance` calls it, in the leader's loop, so that no row is taken in meanwhile.
"""

from __future__ import annotations

import time

from prometheus_client import Counter

from niyanta.observability import log
from niyanta.scheduler.state import SchedulerState
from niyanta.store.state import StateManager
from niyanta.store.workloads.retention import BEGINNING

logger = log.get(__name__)

SLICE_ROWS = 200
"""Most rows deleted in one transaction."""

PASS_EVERY_SECONDS = 600.0
"""Time from the end of one pass over the rows to the beginning of the next."""

ROWS_DELETED = Counter(
    "niyanta_finished_rows_deleted_total", "Rows of finished workloads that were deleted at the end of their retention"
)


class RowRetention:
    """The deletions of one leadership."""

    def __init__(self, state: SchedulerState, *, store: StateManager) -> None:
        self._state = state
        self._store = store
        self._days = state.settings.finished_row_retention_days
        self._after = BEGINNING
        self._deleted = 0
        self._next_pass = 0.0

    async def run(self) -> None:
        """Delete the next slice, or nothing between two passes. Needs a finished recovery: until then, not all objects
        that exist are known."""
        if time.monotonic() < self._next_pass:
            return
        page = await self._store.get_expired(days=self._days, after=self._after, limit=SLICE_ROWS)
        finished, live = self._state.finished_objects, self._state.workloads
        ids = [row.id for row in page if row.object_uid not in finished and row.id not in live]
        if ids:
            deleted = await self._store.delete_expired(ids, days=self._days, epoch=self._state.epoch)
            ROWS_DELETED.inc(deleted)
            self._deleted += deleted
        if len(page) == SLICE_ROWS:
            self._after = page[-1]
            return
        if self._deleted:
            logger.info("rows of finished workloads were deleted", rows=self._deleted, days=self._days)
        self._after, self._deleted = BEGINNING, 0
        self._next_pass = time.monotonic() + PASS_EVERY_SECONDS
