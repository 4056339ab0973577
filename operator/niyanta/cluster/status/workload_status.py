"""Writes the status of Workload objects from their rows, after transitions only. A status is never read back as
authoritative.

Only the last state of a row is written. A write waits while the row still changes, while creates of pods are under way
and while the API server answers slowly, because the kubelets need the same server; but it is sent MOST_WAIT_SECONDS
after its change at the latest. Only Scheduled, which Running follows, may wait for longer while the server is busy.
Namespaces take turns, so that one whose writes are slow or many doesn't delay the others. If the server can't do the
writes that are due, they wait for their turn, one for each workload; at most MOST_URGENT_AT_ONCE compete with the
kubelets.

Statuses that were refused (a webhook, a policy) are repeated more and more rarely, and slowly: `RefusedWrites` keeps
them apart from the others, which then have the pace for themselves.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import Counter, Histogram

from niyanta.aio import jittered
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, WritesClosedError, error_kind
from niyanta.cluster.api.kinds import WORKLOADS
from niyanta.cluster.status.conditions import Since, followed
from niyanta.cluster.status.fair_writes import NO_ANSWER, FairWrites
from niyanta.cluster.status.refused_writes import RefusedWrites, repeat_after
from niyanta.cluster.status.shown_statuses import ShownStatuses
from niyanta.cluster.status.status_fields import status_of
from niyanta.cluster.status.write_pace import WritePace
from niyanta.containment import Boundary, contained, record
from niyanta.engine.queue.order import QueueSettings
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow

logger = log.get(__name__)

PATCHES = Counter("niyanta_status_patches_total", "Status patches of Workloads written")
DELAY = Histogram(
    "niyanta_status_delay_seconds",
    "Time from a workload's change to its written status",
    buckets=(0.1, 0.5, 1, 2, 5, 7.5, 10, 20, 60, 120),
)

MOST_WAIT_SECONDS = 4.0
"""Longest time from a change to its turn among the writes that are due."""

MOST_SCHEDULED_WAIT_SECONDS = 300.0
"""The same for Scheduled while the server is busy: written earlier, it delays Running, which makes it old."""

SCHEDULED_DEBOUNCES = 4
"""Debounces that Scheduled waits on a server that isn't busy: most pods run by then."""

MANY_STARTING = 16
START_SECONDS = 1.0
"""The server is busy while so many workloads wait for their pods to run and one began to run within this time: the
kubelets write the statuses of these pods, and Running will make the statuses of the workloads old."""

MOST_AT_ONCE = 8
MOST_URGENT_AT_ONCE = 12
"""Most patches under way that yield, and that don't; one namespace has at most half of either."""

MOST_FINAL_STATUSES = 50_000
"""Most statuses of finished workloads that wait to be written. Beyond it, the namespace with most of them loses its
oldest one. Statuses of other workloads take no memory of their own: the leader keeps their rows."""

BUSY_SECONDS = 0.05
"""Time until a status is considered again whose previous patch is still running."""

YIELD_SECONDS = 1.0
"""Time until Scheduled is considered again on a busy server."""

RETRY_SECONDS = 2.0
"""Longest pause before a patch without an answer is repeated."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """The newest row of a workload whose status is outdated. Times are monotonic seconds."""

    row: WorkloadRow
    since: Since
    changed: float
    """Time of the oldest change that isn't written."""
    due: float
    """Start of its wait for a turn that yields."""
    latest: float
    """Start of its wait for a turn that doesn't."""
    yielding: bool = False
    """It is among the writes that yield."""
    urgent: bool = False
    """It is among the writes that don't."""
    apart: bool = False
    """It is among the writes that may be refused."""
    refusals: int = 0
    """Times in a row that the API server has refused this or an earlier state of the workload."""

    @property
    def scheduled(self) -> bool:
        """True if its next state will soon make this one old."""
        return self.row.phase is Phase.SCHEDULED


class WorkloadStatusWriter:
    """Keeps the newest row of each workload whose status is outdated, and writes the status when its turn comes."""

    def __init__(
        self, client: ApiClient, clock: Clock, *, debounce: float, queue: QueueSettings, shown: ShownStatuses
    ) -> None:
        """`shown`: what the watch knows of the objects. `debounce`: seconds without a change before a write."""
        self._client = client
        self._clock = clock
        self._debounce = debounce
        self._queue_settings = queue
        self._shown = shown
        self._pace = WritePace()
        self._waiting: dict[str, _Waiting] = {}
        self._due: list[tuple[float, str]] = []
        self._busy: dict[str, _Waiting] = {}
        """States whose patch is under way."""
        self._final: dict[str, dict[str, None]] = {}
        """Namespace -> finished workloads whose status waits, in their order."""
        self._final_count = 0
        self._starting = 0
        """Workloads in Scheduled among those that wait."""
        self._started_at = float("-inf")
        """Monotonic time at which a workload last began to run."""
        self._event = asyncio.Event()
        self._yielding = FairWrites(self._write_yielding, concurrency=MOST_AT_ONCE)
        self._urgent = FairWrites(self._write_urgent, concurrency=MOST_URGENT_AT_ONCE)
        self._refused = RefusedWrites(self._write, self._pace)

    def write(self, row: WorkloadRow) -> None:
        """Write the status of this row's object soon: a final phase as soon as the server has time, other phases when
        the row hasn't changed for the debounce, so that a quick start takes one write."""
        if row.object is None:
            return
        now = time.monotonic()
        old = self._waiting.get(row.id)
        known = old or self._busy.get(row.id)
        before = self._shown.get(row.object[1]).since if known is None else known.since
        since = followed(row, before, now=self._clock.now() / 1e6)
        if row.phase is Phase.RUNNING:
            self._started_at = now
        if row.phase.terminal:
            due, most = now, MOST_WAIT_SECONDS
        elif row.phase is Phase.SCHEDULED:  # most pods start within seconds
            due, most = now + SCHEDULED_DEBOUNCES * self._debounce, MOST_SCHEDULED_WAIT_SECONDS
        else:
            due, most = now + self._debounce, MOST_WAIT_SECONDS
        latest = now + most
        if old is not None and old.scheduled >= (row.phase is Phase.SCHEDULED):
            latest = min(latest, old.latest)
        changed = now if old is None or old.scheduled else old.changed
        refusals = 0 if known is None else known.refusals
        self._keep(_Waiting(row, since, changed, min(due, latest), latest, refusals=refusals), old)

    def clear(self) -> None:
        """Forget every status that waits, and cancel those under way, at the end of a leadership: another leader may
        have moved these workloads on, and this process may lead again. A new leader writes what is outdated."""
        self._close()
        self._refused.clear()
        self._waiting.clear()
        self._due.clear()
        self._final.clear()
        self._final_count = self._starting = 0

    def listed(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Go on from the conditions of these objects, which a list contained. Safe from any thread."""
        for obj in objects:
            self._shown.on_event("", obj)

    def _keep(self, waiting: _Waiting, old: _Waiting | None) -> None:
        """Let a state wait for its turn, in the place of an older one."""
        row = waiting.row
        if old is not None:
            self._take(row.id)
            waiting.yielding, waiting.urgent, waiting.apart = old.yielding, old.urgent, old.apart
        self._waiting[row.id] = waiting
        self._starting += waiting.scheduled
        self._schedule(row.id, waiting.due)
        if not row.phase.terminal:
            return
        waiting.row = replace(row, spec={})  # the leader forgets the row, and no status shows the spec
        self._final.setdefault(row.namespace, {})[row.id] = None
        self._final_count += 1
        if self._final_count > MOST_FINAL_STATUSES:
            most = max(self._final.values(), key=len)
            oldest = next(iter(most))
            logger.warning("too many statuses wait; one is not written", workload=oldest)
            self._take(oldest)

    def _take(self, workload_id: str) -> _Waiting | None:
        """The newest state of a workload, which then no longer waits."""
        waiting = self._waiting.pop(workload_id, None)
        self._starting -= waiting is not None and waiting.scheduled
        if waiting is not None and waiting.row.phase.terminal:
            ids = self._final[waiting.row.namespace]
            del ids[workload_id]
            self._final_count -= 1
            if not ids:
                del self._final[waiting.row.namespace]
        return waiting

    def _schedule(self, workload_id: str, at: float) -> None:
        heapq.heappush(self._due, (at, workload_id))
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
            self._close()
            for workload_id, waiting in self._waiting.items():
                waiting.yielding = waiting.urgent = waiting.apart = False
                self._schedule(workload_id, waiting.due)

    def _close(self) -> None:
        """Cancel the writes under way."""
        self._yielding.close()
        self._urgent.close()
        self._refused.close()

    def _start_due(self) -> float | None:
        """Queue the writes that are due; returns the seconds until the next one (None if no status waits)."""
        while self._due:
            at, workload_id = self._due[0]
            now = time.monotonic()
            if at > now:
                return at - now
            heapq.heappop(self._due)
            waiting = self._waiting.get(workload_id)
            if waiting is not None:
                self._queue(workload_id, waiting, now)
        return None

    def _queue(self, workload_id: str, waiting: _Waiting, now: float) -> None:
        """Put a status among the writes that yield when it is due, and later among those that don't."""
        row = waiting.row
        if waiting.urgent or waiting.apart:
            return
        if self._may_be_refused(waiting):
            if now >= waiting.due:
                self._set_apart(workload_id, waiting)
        elif now >= waiting.latest:
            waiting.urgent = True
            self._urgent.put(row.namespace, row.customer, workload_id)
        elif now < waiting.due:
            pass  # the debounce began again, and another entry of the heap has its end
        elif waiting.scheduled and self._server_busy(now):
            self._put_off(workload_id, waiting, now)
        else:
            self._schedule(workload_id, waiting.latest)
            if not waiting.yielding:
                waiting.yielding = True
                self._yielding.put(row.namespace, row.customer, workload_id)

    def _may_be_refused(self, waiting: _Waiting) -> bool:
        return waiting.refusals > 0 or self._refused.refuses(waiting.row.namespace)

    def _set_apart(self, workload_id: str, waiting: _Waiting) -> None:
        waiting.apart = True
        row = waiting.row
        self._refused.put(row.namespace, row.customer, workload_id, again=waiting.refusals > 0)

    def _put_off(self, workload_id: str, waiting: _Waiting, now: float) -> None:
        """Let Scheduled wait on: Running may follow, and takes no more writes than both."""
        waiting.yielding = False
        waiting.due = min(now + YIELD_SECONDS, waiting.latest)
        self._schedule(workload_id, waiting.due)

    def _server_busy(self, now: float) -> bool:
        starting = self._starting >= MANY_STARTING and now - self._started_at < START_SECONDS
        return starting or self._client.pod_lane.busy or self._pace.slow(now)

    async def _write_yielding(self, workload_id: str) -> bool | None:
        """Write a status when creates of pods and the pace of writes leave room for it; gives up when it is urgent."""
        waiting = self._waiting.get(workload_id)
        if waiting is None or waiting.urgent or waiting.apart:
            return None
        if self._may_be_refused(waiting):
            self._set_apart(workload_id, waiting)
            return None
        now = time.monotonic()
        if waiting.scheduled and self._server_busy(now):
            self._put_off(workload_id, waiting, now)
            return None
        if not await self._client.pod_lane.quiet(waiting.latest - now):
            return None
        pause = self._pace.take(time.monotonic())
        if pause > 0:
            await asyncio.sleep(min(pause, max(waiting.latest - time.monotonic(), 0.0)))
        return await self._write(workload_id)

    async def _write_urgent(self, workload_id: str) -> bool | None:
        """Write a status that has waited for long, unless its namespace began to refuse meanwhile."""
        waiting = self._waiting.get(workload_id)
        if waiting is not None and not waiting.apart and self._may_be_refused(waiting):
            waiting.urgent = False
            self._set_apart(workload_id, waiting)
            return None
        return await self._write(workload_id)

    async def _write(self, workload_id: str) -> bool | None:
        """Write the newest status of a workload; returns as `FairWrites` wants it."""
        if workload_id in self._busy:
            waiting = self._waiting.get(workload_id)
            if waiting is not None:
                waiting.yielding = waiting.urgent = waiting.apart = False
                self._schedule(workload_id, time.monotonic() + BUSY_SECONDS)
            return None
        waiting = self._take(workload_id)
        if waiting is None:
            return None
        self._busy[workload_id] = waiting
        try:
            await self._apply(waiting)
            return True
        except WritesClosedError:
            return None
        except ApiError as error:
            return self._failed(waiting, error)
        except Exception as error:  # the status of this row stays as it is until the row changes
            record(Boundary.STATUS, f"{waiting.row.namespace}/{waiting.row.name}", error)
            return None
        finally:
            del self._busy[workload_id]

    async def _apply(self, waiting: _Waiting) -> None:
        row = waiting.row
        name, uid = row.object or (row.name, row.id)
        status = status_of(row, waiting.since, self._queue_settings, now=self._clock.now())
        known = self._shown.get(uid).version
        version = await self._client.apply_status(
            WORKLOADS,
            name,
            uid,
            status,
            namespace=row.namespace,
            version=str(known or ""),
            on_answer=lambda seconds: self._pace.answered(seconds, time.monotonic()),
        )
        if version is not None:
            self._shown.wrote(uid, version, waiting.since, finished=row.phase.terminal)
            self._accepted(row)
            PATCHES.inc()
            DELAY.observe(time.monotonic() - waiting.changed)

    def _accepted(self, row: WorkloadRow) -> None:
        self._refused.accepted(row.namespace)
        newer = self._waiting.get(row.id)
        if newer is not None:
            newer.refusals = 0

    def _failed(self, waiting: _Waiting, error: ApiError) -> bool:
        """Repeat a failed write later, unless the server refuses it for good; returns as `FairWrites` wants it."""
        row, kind = waiting.row, error_kind(error)
        if kind in (ErrorKind.NOT_FOUND, ErrorKind.INVALID):
            logger.warning("a status was not written", workload=f"{row.namespace}/{row.name}", error=str(error))
            return True
        now = time.monotonic()
        answered = kind not in NO_ANSWER
        refusals = waiting.refusals
        if answered:
            refusals += 1
            pause = repeat_after(refusals)
            if kind is not ErrorKind.CONFLICT:  # another writer of this object says nothing about its neighbours
                self._refused.refused(row.namespace)
            if refusals == 1:
                logger.warning("a status was refused", workload=f"{row.namespace}/{row.name}", error=str(error))
        else:
            self._pace.failed(now)
            pause = jittered(RETRY_SECONDS)
        newer = self._waiting.get(row.id)
        if newer is not None:
            newer.refusals = refusals
        else:
            due = now + pause
            latest = max(due, now + MOST_WAIT_SECONDS)
            self._keep(_Waiting(row, waiting.since, waiting.changed, due, latest, refusals=refusals), None)
        return answered
