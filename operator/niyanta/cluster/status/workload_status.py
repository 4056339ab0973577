"""Row -> status of the Workload object: coalesced, on transitions only, never read back as truth."""

from __future__ import annotations

import asyncio
import heapq
import time
from datetime import datetime
from typing import Any

from prometheus_client import Counter

from niyanta.aio import jittered
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, WritesClosedError, error_kind
from niyanta.engine.queue import QueueSettings, effective_priority
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow, worker_names

logger = log.get(__name__)

PATCHES = Counter("niyanta_status_patches_total", "Status patches of Workloads written")

MOST_DEBOUNCES = 5
"""A status that goes on moving, or is Scheduled, is written after so many debounces."""

MOST_PATCHES = 16
"""Most patches under way."""


RETRY_SECONDS = 2.0
"""Longest pause before a status that was not written is written again."""


class WorkloadStatusWriter:
    """Keeps the newest row of each workload that is behind, and writes it once its time has come."""

    def __init__(self, client: ApiClient, clock: Clock, *, debounce: float, queue: QueueSettings) -> None:
        self._client = client
        self._clock = clock
        self._debounce = debounce
        self._queue_settings = queue
        self._rows: dict[str, WorkloadRow] = {}
        self._quiet: dict[str, tuple[float, float]] = {}
        """When the debounce of a row ends, and when it ends at the latest: each new transition starts it anew."""
        self._due: list[tuple[float, str]] = []
        self._busy: set[str] = set()
        self._event = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def behind(self) -> int:
        """Number of statuses that are yet to be written."""
        return len(self._rows) + len(self._busy)

    def project(self, row: WorkloadRow) -> None:
        """The status of this row's object is to follow. A final phase is written at once, others once nothing has moved
        for the debounce: from queued to running is one write."""
        if row.object is None:
            return
        now = time.monotonic()
        known = row.id in self._rows
        self._rows[row.id] = row
        if row.phase.terminal:
            self._quiet.pop(row.id, None)
            self._schedule(row.id, 0.0)
        elif not known or row.id in self._quiet:
            latest = self._quiet[row.id][1] if row.id in self._quiet else now + MOST_DEBOUNCES * self._debounce
            # Most pods start within seconds: Scheduled is written for those that don't.
            wanted = latest if row.phase is Phase.SCHEDULED else min(now + self._debounce, latest)
            self._quiet[row.id] = (wanted, latest)
            self._schedule(row.id, wanted - now)

    def _schedule(self, workload_id: str, delay: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay, workload_id))
        self._event.set()

    async def run(self) -> None:
        """Write what is due until cancelled."""
        try:
            while True:
                self._event.clear()
                pause = self._start_due()
                try:
                    async with asyncio.timeout(pause):
                        await self._event.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._tasks:
                task.cancel()

    def _start_due(self) -> float | None:
        """Start patches that are due; returns how long until the next one is (None: none waits)."""
        while self._due and len(self._tasks) < MOST_PATCHES:
            at, workload_id = self._due[0]
            pause = at - time.monotonic()
            if pause > 0:
                return pause
            heapq.heappop(self._due)
            wanted = self._quiet.get(workload_id, (0.0, 0.0))[0]
            if wanted > time.monotonic():
                self._schedule(workload_id, wanted - time.monotonic())
                continue
            if workload_id in self._busy:
                self._schedule(workload_id, 0.05)
                return 0.05
            self._quiet.pop(workload_id, None)
            row = self._rows.pop(workload_id, None)
            if row is None:
                continue
            self._busy.add(workload_id)
            task = asyncio.create_task(self._write(row), name=f"project {row.name}")
            self._tasks.add(task)
            task.add_done_callback(self._finished)
        return None

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._event.set()

    async def _write(self, row: WorkloadRow) -> None:
        try:
            body = status_of(row, self._queue_settings, now=self._clock.now())
            name, uid = row.object or (row.name, row.id)
            if await self._client.patch_workload_status(row.namespace, name, uid, {"status": body}):
                PATCHES.inc()
        except WritesClosedError:
            return
        except ApiError as error:
            if error_kind(error) in (ErrorKind.NOT_FOUND, ErrorKind.INVALID):
                logger.warning("a status was not written", workload=f"{row.namespace}/{row.name}", error=str(error))
                return
            self._rows.setdefault(row.id, row)
            self._schedule(row.id, jittered(RETRY_SECONDS))
        finally:
            self._busy.discard(row.id)


def status_of(row: WorkloadRow, queue: QueueSettings, *, now: int) -> dict[str, Any]:
    """The status as a merge patch: fields that don't apply (any more) are null, which removes them.

    `now` is microseconds of the database's clock; effectivePriority is as of then.
    """
    return {
        "observedGeneration": row.generation,
        "phase": row.phase.value,
        "customer": row.customer or None,
        "workers": list(row.workers) or None,
        "pool": row.pool or None,
        "score": None if row.score is None else round(row.score, 1),
        "effectivePriority": int(
            effective_priority(row.priority, row.tier_weight, queued_at=row.queued_at_us, now=now, settings=queue)
        ),
        "attempts": row.attempt,
        "queuedAt": _stamp(row.queued_at_us / 1e6),
        "scheduledAt": _time(row.scheduled_at),
        "startedAt": _time(row.started_at),
        "finishedAt": _time(row.finished_at),
        "reason": row.reason or None,
        "message": row.message[:1024] or None,
        "conditions": conditions_of(row, now=now),
    }


def conditions_of(row: WorkloadRow, *, now: int) -> list[dict[str, Any]]:
    """Accepted, Scheduled and Finished, with the row's own times of transition."""
    phase = row.phase
    began = _time(row.created_at) or _stamp(now / 1e6)
    accepted = phase is not Phase.HELD and not (phase is Phase.FAILED and row.attempt == 0)
    placed = phase.bound or (phase.terminal and row.attempt > 0)
    finished = phase.terminal
    scheduled_at = _time(row.scheduled_at) or began
    return [
        _condition(
            row,
            "Accepted",
            holds=accepted,
            at=began,
            reason="Accepted" if accepted else row.reason,
            message="" if accepted else row.message,
        ),
        _condition(
            row,
            "Scheduled",
            holds=placed,
            at=scheduled_at,
            reason="Placed" if placed else row.reason,
            message=f"on {worker_names(row.workers)}" if placed else row.message,
        ),
        _condition(
            row,
            "Finished",
            holds=finished,
            at=_time(row.finished_at) or began,
            reason=row.reason if finished else phase.value,
            message=row.message if finished else "",
        ),
    ]


def _condition(row: WorkloadRow, kind: str, *, holds: bool, at: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "observedGeneration": row.generation,
        "lastTransitionTime": at,
        "reason": reason or row.phase.value,
        "message": message[:1024],
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else _stamp(at.timestamp())


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
