"""Follows the rows that other processes changed: submissions and requests by REST.

New rows come without their specs. Of those, the backlog chooses which are read into memory at once; the others stay in
Postgres, and `loader` reads them when their turn comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from niyanta.aio import in_slices
from niyanta.containment import SharedFaultError
from niyanta.lifecycle import Door, Phase
from niyanta.scheduler.backlog.row_reader import SLICE_ROWS, RowReader
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.rows import Cursor, WorkloadRow
from niyanta.store.state import StateManager

FOLLOW_EVERY_SECONDS = 1.0
"""Time between two reads of changes without a hint (NOTIFY)."""

FOLLOW_AT_LEAST_SECONDS = 0.05
"""Least time between two reads of changes."""

CHANGES_PAGE_ROWS = 1000
PAGES_PER_ROUND = 4
"""Pages of changes in one round of the leader."""


class RowChanges:
    """Reads the stream of changes. A round reads a bounded part of it."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        work_queue: WorkQueue,
        transitions: Transitions,
        reader: RowReader,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._work_queue = work_queue
        self._transitions = transitions
        self._reader = reader
        self._tick = tick
        self._cursor = Cursor()
        self._followed_at = 0.0
        self._arrived: dict[str, None] = {}
        """Rows that are to be read into memory."""
        self.unclassed = True
        """Postgres may have rows without a queue class."""

    async def begin(self) -> None:
        """Start reading changes from now on; called before the rows are loaded."""
        self._cursor = await self._store.cursor()

    async def follow(self) -> bool:
        """Apply the next changes, if it is time. Returns True if the queue may have changed."""
        since = time.monotonic() - self._followed_at
        is_behind = self._cursor.more or bool(self._arrived)
        if since < FOLLOW_AT_LEAST_SECONDS or (
            since < FOLLOW_EVERY_SECONDS and not is_behind and not self._work_queue.take_hint()
        ):
            return False
        self._followed_at = time.monotonic()
        news = False
        for _ in range(PAGES_PER_ROUND):
            rows, self._cursor = await self._store.changes_since(
                self._cursor, limit=CHANGES_PAGE_ROWS, not_by=self._state.epoch
            )
            rows.sort(key=lambda row: -row.queue_key)  # the first of each class are let in
            async for part in in_slices(rows, SLICE_ROWS, tick=self._tick):
                for row in part:
                    news = self._reader.contained(row, self._changed) or news
            news = await self._load_arrived() or news
            if not self._cursor.more:
                break
        if self._cursor.more:
            self._work_queue.wake()
        return news

    async def _load_arrived(self) -> bool:
        arrived, self._arrived = self._arrived, {}
        try:
            return await self._reader.load(list(arrived))
        except SharedFaultError:
            self._arrived = arrived
            raise

    def _changed(self, row: WorkloadRow) -> bool:
        workloads = self._state.workloads
        tracked = workloads.get(row.id)
        if row.phase is Phase.PENDING and not row.queue_class:
            self.unclassed = True
        if tracked is not None:
            return self._follow(row)
        if row.phase is Phase.CANCELLED and row.object_uid not in self._state.finished_objects:
            # By REST, while it was suspended after a placement. Its own time to live, which wasn't read, counts from
            # the next leader on.
            self._state.finished_objects.note_row(row, None)
        if row.phase is not Phase.PENDING or row.door is not Door.REST:
            return False
        if self._state.backlog.hear(row, workloads.has_room):
            self._arrived[row.id] = None
        return False

    def _follow(self, row: WorkloadRow) -> bool:
        workloads = self._state.workloads
        tracked = workloads.get(row.id)
        if tracked is None or tracked.row.version > row.version:
            return False
        if tracked.row.version == row.version:
            if tracked.row.queue_class != row.queue_class:
                tracked.row = replace(tracked.row, queue_class=row.queue_class)
                workloads.note_phase(tracked)
            return False
        replaced = row.door is Door.REST and row.generation != tracked.row.generation
        self._transitions.follow(tracked, row)
        if replaced and row.phase is Phase.PENDING and not tracked.applying:
            workloads.drop(row.id)  # its spec is read, compiled and checked anew
            self._arrived[row.id] = None
        return True
