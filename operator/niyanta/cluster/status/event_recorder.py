"""Kubernetes Events on Workloads, written at a limited rate; excess Events are dropped and counted. Namespaces take
turns, and the one with most waiting Events loses its newest."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from prometheus_client import Counter

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, WritesClosedError, error_kind
from niyanta.cluster.api.kinds import WORKLOADS
from niyanta.cluster.status.fair_writes import NO_ANSWER, FairWrites
from niyanta.containment import Boundary, record
from niyanta.observability import log
from niyanta.scheduler.reasons import RowReason
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow

logger = log.get(__name__)

DROPPED = Counter("niyanta_events_dropped_total", "Kubernetes Events not written because of the rate limit or an error")

MOST_QUEUED_EVENTS = 1000
"""Most Events that wait to be written."""

MOST_MESSAGE_LENGTH = 1024
"""Characters of a message that are kept, as many as an Event may have."""

CONCURRENCY = 8
"""Most Events under way; one namespace has at most half of them."""

MOST_REMEMBERED_EVENTS = 20_000
"""Latest (workload, reason) pairs that are remembered."""

REPEAT_AFTER_SECONDS = 60.0
"""Least time between two Events with the reason Unschedulable on one workload."""


@dataclass(frozen=True, slots=True)
class _QueuedEvent:
    namespace: str
    name: str
    uid: str
    reason: str
    message: str
    warning: bool


class EventRecorder:
    """Queues of Events, one for each namespace."""

    def __init__(self, client: ApiClient, clock: Clock, *, per_second: float) -> None:
        self._clock = clock
        self._client = client
        self._interval = 1.0 / per_second
        self._pace = asyncio.Lock()
        self._running = asyncio.Event()
        self._writes = FairWrites(
            self._write, concurrency=CONCURRENCY, most_waiting=MOST_QUEUED_EVENTS, dropped=lambda _: DROPPED.inc()
        )
        self._recorded: dict[tuple[str, str], float] = {}

    def record(self, row: WorkloadRow, *, reason: str, message: str, warning: bool) -> None:
        """Queue an Event; it is dropped if it repeats within a minute or if too many wait."""
        now = time.monotonic()
        key = (row.id, reason)
        recorded = self._recorded.get(key)
        if reason == RowReason.UNSCHEDULABLE and recorded is not None and now - recorded < REPEAT_AFTER_SECONDS:
            return
        self._recorded[key] = now
        while len(self._recorded) > MOST_REMEMBERED_EVENTS:
            self._recorded.pop(next(iter(self._recorded)))
        name, uid = row.object or (row.name, row.id)
        event = _QueuedEvent(row.namespace, name, uid, reason, message[:MOST_MESSAGE_LENGTH], warning)
        self._writes.put(row.namespace, row.customer, event)

    async def run(self) -> None:
        """Write queued Events at the limited rate, until cancelled."""
        self._running.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._running.clear()
            self._writes.close()

    async def _write(self, event: _QueuedEvent) -> bool | None:
        """Write one Event in its turn; returns as `FairWrites` wants it."""
        await self._running.wait()
        async with self._pace:
            await asyncio.sleep(self._interval)
        try:
            await self._create(event)
        except ApiError as error:
            DROPPED.inc()
            logger.debug("an Event was not written", error=str(error))
            return None if isinstance(error, WritesClosedError) else error_kind(error) not in NO_ANSWER
        except Exception as error:
            DROPPED.inc()
            record(Boundary.STATUS, f"{event.namespace}/{event.name}", error)
            return None
        return True

    async def _create(self, event: _QueuedEvent) -> None:
        at = self._clock.now()
        await self._client.create_event(
            event.namespace,
            regarding={
                "apiVersion": WORKLOADS.api_version,
                "kind": WORKLOADS.kind,
                "namespace": event.namespace,
                "name": event.name,
                "uid": event.uid,
            },
            name=f"{event.name}.{at:x}",
            reason=event.reason,
            note=event.message,
            action="Schedule",
            at=at,
            warning=event.warning,
        )
