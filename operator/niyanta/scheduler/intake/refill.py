"""The leader's window on what the REST door took in: changes by other writers, and refills from a huge backlog.

Pending REST rows are held in memory only up to WINDOW: the top of the queue, the top of each requirements class (so
that a wall of work that fits nowhere hides nothing) and the oldest. All else stays in Postgres.
"""

from __future__ import annotations

import asyncio
import time

from niyanta.lifecycle import Door, Phase
from niyanta.observability import log
from niyanta.resources.models.base import InvalidManifestError
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.session import Session
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.rows import Cursor, WorkloadRow

logger = log.get(__name__)

WINDOW = 20_000
"""Most pending REST rows in memory."""

LOW = 5_000
"""Fewer than this, and the window is filled again."""

FOLLOW_EVERY = 1.0
"""Seconds between two looks for changes without a hint (NOTIFY) that there are some."""

FOLLOW_AT_MOST = 0.05
REFILL_EVERY = 1.0
"""Least seconds between two refills: one that brings nothing new must not become a busy loop."""

PER_CLASS = 50
OLDEST = 500
PAGE = 5000
SLICE = 50


class Refill:
    """Feeds one session from Postgres."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.more = True
        """Postgres may hold pending rows that aren't in memory."""
        self._cursor = Cursor()
        self._followed_at = 0.0
        self._refilled_at = 0.0
        self._after_class = ""

    def is_deep(self) -> bool:
        """Whether Postgres holds more waiting work than memory does, and no refill is about to change that."""
        return self.more and self.session.mirror.waiting_rest() >= LOW

    async def begin(self) -> None:
        """Before the rows are loaded: changes count from here."""
        self._cursor = await self.session.state.cursor()

    async def follow(self) -> bool:
        """Take what others changed, and refill. Returns whether something new is in the queue."""
        since = time.monotonic() - self._followed_at
        if since < FOLLOW_AT_MOST or (since < FOLLOW_EVERY and not self.session.inbox.take_hint()):
            return False
        self._followed_at = time.monotonic()
        news = False
        while True:
            rows, self._cursor = await self.session.state.changes_since(
                self._cursor, limit=PAGE, not_by=self.session.epoch
            )
            for count, row in enumerate(rows):
                if count % SLICE == 0:
                    self.session.tick()
                    await asyncio.sleep(0)
                news = self._changed(row) or news
            if len(rows) < PAGE:
                break
        return await self._refill() or news

    def _changed(self, row: WorkloadRow) -> bool:
        session = self.session
        tracked = session.mirror.get(row.id)
        if tracked is not None:
            if tracked.row.version >= row.version:
                return False
            session.follow(tracked, row)
            return True
        if row.phase is not Phase.PENDING or row.door is not Door.REST:
            return False
        if session.mirror.waiting_rest() >= WINDOW:
            self.more = True
            return False
        return self._track(row)

    def _track(self, row: WorkloadRow) -> bool:
        session = self.session
        try:
            spec, requirements, subject = object_to_row.read_row(row, session.cluster)
        except InvalidManifestError as refused:  # written by another release
            logger.error("a row can't be read and is left as it is", id=row.id, error=str(refused))
            return False
        if requirements is None:
            logger.error("a row's requirements don't compile; it is left as it is", id=row.id)
            return False
        tracked = TrackedWorkload(row, spec, requirements, subject)
        session.mirror.put(tracked)
        session.settle(tracked)
        return True

    async def _refill(self) -> bool:
        session = self.session
        now = time.monotonic()
        if not self.more or now - self._refilled_at < REFILL_EVERY or session.mirror.waiting_rest() >= LOW:
            return False
        self._refilled_at = now
        rows = await session.state.get_pending_workloads(
            WINDOW // 2, per_class=PER_CLASS, oldest=OLDEST, after_class=self._after_class
        )
        fresh = [row for row in rows if row.door is Door.REST and session.mirror.get(row.id) is None]
        for count, row in enumerate(fresh):
            if count % SLICE == 0:
                session.tick()
                await asyncio.sleep(0)
            self._track(row)
        # A full page of nothing new can still hide other classes behind it: look at those next.
        self._after_class = max((row.class_id for row in rows), default="") if rows and not fresh else ""
        self.more = len(rows) >= WINDOW // 2
        if fresh:
            logger.info("queue refilled", rows=len(fresh), more=self.more)
        return bool(fresh)
