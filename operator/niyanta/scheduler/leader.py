"""Wiring of one leadership: makes the scheduler's components and passes each the collaborators it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from niyanta.lifecycle import Phase
from niyanta.scheduler.backlog.loader import BacklogLoader
from niyanta.scheduler.backlog.row_changes import RowChanges
from niyanta.scheduler.backlog.row_reader import RowReader
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.demand.stats_collector import StatsCollector
from niyanta.scheduler.gauges import SchedulerGauges
from niyanta.scheduler.intake.admission import Admission
from niyanta.scheduler.intake.eligibility import EligibilityCheck
from niyanta.scheduler.intake.finished_intake import FinishedIntake
from niyanta.scheduler.intake.rest_holds import RestHolds
from niyanta.scheduler.intake.reviews import Reviews
from niyanta.scheduler.intake.unloaded import UnloadedWorkloads
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.loop import LeaderLoop
from niyanta.scheduler.metrics import SchedulerMetrics
from niyanta.scheduler.periodic.drain_queries import DrainQueries
from niyanta.scheduler.periodic.expiry import ObjectExpiry
from niyanta.scheduler.periodic.maintenance import Maintenance
from niyanta.scheduler.periodic.timers import LeaderTimers
from niyanta.scheduler.periodic.wake_ups import WakeUps
from niyanta.scheduler.placing.cycle import Cycle
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.observer import PodObserver
from niyanta.scheduler.pods.pod_creator import PodCreator
from niyanta.scheduler.pods.pod_remover import PodRemover
from niyanta.scheduler.pods.rest_object import RestObjects
from niyanta.scheduler.recovery.adoption import Adoption
from niyanta.scheduler.recovery.missing_objects import MissingObjects
from niyanta.scheduler.recovery.recovery import Recovery
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.state import StateManager


@dataclass(frozen=True, slots=True)
class RowWriters:
    """The components that move rows and their pods."""

    creator: PodCreator
    remover: PodRemover
    reasons: PendingReasons
    transitions: Transitions
    eligibility: EligibilityCheck


@dataclass(frozen=True, slots=True)
class ChangeHandlers:
    """The components that derive decisions from pods, users' changes and other processes' changes."""

    observer: PodObserver
    admission: Admission
    reviews: Reviews
    unloaded: UnloadedWorkloads
    row_changes: RowChanges
    backlog_loader: BacklogLoader
    missing_objects: MissingObjects
    recovery: Recovery


@dataclass(frozen=True, slots=True)
class Leader:
    """The scheduler under one epoch."""

    state: SchedulerState
    cluster: ClusterApi
    drain_queries: DrainQueries
    writers: RowWriters
    handlers: ChangeHandlers
    wake_ups: WakeUps
    expiry: ObjectExpiry
    cycle: Cycle
    loop: LeaderLoop

    async def run(self, on_recovered: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run until cancelled; raises StaleEpochError or LeaseLostError when leadership is over."""
        await self.loop.run(on_recovered)

    async def close(self) -> None:
        """Stop the tasks beside the loop, and release the capacity that placements claimed in this process."""
        self.drain_queries.cancel()
        self.handlers.missing_objects.close()
        await self.handlers.unloaded.close()
        await self.expiry.close()
        await self.writers.creator.close()
        await self.writers.remover.close()
        for tracked in self.state.workloads.select((Phase.SCHEDULED, Phase.RUNNING)):
            self.cluster.unclaim(tracked.id, tracked.row.attempt)


def make_leader(
    state: SchedulerState,
    *,
    store: StateManager,
    cluster: ClusterApi,
    work_queue: WorkQueue,
    metrics: SchedulerMetrics,
    on_lost: Callable[[], None],
    tick: Callable[[], None],
) -> Leader:
    """Wire one leadership; needs a running event loop.

    `on_lost` is called when a request finds leadership lost; `tick` during long work, so that it doesn't count as a
    stall.
    """
    writers = _make_writers(
        state, store=store, cluster=cluster, work_queue=work_queue, metrics=metrics, on_lost=on_lost, tick=tick
    )
    handlers = _make_handlers(state, writers, store=store, cluster=cluster, work_queue=work_queue, tick=tick)
    drain_queries = DrainQueries(work_queue.wake)
    expiry = ObjectExpiry(state, cluster, on_lost=on_lost)
    wake_ups = WakeUps(state, transitions=writers.transitions)
    maintenance = Maintenance(
        state,
        store=store,
        cluster=cluster,
        work_queue=work_queue,
        drain_queries=drain_queries,
        missing_objects=handlers.missing_objects,
        transitions=writers.transitions,
        tick=tick,
    )
    gauges = SchedulerGauges(state, store=store, cluster=cluster, pool_labels=metrics.pools)
    timers = LeaderTimers(
        state,
        store=store,
        wake_ups=wake_ups,
        expiry=expiry,
        observer=handlers.observer,
        transitions=writers.transitions,
        reasons=writers.reasons,
        maintenance=maintenance,
        gauges=gauges,
    )
    cycle = _make_cycle(state, writers, cluster=cluster, metrics=metrics)
    loop = _make_loop(
        state,
        writers,
        handlers,
        store=store,
        cluster=cluster,
        work_queue=work_queue,
        metrics=metrics,
        timers=timers,
        cycle=cycle,
        tick=tick,
    )
    return Leader(state, cluster, drain_queries, writers, handlers, wake_ups, expiry, cycle, loop)


def _make_cycle(state: SchedulerState, writers: RowWriters, *, cluster: ClusterApi, metrics: SchedulerMetrics) -> Cycle:
    return Cycle(
        state,
        cluster=cluster,
        transitions=writers.transitions,
        reasons=writers.reasons,
        eligibility=writers.eligibility,
        metrics=metrics,
    )


def _make_loop(
    state: SchedulerState,
    writers: RowWriters,
    handlers: ChangeHandlers,
    *,
    store: StateManager,
    cluster: ClusterApi,
    work_queue: WorkQueue,
    metrics: SchedulerMetrics,
    timers: LeaderTimers,
    cycle: Cycle,
    tick: Callable[[], None],
) -> LeaderLoop:
    return LeaderLoop(
        state,
        work_queue=work_queue,
        recovery=handlers.recovery,
        admission=handlers.admission,
        reviews=handlers.reviews,
        unloaded=handlers.unloaded,
        transitions=writers.transitions,
        observer=handlers.observer,
        reasons=writers.reasons,
        row_changes=handlers.row_changes,
        backlog_loader=handlers.backlog_loader,
        timers=timers,
        cycle=cycle,
        stats_collector=StatsCollector(state, store=store, cluster=cluster),
        metrics=metrics,
        tick=tick,
    )


def _make_writers(
    state: SchedulerState,
    *,
    store: StateManager,
    cluster: ClusterApi,
    work_queue: WorkQueue,
    metrics: SchedulerMetrics,
    on_lost: Callable[[], None],
    tick: Callable[[], None],
) -> RowWriters:
    eligibility = EligibilityCheck(cluster, state.settings)
    rest_objects = RestObjects(cluster=cluster, store=store, workloads=state.workloads, epoch=state.epoch)
    creator = PodCreator(
        cluster,
        rest_objects,
        eligibility=eligibility,
        gates=state.namespace_gates,
        epoch=state.epoch,
        request_timeout=state.settings.request_timeout,
        wake=work_queue.wake,
        on_lost=on_lost,
    )
    remover = PodRemover(state, cluster, on_lost=on_lost)
    reasons = PendingReasons(state, store=store, cluster=cluster)
    transitions = Transitions(
        state,
        store=store,
        cluster=cluster,
        work_queue=work_queue,
        creator=creator,
        remover=remover,
        reasons=reasons,
        metrics=metrics,
        tick=tick,
    )
    return RowWriters(creator, remover, reasons, transitions, eligibility)


def _make_reviews(
    state: SchedulerState,
    writers: RowWriters,
    *,
    store: StateManager,
    cluster: ClusterApi,
    tick: Callable[[], None],
) -> Reviews:
    transitions = writers.transitions
    return Reviews(
        state,
        store=store,
        cluster=cluster,
        reasons=writers.reasons,
        transitions=transitions,
        eligibility=writers.eligibility,
        rest_holds=RestHolds(state, store=store, cluster=cluster, transitions=transitions),
        tick=tick,
    )


def _make_backlog(
    state: SchedulerState,
    *,
    store: StateManager,
    cluster: ClusterApi,
    work_queue: WorkQueue,
    transitions: Transitions,
    tick: Callable[[], None],
) -> tuple[RowChanges, BacklogLoader]:
    reader = RowReader(state, store=store, cluster=cluster, transitions=transitions, tick=tick)
    row_changes = RowChanges(
        state, store=store, work_queue=work_queue, transitions=transitions, reader=reader, tick=tick
    )
    backlog_loader = BacklogLoader(
        state, store=store, work_queue=work_queue, changes=row_changes, reader=reader, tick=tick
    )
    return row_changes, backlog_loader


def _make_handlers(
    state: SchedulerState,
    writers: RowWriters,
    *,
    store: StateManager,
    cluster: ClusterApi,
    work_queue: WorkQueue,
    tick: Callable[[], None],
) -> ChangeHandlers:
    transitions, reasons = writers.transitions, writers.reasons
    observer = PodObserver(
        state,
        store=store,
        cluster=cluster,
        creator=writers.creator,
        remover=writers.remover,
        reasons=reasons,
        transitions=transitions,
    )
    backlog = _make_backlog(
        state, store=store, cluster=cluster, work_queue=work_queue, transitions=transitions, tick=tick
    )
    reviews = _make_reviews(state, writers, store=store, cluster=cluster, tick=tick)
    finished = FinishedIntake(state, store=store, cluster=cluster)
    admission = Admission(
        state,
        store=store,
        cluster=cluster,
        reviews=reviews,
        eligibility=writers.eligibility,
        finished=finished,
        transitions=transitions,
        tick=tick,
    )
    unloaded = UnloadedWorkloads(state, cluster=cluster, admission=admission)
    missing_objects = MissingObjects(
        state,
        cluster=cluster,
        admission=admission,
        reasons=reasons,
        creator=writers.creator,
        transitions=transitions,
        work_queue=work_queue,
        tick=tick,
    )
    recovery = Recovery(
        state,
        store=store,
        cluster=cluster,
        admission=admission,
        row_changes=backlog[0],
        observer=observer,
        creator=writers.creator,
        adoption=Adoption(state, store=store, cluster=cluster, transitions=transitions, tick=tick),
        missing_objects=missing_objects,
        finished=finished,
        tick=tick,
    )
    return ChangeHandlers(observer, admission, reviews, unloaded, *backlog, missing_objects, recovery)
