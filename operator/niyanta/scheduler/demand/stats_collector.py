"""Demand statistics: each second, running and waiting workloads by pool and namespace, and the workers that pools need.

A task of its own, so that the statistics stay current while the leader's loop waits for the engine or for Postgres. It
reads the leader's memory, runs `engine.sizing` in a thread on a snapshot of its own, and writes one row; the metrics
adapters of all replicas answer from that row. `pending_reasons` reads the sizing result.

Every Pending workload counts as waiting, also in backoff, unless its last pods are still stopping: those still count as
running. The first SIZED_WORKLOADS in queue order (fewer of one kind, so that many workloads of one kind don't hide the
rest) are packed one by one. Other workloads of these kinds, in memory or in a REST backlog that is too deep for memory,
are counted by their kind and rounded down; the count is exact once the queue has become shorter.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from niyanta.aio import Timer, in_slices
from niyanta.containment import Boundary, contained, record
from niyanta.engine.schedule import Options
from niyanta.engine.sizing.planner import EmptyPool, IdenticalWorkloads, Planner, Sizing
from niyanta.engine.snapshot.deltas import Delta
from niyanta.engine.types import PendingWorkload
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterReads, pods_of
from niyanta.scheduler.demand.sizing_result import SizingResult, WorkloadKind
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.workload_cache import pending
from niyanta.scheduler.state import SchedulerState
from niyanta.store.errors import StaleEpochError, StoreError
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats, PoolStats
from niyanta.store.state import StateManager

logger = log.get(__name__)

WRITE_EVERY_SECONDS = 1.0

ENGINE_SHARE = 0.3
"""Largest share of the time that the engine may spend on sizing; beyond it, a round only counts."""

SIZED_WORKLOADS = 4000
SIZED_WORKLOADS_PER_KIND = 2000
SIZED_KINDS = 1000
"""Bounds of one sizing. Workloads of further kinds (customer and requirements class) are sized when they have moved up
in the queue."""

EMPTY_WORKERS_EVERY_SECONDS = 10.0
BACKLOG_EVERY_SECONDS = 2.0
LONGEST_ENGINE_PAUSE_SECONDS = 3.0
RESTART_EVERY_SECONDS = 60.0
"""Least time between two reads of the whole cluster because a change of it raised."""

SLICE_ROWS = 2000
"""Workloads counted before other tasks of the event loop run."""


@dataclass(slots=True)
class _Count:
    """Number of workloads and of their pods, and the earliest time at which one was queued (microseconds)."""

    workloads: int = 0
    pods: int = 0
    oldest: int | None = None

    def add(self, workloads: int, replicas: int, queued_at: int | None) -> None:
        self.workloads += workloads
        self.pods += workloads * replicas
        if queued_at is not None:
            self.oldest = queued_at if self.oldest is None else min(self.oldest, queued_at)

    def age(self, now: int) -> float:
        """Seconds since the earliest one was queued; 0 without any."""
        return 0.0 if self.oldest is None else round(max(now - self.oldest, 0) / 1e6, 3)


@dataclass(slots=True)
class _Queue:
    """The waiting workloads at one moment: the first ones individually, the rest by kind."""

    sized: list[PendingWorkload] = field(default_factory=list)
    kinds: dict[WorkloadKind, PendingWorkload] = field(default_factory=dict)
    """The last sized workload of each kind; further workloads of the kind count for the same pool."""
    inside: Counter[WorkloadKind] = field(default_factory=Counter)
    """Workloads of each kind in memory."""
    rest: dict[WorkloadKind, _Count] = field(default_factory=dict)
    """Workloads of each kind that aren't sized individually."""

    def add(self, kind: WorkloadKind, workload: PendingWorkload) -> None:
        """Add the next workload in queue order."""
        self.inside[kind] += 1
        if kind not in self.kinds:
            chosen = len(self.kinds) < SIZED_KINDS  # one of each kind, even beyond SIZED_WORKLOADS
        else:
            chosen = self.inside[kind] <= SIZED_WORKLOADS_PER_KIND and len(self.sized) < SIZED_WORKLOADS
        if chosen:
            self.sized.append(workload)
            self.kinds[kind] = workload
        elif kind in self.kinds:
            self.rest.setdefault(kind, _Count()).add(1, workload.replicas, workload.queued_at)

    def bulk(self) -> tuple[IdenticalWorkloads, ...]:
        return tuple(IdenticalWorkloads(kind, self.kinds[kind], count.workloads) for kind, count in self.rest.items())


@dataclass(frozen=True, slots=True)
class _Input:
    """The inputs of a sizing, except for the changes of the cluster."""

    pools: tuple[EmptyPool, ...]
    sized: tuple[PendingWorkload, ...]
    bulk: tuple[IdenticalWorkloads, ...]
    options: Options
    refused: frozenset[str]


class StatsCollector:
    """Makes and writes the demand statistics of one leadership."""

    def __init__(
        self, state: SchedulerState, *, store: StateManager, cluster: ClusterReads, is_deep: Callable[[], bool]
    ) -> None:
        """`is_deep` returns True if Postgres holds more waiting workloads than memory."""
        self._state = state
        self._store = store
        self._cluster = cluster
        self._is_deep = is_deep
        self._planner = Planner()
        self._empty_workers: dict[str, Mapping[str, Any]] = {}
        self._unsaved: set[str] = set()
        self._backlog: Mapping[WorkloadKind, int] = {}
        self._reload = Timer(EMPTY_WORKERS_EVERY_SECONDS)
        self._observe = Timer(EMPTY_WORKERS_EVERY_SECONDS)
        self._count_backlog = Timer(BACKLOG_EVERY_SECONDS)
        self._engine_rests_until = 0.0
        self._last: tuple[_Input, Sizing] | None = None
        self._faulty: frozenset[str] = frozenset()
        """Workloads whose packing raised in the last sizing."""
        self._deltas = self._cluster.delta_cursor()
        self._restart = Timer(RESTART_EVERY_SECONDS)
        self._damaged = False
        """A change of the cluster raised since the planner last read the whole state."""

    async def run(self) -> None:
        """Run until cancelled, or until another process leads."""
        self._empty_workers = {}
        while True:
            started = time.monotonic()
            try:
                if not self._empty_workers and self._reload.due():
                    self._empty_workers = {**await self._store.get_shapes()}
                await self.once()
            except StaleEpochError:
                return  # the leader's loop ends the leadership when its own commit fails
            except StoreError as error:
                logger.warning("statistics of demand were not written", error=str(error))
            except Exception as error:  # placement goes on, and the adapter reports that statistics are stale
                record(Boundary.STATISTICS, "demand", error)
            await asyncio.sleep(max(WRITE_EVERY_SECONDS - (time.monotonic() - started), WRITE_EVERY_SECONDS / 4))

    async def once(self) -> DemandStats:
        """Make, keep and write the statistics."""
        if self._observe.due():
            await self._learn_empty_workers()
        if self._is_deep() and self._count_backlog.due():
            self._backlog = await self._store.get_kind_depths()
        running = await self._count_running()
        queue, sizing = await self._size()
        stats = self._make_stats(queue, sizing, running)
        self._state.demand_stats = stats
        await self._store.write_figures(stats, epoch=self._state.epoch)
        return stats

    async def _learn_empty_workers(self) -> None:
        """Store the observed empty worker of each pool, for times when the pool has no worker."""
        seen = await self._cluster.observe_empty_workers()
        self._unsaved |= {name for name, shape in seen.items() if self._empty_workers.get(name) != shape}
        self._empty_workers.update(seen)
        if self._unsaved:
            shapes = {name: self._empty_workers[name] for name in self._unsaved if name in self._empty_workers}
            self._unsaved -= await self._store.write_shapes(shapes, epoch=self._state.epoch)

    # --- running workloads --------------------------------------------------------------------------------------------

    async def _count_running(self) -> tuple[Counter[str], dict[str, tuple[_Count, _Count]]]:
        """Bound workloads by pool; waiting and running workloads by namespace."""
        pools: Counter[str] = Counter()
        spaces: dict[str, tuple[_Count, _Count]] = {}
        async for part in in_slices(list(self._state.workloads), SLICE_ROWS):
            for row in (tracked.row for tracked in part):
                if row.phase.bound:
                    pools[row.pool] += 1
                    spaces.setdefault(row.namespace, (_Count(), _Count()))[1].add(1, row.replicas, None)
                elif row.phase is Phase.PENDING:
                    spaces.setdefault(row.namespace, (_Count(), _Count()))[0].add(1, row.replicas, row.queued_at_us)
        return pools, spaces

    # --- waiting workloads --------------------------------------------------------------------------------------------

    def _gather(self) -> _Queue:
        """All waiting workloads: the queue in its order, then workloads in backoff, then the backlog in Postgres."""
        queue = _Queue()
        for workload in self._state.workloads.queue.in_order():
            tracked = self._state.workloads.get(workload.id)
            if tracked is not None:
                queue.add((tracked.row.customer, tracked.row.class_id), workload)
        for tracked, workload in self._absent():
            queue.add((tracked.row.customer, tracked.row.class_id), workload)
        if self._is_deep():
            for kind, depth in self._backlog.items():
                like = queue.kinds.get(kind)
                if like is not None and depth > queue.inside[kind]:
                    queue.rest.setdefault(kind, _Count()).add(depth - queue.inside[kind], like.replicas, None)
        return queue

    def _absent(self) -> Iterator[tuple[TrackedWorkload, PendingWorkload]]:
        """Pending workloads in backoff, which aren't in the queue; without those whose last pods are still stopping."""
        now = self._state.clock.now()
        away = [
            tracked
            for tracked in self._state.workloads.select((Phase.PENDING,))
            if tracked.requirements is not None and tracked.id not in self._state.workloads.queue
        ]
        for tracked in sorted(away, key=lambda tracked: (tracked.row.queued_at_us, tracked.id)):
            assert tracked.requirements is not None
            waiting: PendingWorkload | None = None
            with contained(Boundary.STATISTICS, tracked.id):
                if not tracked.applying and all(pod.over for pod in pods_of(self._cluster, tracked.row)):
                    waiting = pending(tracked.row, tracked.requirements, tracked.subject, now=now)
            if waiting is not None:
                yield tracked, waiting

    def _options(self) -> Options:
        remaining = {}
        for customer, bound in self._state.workloads.bound_by_customer().items():
            limit = self._cluster.customer_limits(customer).concurrent
            if limit is not None:
                remaining[customer] = max(limit - bound, 0)
        return Options(keep_gpu_workers_free=self._state.settings.keep_gpu_workers_free, remaining=remaining)

    # --- sizing -------------------------------------------------------------------------------------------------------

    async def _size(self) -> tuple[_Queue, Sizing]:
        """Size the waiting workloads, or return the last sizing if nothing changed or the engine used up its share of
        the time. Queue and cluster are read at the same moment."""
        queue = self._gather()
        pools = tuple(self._cluster.empty_pools(self._empty_workers))
        for gone in self._empty_workers.keys() - {pool.name for pool in pools}:
            del self._empty_workers[gone]  # a new pool of the same name may have other workers
        refused = frozenset(w.id for w in queue.sized if (t := self._state.workloads.get(w.id)) and t.turned_down)
        wanted = _Input(pools, tuple(queue.sized), queue.bulk(), self._options(), refused)
        last = self._last
        if last is not None and not self._deltas.has_unread and last[0] == wanted:
            return queue, last[1]
        if last is not None and time.monotonic() < self._engine_rests_until:
            return queue, last[1]
        started = time.monotonic()
        sizing = await asyncio.to_thread(self._plan, self._deltas.take(), wanted)
        if self._damaged and self._restart.due():
            self._deltas.restart()
            self._damaged = False
        spent = time.monotonic() - started
        self._engine_rests_until = time.monotonic() + min(spent / ENGINE_SHARE - spent, LONGEST_ENGINE_PAUSE_SECONDS)
        self._last = wanted, sizing
        self._report_faults(sizing)
        kinds = {kind: sizing.pool_fits[like.id] for kind, like in queue.kinds.items()}
        self._state.sizing_result = SizingResult(sizing.pool_fits, kinds, wanted.pools)
        return queue, sizing

    def _report_faults(self, sizing: Sizing) -> None:
        """Record the workloads whose packing raised an unexpected error, each once for as long as it lasts."""
        for fault in sizing.faults:
            if fault.id not in self._faulty:
                record(Boundary.POOL_SIZE, fault.id, fault.error)
        self._faulty = frozenset(fault.id for fault in sizing.faults)

    def _plan(self, deltas: Sequence[Delta], wanted: _Input) -> Sizing:
        faults = self._planner.follow(deltas)
        for fault in faults:
            record(Boundary.DELTA, fault.subject, fault.error)
        self._damaged = self._damaged or bool(faults)
        return self._planner.size(wanted.pools, wanted.sized, wanted.bulk, wanted.options, wanted.refused)

    # --- statistics ---------------------------------------------------------------------------------------------------

    def _make_stats(
        self, queue: _Queue, sizing: Sizing, running: tuple[Counter[str], dict[str, tuple[_Count, _Count]]]
    ) -> DemandStats:
        now = self._state.clock.now()
        waiting: dict[str, _Count] = {}
        for workload in queue.sized:
            fit = sizing.pool_fits.get(workload.id)
            if fit is not None and fit.pool:
                waiting.setdefault(fit.pool, _Count()).add(1, workload.replicas, workload.queued_at)
        bound, spaces = running
        for kind, count in queue.rest.items():
            like = queue.kinds[kind]
            for pool, part in sizing.identical.get(kind, ()):
                waiting.setdefault(pool, _Count()).add(part, like.replicas, count.oldest)
            beyond = self._backlog.get(kind, 0) - queue.inside[kind] if self._is_deep() else 0
            if beyond > 0:  # their namespaces aren't in memory: count them where the kind's last sized workload is
                spaces.setdefault(like.subject.namespace, (_Count(), _Count()))[0].add(beyond, like.replicas, None)
        regions = {pool.name: pool.region for pool in self._last[0].pools} if self._last is not None else {}
        pools = []
        for name, load in sorted(sizing.loads.items()):
            mine = waiting.get(name, _Count())
            pools.append(
                PoolStats(
                    pool=name,
                    region=regions.get(name, ""),
                    workers=load.workers,
                    ready_workers=load.ready,
                    workers_in_use=load.in_use,
                    running_workloads=bound[name],
                    running_slots=load.pods,
                    queued_workloads=mine.workloads,
                    queued_slots=mine.pods,
                    oldest_age_seconds=mine.age(now),
                    workers_needed=load.needed,
                    utilization=load.utilization,
                    utilization_percent_sum=load.percent_sum,
                )
            )
        return DemandStats(
            at=now,
            epoch=self._state.epoch,
            pools=tuple(pools),
            namespaces=tuple(
                NamespaceStats(name, waits.workloads, waits.pods, runs.workloads, runs.pods, waits.age(now))
                for name, (waits, runs) in sorted(spaces.items())
            ),
        )
