"""Writes the status of Workload objects from their rows: coalesced, after transitions only. A status is never read back
as authoritative. Namespaces take turns, so that one whose writes are slow or many doesn't delay the others."""

from __future__ import annotations

import asyncio
import heapq
import time
from dataclasses import replace
from datetime import datetime
from typing import Any

from prometheus_client import Counter

from niyanta.aio import jittered
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, WritesClosedError, error_kind
from niyanta.cluster.status.fair_writes import NO_ANSWER, FairWrites
from niyanta.containment import Boundary, contained, record
from niyanta.engine.queue import QueueSettings, effective_priority
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.scheduler.reasons import RowReason
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow, worker_names

logger = log.get(__name__)

PATCHES = Counter("niyanta_status_patches_total", "Status patches of Workloads written")

MOST_DEBOUNCES = 5
"""A status that keeps changing, or is Scheduled, is written after this many debounces."""

MOST_PATCHES = 16
"""Most concurrent patches; one namespace has at most half of them."""

MOST_FINAL_STATUSES = 50_000
"""Most statuses of finished workloads that wait to be written. Beyond it, the namespace with most of them loses its
oldest one. Statuses of other workloads take no memory of their own: the leader keeps their rows."""

BUSY_SECONDS = 0.05
"""Time until a status is considered again whose previous patch is still running."""

RETRY_SECONDS = 2.0
"""Longest pause before a failed patch is repeated."""


class WorkloadStatusWriter:
    """Keeps the newest row of each workload whose status is outdated, and writes the status when its debounce ends."""

    def __init__(self, client: ApiClient, clock: Clock, *, debounce: float, queue: QueueSettings) -> None:
        self._client = client
        self._clock = clock
        self._debounce = debounce
        self._queue_settings = queue
        self._rows: dict[str, WorkloadRow] = {}
        self._quiet: dict[str, tuple[float, float]] = {}
        """Workload -> (end of its debounce, latest end), monotonic seconds. Each transition restarts the debounce."""
        self._due: list[tuple[float, str]] = []
        self._queued: set[str] = set()
        """Workloads whose write waits for its turn."""
        self._busy: set[str] = set()
        self._final: dict[str, dict[str, None]] = {}
        """Namespace -> finished workloads whose status waits, in their order."""
        self._final_count = 0
        self._event = asyncio.Event()
        self._writes = FairWrites(self._write, concurrency=MOST_PATCHES)

    def write(self, row: WorkloadRow) -> None:
        """Write the status of this row's object soon. A final phase is written at once, other phases when the row
        hasn't changed for the debounce, so that a quick start takes one write."""
        if row.object is None:
            return
        now = time.monotonic()
        known = row.id in self._rows
        self._keep(row)
        if row.phase.terminal:
            self._quiet.pop(row.id, None)
            self._schedule(row.id, 0.0)
        elif not known or row.id in self._quiet:
            latest = self._quiet[row.id][1] if row.id in self._quiet else now + MOST_DEBOUNCES * self._debounce
            # Most pods start within seconds: Scheduled is written only for slow ones.
            wanted = latest if row.phase is Phase.SCHEDULED else min(now + self._debounce, latest)
            self._quiet[row.id] = (wanted, latest)
            self._schedule(row.id, wanted - now)

    def _keep(self, row: WorkloadRow) -> None:
        self._take(row.id)
        if not row.phase.terminal:
            self._rows[row.id] = row
            return
        self._rows[row.id] = replace(row, spec={})  # the leader forgets the row, and no status shows the spec
        ids = self._final.setdefault(row.namespace, {})
        ids[row.id] = None
        self._final_count += 1
        if self._final_count > MOST_FINAL_STATUSES:
            most = max(self._final.values(), key=len)
            oldest = next(iter(most))
            logger.warning("too many statuses wait; one is not written", workload=oldest)
            self._take(oldest)

    def _take(self, workload_id: str) -> WorkloadRow | None:
        """The newest row of a workload, which then no longer waits."""
        row = self._rows.pop(workload_id, None)
        if row is not None and row.phase.terminal:
            ids = self._final[row.namespace]
            del ids[workload_id]
            self._final_count -= 1
            if not ids:
                del self._final[row.namespace]
        return row

    def _schedule(self, workload_id: str, delay: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay, workload_id))
        self._event.set()

    async def run(self) -> None:
        """Write due statuses until cancelled."""
        try:
            while True:
                self._event.clear()
                pause: float | None = BUSY_SECONDS
                with contained(Boundary.STATUS, "statuses that are due"):
                    pause = self._start_due()
                try:
                    async with asyncio.timeout(pause):
                        await self._event.wait()
                except TimeoutError:
                    pass
        finally:
            self._writes.close()
            self._queued.clear()

    def _start_due(self) -> float | None:
        """Queue the patches that are due; returns the seconds until the next one (None if no status waits)."""
        while self._due:
            at, workload_id = self._due[0]
            pause = at - time.monotonic()
            if pause > 0:
                return pause
            heapq.heappop(self._due)
            wanted = self._quiet.get(workload_id, (0.0, 0.0))[0]
            if wanted > time.monotonic():
                self._schedule(workload_id, wanted - time.monotonic())
                continue
            row = self._rows.get(workload_id)
            if row is None or workload_id in self._queued:
                continue  # the write that is queued takes the newest row
            if workload_id in self._busy:
                self._schedule(workload_id, BUSY_SECONDS)
                return BUSY_SECONDS
            self._queued.add(workload_id)
            self._writes.put(row.namespace, row.customer, workload_id)
        return None

    async def _write(self, workload_id: str) -> bool | None:
        """Write the status of the newest row; returns as `FairWrites` wants it."""
        self._queued.discard(workload_id)
        self._quiet.pop(workload_id, None)
        row = self._take(workload_id)
        if row is None:
            return None
        self._busy.add(workload_id)
        try:
            body = status_of(row, self._queue_settings, now=self._clock.now())
            name, uid = row.object or (row.name, row.id)
            if await self._client.patch_workload_status(row.namespace, name, uid, {"status": body}):
                PATCHES.inc()
            return True
        except WritesClosedError:
            return None
        except ApiError as error:
            kind = error_kind(error)
            if kind in (ErrorKind.NOT_FOUND, ErrorKind.INVALID):
                logger.warning("a status was not written", workload=f"{row.namespace}/{row.name}", error=str(error))
                return True
            if row.id not in self._rows:
                self._keep(row)
            self._schedule(row.id, jittered(RETRY_SECONDS))
            return kind not in NO_ANSWER
        except Exception as error:  # the status of this row stays as it is until the row changes
            record(Boundary.STATUS, f"{row.namespace}/{row.name}", error)
            return None
        finally:
            self._busy.discard(row.id)


def status_of(row: WorkloadRow, queue: QueueSettings, *, now: int) -> dict[str, Any]:
    """The status of a row; fields that don't apply are null. `now` (microseconds of the database's clock) is the time
    for which effectivePriority is computed."""
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
    """The conditions Accepted, Scheduled and Finished, with transition times from the row."""
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
            reason=RowReason.PLACED if placed else row.reason,
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
