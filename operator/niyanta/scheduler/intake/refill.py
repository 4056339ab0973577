"""Refill: reads rows that other processes changed, and refills the queue from a large REST backlog in Postgres.

At most WINDOW_ROWS pending REST rows are in memory: the first of the queue, the first of each requirements class (so
that many workloads that fit nowhere don't hide the others) and the oldest. The rest stays in Postgres.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from niyanta.aio import in_slices
from niyanta.lifecycle import Door, Phase
from niyanta.observability import log
from niyanta.resources.models.base import InvalidManifestError
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.rows import Cursor, WorkloadRow
from niyanta.store.state import StateManager

logger = log.get(__name__)

WINDOW_ROWS = 20_000
"""Most pending REST rows in memory."""

REFILL_BELOW_ROWS = 5_000
"""Refill when fewer pending REST rows are in memory."""

FOLLOW_EVERY_SECONDS = 1.0
"""Time between two reads of changes without a hint (NOTIFY)."""

FOLLOW_AT_LEAST_SECONDS = 0.05
"""Least time between two reads of changes."""

REFILL_EVERY_SECONDS = 1.0
"""Least time between two refills, so that refills without new rows don't become a busy loop."""

REFILL_ROWS_PER_CLASS = 50
REFILL_OLDEST_ROWS = 500
CHANGES_PAGE_ROWS = 5000
SLICE_ROWS = 50
"""Rows handled before other tasks of the event loop run."""


class Refill:
    """Brings pending rows from Postgres into the leader's memory."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterReads,
        work_queue: WorkQueue,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._work_queue = work_queue
        self._transitions = transitions
        self._tick = tick
        self.more = True
        """Postgres may hold pending rows that aren't in memory."""
        self._cursor = Cursor()
        self._followed_at = 0.0
        self._refilled_at = 0.0
        self._after_class = ""
        """The requirements class after which the next refill starts; "": at the first."""

    def is_deep(self) -> bool:
        """True if Postgres may hold pending rows that aren't in memory, and memory holds too many for a refill."""
        return self.more and self._state.workloads.waiting_rest() >= REFILL_BELOW_ROWS

    async def begin(self) -> None:
        """Start reading changes from now on; called before the rows are loaded."""
        self._cursor = await self._store.cursor()

    async def follow(self) -> bool:
        """Apply rows that other processes changed, and refill. Returns True if the queue may have changed."""
        since = time.monotonic() - self._followed_at
        if since < FOLLOW_AT_LEAST_SECONDS or (since < FOLLOW_EVERY_SECONDS and not self._work_queue.take_hint()):
            return False
        self._followed_at = time.monotonic()
        news = False
        while True:
            rows, self._cursor = await self._store.changes_since(
                self._cursor, limit=CHANGES_PAGE_ROWS, not_by=self._state.epoch
            )
            async for part in in_slices(rows, SLICE_ROWS, tick=self._tick):
                for row in part:
                    news = self._changed(row) or news
            if len(rows) < CHANGES_PAGE_ROWS:
                break
        return await self._refill() or news

    def _changed(self, row: WorkloadRow) -> bool:
        tracked = self._state.workloads.get(row.id)
        if tracked is not None:
            if tracked.row.version >= row.version:
                return False
            self._transitions.follow(tracked, row)
            return True
        if row.phase is not Phase.PENDING or row.door is not Door.REST:
            return False
        if self._state.workloads.waiting_rest() >= WINDOW_ROWS:
            self.more = True
            return False
        return self._track(row)

    def _track(self, row: WorkloadRow) -> bool:
        try:
            spec, requirements, subject = object_to_row.read_row(row, self._cluster)
        except InvalidManifestError as refused:  # written by another release
            logger.error("a row can't be parsed; it is left unchanged", id=row.id, error=str(refused))
            return False
        if requirements is None:
            logger.error("a row's requirements don't compile; it is left unchanged", id=row.id)
            return False
        tracked = TrackedWorkload(row, spec, requirements, subject)
        self._state.workloads.put(tracked)
        self._transitions.settle(tracked)
        return True

    async def _refill(self) -> bool:
        now = time.monotonic()
        if (
            not self.more
            or now - self._refilled_at < REFILL_EVERY_SECONDS
            or self._state.workloads.waiting_rest() >= REFILL_BELOW_ROWS
        ):
            return False
        self._refilled_at = now
        rows = await self._store.get_pending_workloads(
            WINDOW_ROWS // 2, per_class=REFILL_ROWS_PER_CLASS, oldest=REFILL_OLDEST_ROWS, after_class=self._after_class
        )
        fresh = [row for row in rows if row.door is Door.REST and self._state.workloads.get(row.id) is None]
        async for part in in_slices(fresh, SLICE_ROWS, tick=self._tick):
            for row in part:
                self._track(row)
        # If no row of the page is new, rows of other classes may still follow it: the next refill starts behind it.
        self._after_class = max((row.class_id for row in rows), default="") if rows and not fresh else ""
        self.more = len(rows) >= WINDOW_ROWS // 2
        if fresh:
            logger.info("queue refilled", rows=len(fresh), more=self.more)
        return bool(fresh)
