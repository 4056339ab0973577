"""The leader's loop: recover once, then run rounds over incoming work, timers and the queue until leadership is lost.

While Postgres or the API server doesn't answer, the round is repeated; work taken from the work queue isn't lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from niyanta.aio import Timer
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterAwayError, MissingObjectsError
from niyanta.scheduler.demand.stats_collector import StatsCollector
from niyanta.scheduler.intake.admission import Admission
from niyanta.scheduler.intake.refill import Refill
from niyanta.scheduler.intake.work_queue import PendingWork, WorkQueue
from niyanta.scheduler.metrics import ORPHANS, LoopPhase, SchedulerMetrics
from niyanta.scheduler.periodic.timers import LeaderTimers
from niyanta.scheduler.placing.cycle import Cycle
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.observer import PodObserver
from niyanta.scheduler.recovery import Recovery
from niyanta.scheduler.state import SchedulerState
from niyanta.store.errors import ConflictError, StoreUnavailableError

logger = log.get(__name__)

TIMERS_EVERY_SECONDS = 0.5
"""Time between two checks of due rows; a round runs at least as often."""

IDLE_WINDOW_SECONDS = 0.02
"""Time that a round waits after the first piece of work, so that a burst is handled in one round."""

ASK_AGAIN_SECONDS = 0.5
"""Time until a round is repeated while Postgres or the API server doesn't answer."""

OBJECTS_AGAIN_SECONDS = 2.0
"""Time until a round is repeated while too many Workload objects are missing."""


class LeaderLoop:
    """Runs one leadership round by round."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        work_queue: WorkQueue,
        recovery: Recovery,
        admission: Admission,
        observer: PodObserver,
        reasons: PendingReasons,
        refill: Refill,
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
        self._observer = observer
        self._reasons = reasons
        self._refill = refill
        self._timers = timers
        self._cycle = cycle
        self._stats_collector = stats_collector
        self._metrics = metrics
        self._tick = tick
        self._timers_due = Timer(TIMERS_EVERY_SECONDS)
        self._cycle_wanted = True
        """Something changed since the last cycle that may let another workload be placed."""
        self._last_cycle = 0.0
        self._taken: PendingWork | None = None
        """Work of a round that hasn't succeeded so far."""

    async def run(self, on_recovered: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run until cancelled; raises StaleEpochError or LeaseLostError when leadership is over.

        `on_recovered` is awaited after recovery, before the first placement.
        """
        try:
            await self._until_answered(self._recovery.run)
            if on_recovered is not None:
                await on_recovered()
            await self._run_rounds()
        finally:
            self._timers.clear_gauges()
            self._metrics.close()

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
        again."""
        # 1. Take the work that came in.
        if self._taken is None:
            self._taken = self._work_queue.take()
        work = self._taken
        self._cycle_wanted = self._cycle_wanted or bool(work)
        # 2. Follow users' changes: objects, Customers, LimitRanges.
        with self._metrics.phase(LoopPhase.INTAKE):
            await self._admit(work)
        # 3. Follow pods and nodes.
        with self._metrics.phase(LoopPhase.OBSERVE):
            await self._observer.observe(work.workloads)
        # 4. Write the reasons for which workloads wait.
        if self._reasons.unwritten:
            with self._metrics.phase(LoopPhase.NOTES):
                await self._reasons.write()
        self._taken = None
        # 5. Follow rows that other processes changed, and refill the queue from Postgres.
        if await self._refill.follow():
            self._cycle_wanted = True
        # 6. Timers: due rows, lost nodes, maintenance.
        if self._timers_due.due() and await self._timers.run():
            self._cycle_wanted = True
        # 7. Place.
        await self._maybe_cycle()

    async def _admit(self, work: PendingWork) -> None:
        await self._admission.take_gone(list(work.gone.values()))
        if work.customers:
            await self._admission.review_customers()
        if work.defaults:
            await self._admission.review_defaults(work.defaults)
        await self._admission.take_in(list(work.objects.values()))

    async def _maybe_cycle(self) -> None:
        if not self._cycle_wanted:
            return
        rest = self._last_cycle + self._state.settings.cycle_interval - time.monotonic()
        if rest > 0:
            asyncio.get_running_loop().call_later(rest, self._work_queue.wake)
            return
        self._last_cycle = time.monotonic()
        with self._metrics.cycle():
            self._cycle_wanted = await self._cycle.run()

    async def _until_answered(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat `work` while Postgres or the API server is away, or objects are missing."""
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
            except MissingObjectsError as error:
                ORPHANS.set(1)
                logger.error(
                    "objects are missing; nothing is cancelled or placed until they are back", error=str(error)
                )
                self._tick()
                await asyncio.sleep(OBJECTS_AGAIN_SECONDS)
            else:
                ORPHANS.set(0)
                return
