"""The leader's loop: recover once, then run rounds over incoming work, timers and the queue until leadership is lost.

While Postgres or the API server doesn't answer, the round is repeated; work taken from the work queue isn't lost. An
unexpected error stays with the object or, at most, with the phase that raised it (`faults`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from niyanta.aio import Backoff, Timer, ticking
from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.observability import log
from niyanta.scheduler.backlog.loader import BacklogLoader
from niyanta.scheduler.backlog.row_changes import RowChanges
from niyanta.scheduler.cluster_api import ClusterAwayError
from niyanta.scheduler.demand.stats_collector import StatsCollector
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.faults.phases import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, GuardedPhases, RoundPhase
from niyanta.scheduler.intake.admission import Admission
from niyanta.scheduler.intake.reviews import Reviews
from niyanta.scheduler.intake.unloaded import UnloadedWorkloads
from niyanta.scheduler.intake.work_queue import PendingWork, WorkQueue
from niyanta.scheduler.metrics import LoopPhase, SchedulerMetrics
from niyanta.scheduler.periodic.timers import LeaderTimers
from niyanta.scheduler.placing.cycle import Cycle
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.observer import PodObserver
from niyanta.scheduler.recovery.recovery import Recovery
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.errors import ConflictError, StoreUnavailableError

logger = log.get(__name__)

TIMERS_EVERY_SECONDS = 0.5
"""Time between two checks of due rows; a round runs at least as often."""

IDLE_WINDOW_SECONDS = 0.02
"""Time that a round waits after the first piece of work, so that a burst is handled in one round."""

ASK_AGAIN_SECONDS = 0.5
"""Time until a round is repeated while Postgres or the API server doesn't answer."""

RECOVERY_ATTEMPTS = 5
"""Attempts at recovery before the process ends because of an unexpected error."""


class LeaderLoop:
    """Runs one leadership round by round."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        work_queue: WorkQueue,
        recovery: Recovery,
        admission: Admission,
        reviews: Reviews,
        unloaded: UnloadedWorkloads,
        transitions: Transitions,
        observer: PodObserver,
        reasons: PendingReasons,
        row_changes: RowChanges,
        backlog_loader: BacklogLoader,
        timers: LeaderTimers,
        cycle: Cycle,
        stats_collector: StatsCollector,
        metrics: SchedulerMetrics,
        tick: Callable[[], None],
    ) -> None:
        """`tick` is called each round, so that a long round doesn't count as a stall."""
        self._state = state
        self._work_queue = work_queue
        self._recovery = recovery
        self._admission = admission
        self._reviews = reviews
        self._unloaded = unloaded
        self._transitions = transitions
        self._observer = observer
        self._reasons = reasons
        self._row_changes = row_changes
        self._backlog_loader = backlog_loader
        self._timers = timers
        self._cycle = cycle
        self._stats_collector = stats_collector
        self._metrics = metrics
        self._tick = tick
        self._timers_due = Timer(TIMERS_EVERY_SECONDS)
        self._cycle_wanted = True
        """Something changed since the last cycle that may let another workload be placed."""
        self._last_cycle = 0.0
        self._phases = GuardedPhases()
        self._unadmitted = PendingWork()
        """Users' changes that were taken and aren't followed yet."""
        self._unobserved: dict[str, None] = {}
        """Workloads with changed pods that were taken and aren't observed yet, oldest first."""

    async def run(self, on_recovered: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run until cancelled; raises StaleEpochError or LeaseLostError when leadership is over, and PhaseStuckError
        when a new process may do better.

        `on_recovered` is awaited after recovery, before the first placement.
        """
        try:
            await self._until_answered(self._recover)
            if on_recovered is not None:
                await on_recovered()
            await self._run_rounds()
        finally:
            self._timers.clear_gauges()
            self._metrics.close()

    async def _recover(self) -> None:
        """Recover. An unexpected error is repeated a few times, because nothing may be placed without recovery."""
        backoff = Backoff(first_seconds=FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS)
        for attempt in range(1, RECOVERY_ATTEMPTS + 1):
            try:
                await self._recovery.run()
            except SharedFaultError:
                raise
            except Exception as error:
                if attempt == RECOVERY_ATTEMPTS:
                    raise
                record(Boundary.PHASE, "recovery", error)
                self._tick()
                await ticking(self._tick, asyncio.sleep(backoff.next()))
            else:
                return

    async def _run_rounds(self) -> None:
        collecting = asyncio.create_task(self._stats_collector.run(), name="demand stats")
        try:
            while True:
                await self._work_queue.wait(TIMERS_EVERY_SECONDS)
                await asyncio.sleep(IDLE_WINDOW_SECONDS)
                self._tick()
                await self._until_answered(self.round)
        finally:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)

    async def round(self) -> None:
        """Run one round. Work taken from the work queue is kept until it is done, so that a repeated round does it
        again. A phase that fails by an unexpected error is repeated with backoff, while the others go on."""
        run = self._phases.run
        # 1. Take the next slice of the work that came in.
        self._take()
        # 2. Follow users' changes: objects, then Customers, namespaces and LimitRanges.
        with self._metrics.phase(LoopPhase.INTAKE):
            await run(RoundPhase.INTAKE, self._admit)
            if self._reviews.unfinished:
                await run(RoundPhase.REVIEW, self._reviews.run_slice)
            await run(RoundPhase.LOAD, self._unloaded.run)
        # 3. Follow pods and nodes.
        with self._metrics.phase(LoopPhase.OBSERVE):
            await run(RoundPhase.OBSERVE, self._observe)
        # 4. Write the reasons for which workloads wait, and hold parked workloads.
        if self._reasons.has_unwritten:
            with self._metrics.phase(LoopPhase.NOTES):
                await run(RoundPhase.REASONS, self._reasons.write)
        await run(RoundPhase.PARKING, self._transitions.hold_parked)
        # 5. Follow rows that other processes changed, and load the backlog.
        await run(RoundPhase.FOLLOW, self._follow_rows)
        await run(RoundPhase.BACKLOG, self._load_backlog)
        # 6. Timers: due rows, lost nodes, maintenance.
        if self._timers_due.due():
            await run(RoundPhase.TIMERS, self._run_timers)
        # 7. Place.
        if self._cycle_wanted or self._cycle.wants_retry():
            await run(RoundPhase.CYCLE, self._maybe_cycle)
        if self._reviews.unfinished:
            self._work_queue.wake()

    def _take(self) -> None:
        """Add the next slice of work to the work that isn't done yet. While intake pauses, objects stay packed in the
        work queue."""
        left = self._unadmitted
        idle = not left.objects and not left.gone
        work = self._work_queue.take(objects=idle and not self._phases.pauses(RoundPhase.INTAKE))
        self._cycle_wanted = self._cycle_wanted or bool(work)
        self._unobserved.update(dict.fromkeys(work.workloads))
        left.objects.update(work.objects)
        left.gone.update(work.gone)
        left.defaults.update(work.defaults)
        left.customers = left.customers or work.customers

    async def _admit(self) -> None:
        left = self._unadmitted
        if left.customers:
            self._reviews.request_all()
            left.customers = False
        if left.defaults:
            self._reviews.request_namespaces(left.defaults)
            left.defaults.clear()
        gone = list(left.gone.values())
        done = await in_isolation(gone, self._admission.take_gone, group=lambda item: item.namespace)
        for item, error in done.culprits:
            record(Boundary.OBJECT, item.uid, error)
        left.gone.clear()
        await self._admission.take_in(list(left.objects.values()))
        left.objects.clear()

    async def _observe(self) -> None:
        """Observe the workloads whose pods changed; one that raises an unexpected error is left out until its next
        change."""
        done = await in_isolation(list(self._unobserved), self._observer.observe, group=str)
        if not self._unobserved:
            await self._observer.observe(())  # it follows ended creates as well
        for workload_id, error in done.culprits:
            record(Boundary.POD, workload_id, error)
        self._unobserved.clear()

    async def _follow_rows(self) -> None:
        if await self._row_changes.follow():
            self._cycle_wanted = True

    async def _load_backlog(self) -> None:
        if await self._backlog_loader.run():
            self._cycle_wanted = True

    async def _run_timers(self) -> None:
        if await self._timers.run():
            self._cycle_wanted = True

    async def _maybe_cycle(self) -> None:
        rest = self._last_cycle + self._state.settings.cycle_interval - time.monotonic()
        if rest > 0:
            asyncio.get_running_loop().call_later(rest, self._work_queue.wake)
            return
        self._last_cycle = time.monotonic()
        with self._metrics.cycle():
            self._cycle_wanted = await self._cycle.run()

    async def _until_answered(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat `work` while Postgres or the API server is away."""
        while True:
            try:
                await work()
            except (StoreUnavailableError, ClusterAwayError) as error:
                server = "Postgres" if isinstance(error, StoreUnavailableError) else "the API server"
                logger.warning(f"{server} does not answer; placement pauses", error=str(error))
                self._tick()
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            except ConflictError as error:
                logger.info("a transaction conflicted in Postgres; repeating the round", error=str(error))
                self._tick()
                await asyncio.sleep(IDLE_WINDOW_SECONDS)
            else:
                return
