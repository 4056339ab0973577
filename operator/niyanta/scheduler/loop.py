"""The leader's loop: repair once, then look at the mail, the timers and the queue until leadership is lost.

Losing Postgres pauses it: the round is repeated until the store answers; nothing taken from the inbox is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi, ClusterAwayError, MissingObjectsError
from niyanta.scheduler.demand.stats_collector import StatsCollector
from niyanta.scheduler.gauges import SchedulerGauges
from niyanta.scheduler.intake.admission import Admission
from niyanta.scheduler.intake.refill import Refill
from niyanta.scheduler.intake.work_queue import PendingWork
from niyanta.scheduler.lease import alive_while, gathered
from niyanta.scheduler.maintenance import Maintenance
from niyanta.scheduler.metrics import ORPHANS
from niyanta.scheduler.placing.cycle import Cycle
from niyanta.scheduler.pods import outcome
from niyanta.scheduler.recovery import Recovery
from niyanta.scheduler.session import Session, TransitionRequest
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.errors import ConflictError, StoreUnavailableError
from niyanta.store.rows import WorkloadRow

logger = log.get(__name__)

TIMERS_EVERY = 0.5
"""Seconds between two looks at what is due."""

DUE_BATCH = 1000

IDLE_WINDOW = 0.02

GAUGES_EVERY = 2.0
"""Seconds; counting is linear in what is tracked."""

EXPIRE_BATCH = 48
"""Finished objects deleted at once."""

LOOK_AGAIN = 1.0
"""Seconds until a pending row whose backoff is over but whose pods still stop is looked at again."""


class LeaderLoop:
    """Runs a session round by round. `tick` is called each round, so that a stall can be told from work."""

    def __init__(
        self, session: Session, *, tick: Callable[[], None], on_repaired: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`on_repaired` is awaited when rows, objects and pods agree, before anything new is placed."""
        self.session = session
        self.reception = Admission(session)
        self._on_repaired = on_repaired
        self.backlog = Refill(session)
        self.duties = Maintenance(session)
        self.cycle = Cycle(session)
        self.standing = SchedulerGauges(session)
        self._tick = tick
        self._think = True
        self._last_cycle = 0.0
        self._timers_at = 0.0
        self._gauges_at = 0.0
        self._mail: PendingWork | None = None

    @property
    def cluster(self) -> ClusterApi:
        return self.session.cluster

    async def run(self) -> None:
        """Until cancelled; raises StaleEpochError or LeaseLostError when leadership is over."""
        try:
            await self._run()
        finally:
            self.standing.clear()
            self.session.telemetry.close()

    async def _run(self) -> None:
        await self._repeat(Recovery(self.session, self.backlog).run)
        if self._on_repaired is not None:
            await self._on_repaired()
        counting = asyncio.create_task(StatsCollector(self.session, deep=self.backlog.is_deep).run(), name="figures")
        try:
            while True:
                await self.session.inbox.wait(TIMERS_EVERY)
                await asyncio.sleep(IDLE_WINDOW)  # what comes in a burst is looked at in one round
                self._tick()
                await self._repeat(self.round)
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` again and again while Postgres or the API server is away."""
        while True:
            try:
                await work()
            except StoreUnavailableError as error:
                logger.warning("Postgres does not answer; placement pauses", error=str(error))
                self._tick()
                await asyncio.sleep(0.5)
            except ClusterAwayError as error:
                logger.warning("the API server does not answer; placement pauses", error=str(error))
                self._tick()
                await asyncio.sleep(0.5)
            except ConflictError as error:
                logger.info("lost a race in Postgres; once more", error=str(error))
                self._tick()
            except MissingObjectsError as error:
                ORPHANS.set(1)
                logger.error(
                    "objects are missing; nothing is cancelled or placed until they are back", error=str(error)
                )
                self._tick()
                await asyncio.sleep(2.0)
            else:
                ORPHANS.set(0)
                return

    async def round(self) -> None:
        """One look at everything. What was taken from the inbox is kept until it is done, so a repeat does it again."""
        if self._mail is None:
            self._mail = self.session.inbox.take()
        mail = self._mail
        self._think = self._think or mail.moves
        with self.session.telemetry.phase("intake"):
            await self.reception.take_gone(list(mail.gone.values()))
            if mail.customers:
                await self.reception.review_customers()
            if mail.defaults:
                await self.reception.review_defaults(mail.defaults)
            await self.reception.take_in(list(mail.objects.values()))
        with self.session.telemetry.phase("observe"):
            await self.session.observe(mail.workloads)
        if mail.notes:
            with self.session.telemetry.phase("notes"):
                await self.cycle.write_notes(list(mail.notes.values()))
        self._mail = None
        self._think = await self.backlog.follow() or self._think
        await self._timers()
        await self._maybe_cycle()

    async def _maybe_cycle(self) -> None:
        if not self._think:
            return
        rest = self._last_cycle + self.session.settings.cycle_interval - time.monotonic()
        if rest > 0:
            asyncio.get_running_loop().call_later(rest, self.session.inbox.wake)
            return
        self._last_cycle = time.monotonic()
        with self.session.telemetry.cycle():
            self._think = await self.cycle.run()

    # --- timers ------------------------------------------------------------------------------------------------------

    async def _timers(self) -> None:
        now = time.monotonic()
        if now < self._timers_at:
            return
        self._timers_at = now + TIMERS_EVERY
        session = self.session
        await session.clock.refresh()
        if now >= self._gauges_at:
            self._gauges_at = now + GAUGES_EVERY
            await self.standing.refresh()
        await self._look_at_due(await session.state.get_due(DUE_BATCH))
        waiting = [t.id for t in session.mirror if t.lost_since is not None]
        await session.observe(waiting)
        if session.end_exclusions():
            self._think = True
        self.cycle.collect_notes()
        await self.duties.run()

    async def _look_at_due(self, due: Sequence[WorkloadRow]) -> None:
        """Do what wake-ups ask for. One that can't be dealt with yet is put off, so that it never hides others."""
        session = self.session
        outcomes: list[TransitionRequest] = []
        again: dict[float | None, list[str]] = {}
        for row in due:
            tracked = session.mirror.get(row.id)
            if row.phase.terminal:
                continue
            if tracked is None:
                again.setdefault(60.0, []).append(row.id)
            elif tracked.row.version != row.version:
                await session.refresh([row.id])
            elif row.phase is Phase.PENDING:
                session.settle(tracked)
                queued = tracked.id in session.mirror.queue
                again.setdefault(None if queued else LOOK_AGAIN, []).append(row.id)
                self._think = True
            elif row.phase is Phase.SCHEDULED and len(tracked.known) < len(row.workers):
                # The pods don't exist yet (the API server is away or slow): the clock of starting hasn't begun.
                again.setdefault(float(tracked.spec.start_timeout_seconds), []).append(row.id)
            elif row.phase is Phase.SCHEDULED:
                text = f"not all pods were running {tracked.spec.start_timeout_seconds} s after they were bound"
                outcomes.append(self._failed(tracked, "StartTimeout", text))
            elif row.phase is Phase.RUNNING:
                text = f"ran longer than timeoutSeconds {tracked.spec.timeout_seconds}"
                outcomes.append(self._failed(tracked, "Timeout", text))
        for seconds, ids in again.items():
            await session.state.set_wake(ids, seconds, epoch=session.epoch)
        await session.commit(outcomes)
        await self._expire([row for row in due if row.phase.terminal])

    @staticmethod
    def _failed(tracked: TrackedWorkload, reason: str, message: str) -> TransitionRequest:
        facts = outcome.Attempt(
            phase=tracked.row.phase,
            attempt=tracked.row.attempt,
            workers=tracked.row.workers,
            failures=tracked.row.failures,
            rejections=tracked.row.rejections,
            max_retries=tracked.spec.max_retries,
            max_rejections=0,
            replace_lost=False,
            known=frozenset(tracked.known),
        )
        return TransitionRequest(tracked, outcome.failed_attempt(facts, reason, message))

    async def _expire(self, rows: Sequence[WorkloadRow]) -> None:
        """ttlSecondsAfterFinished is over: the objects go, the rows stay as history."""
        session = self.session
        for start in range(0, len(rows), EXPIRE_BATCH):
            self._tick()
            part = rows[start : start + EXPIRE_BATCH]
            await alive_while(self._tick, gathered(self._delete_object(row) for row in part))
            await session.state.set_wake([row.id for row in part], None, epoch=session.epoch)
            for row in part:
                session.mirror.drop(row.id)
                logger.info("finished workload expired", workload=f"{row.namespace}/{row.name}", id=row.id)

    async def _delete_object(self, row: WorkloadRow) -> None:
        if row.object is not None:
            name, uid = row.object
            await self.cluster.delete_workload(row.namespace, name, uid)
