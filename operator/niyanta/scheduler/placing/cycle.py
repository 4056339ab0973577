"""The cycle: active classes of the queue + snapshot -> plan -> commit -> parks. The engine runs in a thread, all else
in the event loop.

`transitions` commits the placements and starts their pods; `pending_reasons` explains the rejections.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from niyanta.aio import Timer
from niyanta.containment import Boundary, record
from niyanta.engine.expedited.lane_state import LaneSettings, LaneState
from niyanta.engine.placement.requirement_class import Counts
from niyanta.engine.queue.class_queue import ClassQueue
from niyanta.engine.queue.plan import QueuePlan, plan_queue
from niyanta.engine.schedule import Lane, Options
from niyanta.engine.snapshot.deltas import Delta
from niyanta.engine.snapshot.following import DeltaFault, follow
from niyanta.engine.types import DecisionFault, Placement, Reason
from niyanta.lifecycle import Event
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.intake.eligibility import EligibilityCheck
from niyanta.scheduler.metrics import LoopPhase, SchedulerMetrics
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import BATCH_ROWS, TransitionRequest, Transitions
from niyanta.store.rows import RowChange

logger = log.get(__name__)

LANE_ENTRY_EVERY_SECONDS = 1.0
"""Least time between two searches for workloads that have waited long enough for the expedited lane: O(classes)."""

LANE_ENTRY_REST = 30
"""A search takes at most one part in so many of the time."""

RETRY_EVERY_SECONDS = 5.0
"""Least time between two cycles that try parked classes although nothing changed."""

SHOW_EVERY_SECONDS = 1.0
"""Least time between two counts of waiting workloads by reason: O(classes)."""

SLICE_ROWS = 500
"""Workloads moved to other classes before other tasks of the event loop run."""

MOST_OUTDATED = 200
"""Most parked classes that one cycle decides because workers have changed, so that their reasons are up to date."""

MOST_RETRIES = 1_000
"""Most parked classes that one cycle tries although nothing changed: 200 a second."""

RESTART_EVERY_SECONDS = 60.0
"""Least time between two reads of the whole cluster because a change of it raised."""

LANE_ENTRY_SHARE = 0.8
"""Part of max_queue_wait after which a workload may enter the lane."""


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The engine's plan, and the time it took."""

    queue_plan: QueuePlan
    seconds: float
    faults: Sequence[DeltaFault] = ()
    """Changes of the cluster that raised."""


class Cycle:
    """Runs the cycles of one leadership."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        cluster: ClusterReads,
        transitions: Transitions,
        reasons: PendingReasons,
        eligibility: EligibilityCheck,
        metrics: SchedulerMetrics,
    ) -> None:
        self._state = state
        self._cluster = cluster
        self._transitions = transitions
        self._reasons = reasons
        self._eligibility = eligibility
        self._metrics = metrics
        self._deltas = cluster.delta_cursor()
        self._number = 0
        self._lane = LaneState()
        """State to pass to the next cycle. A new leader starts with an empty lane (docs/queue.md)."""
        self._limited: frozenset[str] = frozenset()
        """Classes reported as waiting for their customer's limit."""
        self._restart = Timer(RESTART_EVERY_SECONDS)
        self._damaged = False
        """A change raised since the snapshot was last made from the whole state."""
        self._lane_entry = Timer(LANE_ENTRY_EVERY_SECONDS)
        self._show = Timer(SHOW_EVERY_SECONDS)
        self._retry = Timer(RETRY_EVERY_SECONDS)
        self._facts = -1
        """`WorkerIndex.version` when parked classes were last looked for."""
        self._retries: list[ClassQueue] = []
        """Parked classes that the next cycle tries although nothing changed."""

    def wants_retry(self) -> bool:
        """True if a cycle should try parked classes although nothing woke them: their time has come, or workers changed
        in ways that only their reasons show."""
        if not self._retries and self._retry.due():
            queue, facts = self._state.workloads.queue, self._state.snapshot.index.version
            self._retries = queue.due(self._state.clock.now(), MOST_RETRIES)
            if facts == self._facts:  # while workers still change, reasons would be out of date again at once
                self._retries += queue.outdated(facts, MOST_OUTDATED)
            self._facts = facts
        return bool(self._retries)

    async def run(self) -> bool:
        """Run one cycle. Returns True if workloads are left that another cycle should consider at once."""
        self._number += 1
        queue = self._state.workloads.queue
        # 1. Take the candidates of the expedited lane, the limits of customers, and the changes of the cluster.
        for place, _ in enumerate(self._state.workloads.reclass()):
            if place % SLICE_ROWS == SLICE_ROWS - 1:
                await asyncio.sleep(0)
        now = self._state.clock.now()
        lane = self._lane_input(now)
        running = self._running_by_customer()
        options = self._options(running)
        deltas = self._state.worker_breakers.adjust(self._deltas.take())
        # 2. Let the engine wake parked classes and decide heads on a fork of the cluster, in a thread.
        try:
            with self._metrics.phase(LoopPhase.ENGINE):
                result = await asyncio.to_thread(self._plan, deltas, now, options=options, lane=lane)
            # 3. Commit the placements; their pods start.
            self._retries = []
            plan = result.queue_plan.plan
            self._lane, self._limited = plan.lane or self._lane, result.queue_plan.limited
            again = self._follow_faults(result.faults)
            self._count_placed(running, plan.placements)
            left_out = await self._commit(plan.placements)
            # 4. Wake and park classes, now that their placements are known.
            queue.follow(result.queue_plan, left_out)
        except BaseException:  # nothing is known of the commit or of the changes: all classes are decided anew
            queue.wake_all()
            raise
        self._park_faults(plan.faults)
        # 5. Explain the rejections, and count the cycle.
        self._reasons.follow_cycle(plan.rejections, lane=self._lane, running=running)
        self._count(result)
        return again or bool(left_out) or plan.undecided > 0

    def _lane_input(self, now: int) -> Lane | None:
        settings, queue = self._state.settings, self._state.workloads.queue
        if not settings.enable_expedited_lane:
            return None
        after = round(LANE_ENTRY_SHARE * settings.max_queue_wait * 1e6)
        if self._lane_entry.due():
            started = time.monotonic()
            waited = queue.waited(now - after)
            self._lane_entry.rest(LANE_ENTRY_REST * (time.monotonic() - started))
            known = {workload.id for workload in waited}
        else:
            waited, known = [], set()
        members = [queue.get(name) for name in self._lane.members if name not in known]
        waited += [workload for workload in members if workload is not None]
        return Lane(LaneSettings(after, settings.expedited_share), self._lane, waited)

    def _running_by_customer(self) -> dict[str, tuple[int, int]]:
        """Customer with a limit -> (running workloads, limit)."""
        running = {}
        for customer, bound in self._state.workloads.bound_by_customer().items():
            limit = self._cluster.customer_limits(customer).concurrent
            if limit is not None:
                running[customer] = bound, limit
        return running

    def _options(self, running: dict[str, tuple[int, int]]) -> Options:
        remaining = {customer: max(limit - runs, 0) for customer, (runs, limit) in running.items()}
        return Options(keep_gpu_workers_free=self._state.settings.keep_gpu_workers_free, remaining=remaining)

    def _plan(self, deltas: Sequence[Delta], now: int, *, options: Options, lane: Lane | None) -> EngineResult:
        """Update the snapshot and plan for at most max_cycle_seconds. Runs in the engine's thread."""
        start = time.monotonic()
        snapshot, faults = follow(self._state.snapshot, deltas)
        self._state.snapshot = snapshot
        end = start + self._state.settings.max_cycle_seconds
        found = plan_queue(
            snapshot,
            self._state.workloads.queue,
            now,
            options=options,
            lane=lane,
            retries=self._retries,
            limited=self._limited,
            stop=lambda: time.monotonic() > end,
        )
        return EngineResult(found, time.monotonic() - start, faults)

    def _follow_faults(self, faults: Sequence[DeltaFault]) -> bool:
        """Record the changes that raised; True if another cycle should follow at once.

        It makes the snapshot anew from the whole state. This is done rarely: a change that raises every time must not
        make each cycle expensive.
        """
        for fault in faults:
            record(Boundary.DELTA, fault.subject, fault.error)
        self._damaged = self._damaged or bool(faults)
        if self._damaged and self._restart.due():
            self._deltas.restart()
            self._damaged = False
            return True
        return False

    def _count_placed(self, running: dict[str, tuple[int, int]], placements: Sequence[Placement]) -> None:
        """Add the plan's placements to `running`, which explains the rejections of the same cycle."""
        if not running:
            return
        for placement in placements:
            tracked = self._state.workloads.get(placement.id)
            if tracked is not None and tracked.row.customer in running:
                runs, limit = running[tracked.row.customer]
                running[tracked.row.customer] = runs + 1, limit

    async def _commit(self, placements: Sequence[Placement]) -> set[str]:
        """Commit in batches. A workload that may no longer be placed is held instead. A placement is left out if it
        depends on one that was held or that Postgres refused. Returns the ids of those that were left out: others may
        have their room."""
        dropped = await self._hold_ineligible(placements)
        for start in range(0, len(placements), BATCH_ROWS):
            batch = [p for p in placements[start : start + BATCH_ROWS] if p.id not in dropped]
            part = [p for p in batch if not dropped.intersection(p.depends_on)]
            dropped.update({p.id for p in batch} - {p.id for p in part})
            ids = frozenset(p.id for p in part)
            changes = [change for p in part if (change := self._change(p, ids)) is not None]
            dropped.update(await self._transitions.place(changes, cycle=self._number))
        return dropped

    def _park_faults(self, faults: Sequence[DecisionFault]) -> None:
        """Park the workloads whose decision raised an unexpected error; everything else was decided."""
        for fault in faults:
            tracked = self._state.workloads.get(fault.id)
            if tracked is not None:
                self._state.parked.park(tracked, Boundary.REQUIREMENT_CLASS, fault.error)

    async def _hold_ineligible(self, placements: Sequence[Placement]) -> set[str]:
        """Hold workloads whose eligibility changed since they were queued; returns their ids."""
        requests = []
        for placement in placements:
            tracked = self._state.workloads.get(placement.id)
            refusal = None if tracked is None else self._eligibility.refusal(tracked, Event.HOLD)
            if tracked is not None and refusal is not None:
                requests.append(TransitionRequest(tracked, refusal))
        await self._transitions.commit(requests)
        return {request.tracked.id for request in requests}

    def _change(self, placement: Placement, batch: frozenset[str]) -> RowChange | None:
        tracked = self._state.workloads.get(placement.id)
        if tracked is None:
            return None
        return RowChange(
            id=placement.id,
            version=placement.version,
            event=Event.PLACE,
            reason=RowReason.PLACED.value,
            message="",
            workers=placement.workers,
            pool=placement.pools[0],
            pools=placement.pools,
            score=placement.score,
            attempt=placement.attempt,
            depends_on=tuple(i for i in placement.depends_on if i in batch),
            wake_in_seconds=float(tracked.spec.start_timeout_seconds),
        )

    def _waiting(self) -> Counter[Counts]:
        """Workloads in memory that wait, by what their class was refused for."""
        waiting: Counter[Counts] = Counter()
        for found in self._state.workloads.queue.classes():
            if found.park is not None:
                waiting[found.park.counts] += len(found)
            elif found.name in self._limited:
                waiting[((Reason.CONCURRENCY, found.customer, 1),)] += len(found)
        return waiting

    def _count(self, result: EngineResult) -> None:
        """Count the cycle in the metrics and in the log."""
        found, plan = result.queue_plan, result.queue_plan.plan
        self._metrics.planned(result.seconds, plan.rejections)
        active, parked = self._state.workloads.queue.counts()
        self._metrics.queue_classes(active=active, parked=parked)
        if self._show.due():
            self._metrics.waiting(self._waiting())
        self._metrics.woken(Counter(found.sources))
        self._metrics.deferred(found.deferred)
        self._metrics.wakes_missed(len(found.missed))
        for workload_id in found.missed:
            logger.warning("a wake was missed", id=workload_id, cycle=self._number)
        if not plan.placements:
            return
        logger.info(
            "cycle placed",
            cycle=self._number,
            active=active,
            parked=parked,
            placed=len(plan.placements),
            rejected=len(plan.rejections),
            undecided=plan.undecided,
            engine_ms=round(result.seconds * 1000, 1),
        )
