"""Kubernetes Events on Workloads, written at a limited rate; excess Events are dropped and counted."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from prometheus_client import Counter

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import WORKLOADS
from niyanta.containment import Boundary, record
from niyanta.observability import log
from niyanta.scheduler.reasons import RowReason
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow

logger = log.get(__name__)

DROPPED = Counter("niyanta_events_dropped_total", "Kubernetes Events not written because of the rate limit or an error")

MOST_QUEUED_EVENTS = 200
"""Most Events that wait to be written; further ones are dropped."""

MOST_REMEMBERED_EVENTS = 20_000
"""Latest (workload, reason) pairs that are remembered."""

REPEAT_AFTER_SECONDS = 60.0
"""Least time between two Events with the reason Unschedulable on one workload."""


class EventRecorder:
    """Queue of Events with one writer task."""

    def __init__(self, client: ApiClient, clock: Clock, *, per_second: float) -> None:
        self._clock = clock
        self._client = client
        self._interval = 1.0 / per_second
        self._queue: deque[tuple[WorkloadRow, str, str, bool]] = deque()
        self._event = asyncio.Event()
        self._recorded: dict[tuple[str, str], float] = {}

    def record(self, row: WorkloadRow, *, reason: str, message: str, warning: bool) -> None:
        """Queue an Event; it is dropped if it repeats within a minute or if too many wait."""
        now = time.monotonic()
        key = (row.id, reason)
        recorded = self._recorded.get(key)
        if reason == RowReason.UNSCHEDULABLE and recorded is not None and now - recorded < REPEAT_AFTER_SECONDS:
            return
        if len(self._queue) >= MOST_QUEUED_EVENTS:
            DROPPED.inc()
            return
        self._recorded[key] = now
        while len(self._recorded) > MOST_REMEMBERED_EVENTS:
            self._recorded.pop(next(iter(self._recorded)))
        self._queue.append((row, reason, message, warning))
        self._event.set()

    async def run(self) -> None:
        """Write queued Events at the limited rate, until cancelled."""
        while True:
            await self._event.wait()
            self._event.clear()
            while self._queue:
                row, reason, message, warning = self._queue.popleft()
                try:
                    await self._write(row, reason, message, warning=warning)
                except ApiError as error:
                    DROPPED.inc()
                    logger.debug("an Event was not written", error=str(error))
                except Exception as error:
                    DROPPED.inc()
                    record(Boundary.STATUS, f"{row.namespace}/{row.name}", error)
                await asyncio.sleep(self._interval)

    async def _write(self, row: WorkloadRow, reason: str, message: str, *, warning: bool) -> None:
        at = self._clock.now()
        name, uid = row.object or (row.name, row.id)
        await self._client.create_event(
            row.namespace,
            regarding={
                "apiVersion": WORKLOADS.api_version,
                "kind": WORKLOADS.kind,
                "namespace": row.namespace,
                "name": name,
                "uid": uid,
            },
            name=f"{name}.{at:x}",
            reason=reason,
            note=message,
            action="Schedule",
            at=at,
            warning=warning,
        )
