"""Demand statistics: each second, running and waiting workloads by pool and namespace, and the workers that pools need.

A task of its own, so that the statistics stay current while the leader's loop waits for the engine or for Postgres. It
reads the leader's memory, runs `engine.sizing` in a thread on a snapshot of its own, and writes one row; the metrics
adapters of all replicas answer from that row. `pending_reasons` reads the sizing result.

Every Pending workload counts as waiting, also in backoff, unless its last pods are still stopping: those still count as
running. The first ones of SIZED_CLASSES classes are packed one by one; all others, in memory or in Postgres alone, are
counted for the pool of their class (`waiting_classes`). Counts of namespaces are exact; those of pools are as exact as
the packing. A round in which nothing changed costs nothing for what waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from niyanta.aio import Timer
from niyanta.containment import Boundary, record
from niyanta.engine.schedule import Options
from niyanta.engine.sizing.planner import EmptyPool, IdenticalWorkloads, Planner, Sizing
from niyanta.engine.snapshot.deltas import Delta
from niyanta.engine.types import PendingWorkload, WorkerInfo
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.demand.sizing_result import SizingResult
from niyanta.scheduler.demand.waiting import Count, Selection
from niyanta.scheduler.demand.waiting_classes import WaitingClasses
from niyanta.scheduler.memory.tally import NamespaceCount
from niyanta.scheduler.state import SchedulerState
from niyanta.store.errors import StaleEpochError, StoreError
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats, PoolStats
from niyanta.store.state import StateManager

logger = log.get(__name__)

WRITE_EVERY_SECONDS = 1.0

ENGINE_SHARE = 0.3
"""Largest share of the time that the engine may spend on sizing; beyond it, a round only counts."""

EMPTY_WORKERS_EVERY_SECONDS = 10.0
LONGEST_ENGINE_PAUSE_SECONDS = 3.0
RESTART_EVERY_SECONDS = 60.0
"""Least time between two reads of the whole cluster because a change of it raised."""


@dataclass(frozen=True, slots=True)
class _Input:
    """The inputs of a sizing, except for the changes of the cluster."""

    pools: tuple[EmptyPool, ...]
    sized: tuple[PendingWorkload, ...]
    bulk: tuple[IdenticalWorkloads, ...]
    options: Options
    refused: frozenset[str]


@dataclass(slots=True)
class _Sums:
    """The workloads of a selection that count for pools."""

    pools: dict[str, Count] = field(default_factory=dict)
    customers: Counter[str] = field(default_factory=Counter)

    def add(self, pool: str, like: PendingWorkload, workloads: int, queued_at: int | None) -> None:
        self.pools.setdefault(pool, Count()).add(workloads, like.replicas, queued_at)
        self.customers[like.subject.customer] += workloads


class StatsCollector:
    """Makes and writes the demand statistics of one leadership."""

    def __init__(self, state: SchedulerState, *, store: StateManager, cluster: ClusterReads) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._waiting = WaitingClasses(state.workloads, cluster)
        self._planner = Planner()
        self._empty_workers: dict[str, Mapping[str, Any]] = {}
        self._unsaved: set[str] = set()
        self._reload = Timer(EMPTY_WORKERS_EVERY_SECONDS)
        self._observe = Timer(EMPTY_WORKERS_EVERY_SECONDS)
        self._engine_rests_until = 0.0
        self._last: tuple[_Input, Sizing] | None = None
        self._summed: tuple[Selection, Sizing, _Sums] | None = None
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
        await self._waiting.follow(now=self._state.clock.now())
        selection, sizing = await self._size()
        stats = self._make_stats(selection, sizing)
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

    # --- sizing -------------------------------------------------------------------------------------------------------

    def _options(self) -> Options:
        remaining = {}
        for customer, bound in self._state.workloads.bound_by_customer().items():
            limit = self._cluster.customer_limits(customer).concurrent
            if limit is not None:
                remaining[customer] = max(limit - bound, 0)
        return Options(keep_gpu_workers_free=self._state.settings.keep_gpu_workers_free, remaining=remaining)

    async def _size(self) -> tuple[Selection, Sizing]:
        """Size the waiting workloads, or return the last sizing if nothing changed or the engine used up its share of
        the time. Queue and cluster are read at the same moment."""
        selection = self._waiting.select()
        pools = tuple(self._cluster.empty_pools(self._empty_workers))
        for gone in self._empty_workers.keys() - {pool.name for pool in pools}:
            del self._empty_workers[gone]  # a new pool of the same name may have other workers
        wanted = _Input(pools, selection.sized, selection.bulk, self._options(), selection.refused)
        last = self._last
        if last is not None and _templates(last[0].pools) != _templates(pools):
            self._waiting.outdate_fits()
        changed = self._deltas.has_unread or self._waiting.has_unfitted
        if last is not None and last[0] == wanted and not changed:
            return selection, last[1]
        if last is not None and time.monotonic() < self._engine_rests_until:
            return selection, last[1]
        started = time.monotonic()
        sizing = await asyncio.to_thread(self._plan, self._deltas.take(), wanted, self._waiting.unfitted())
        if self._damaged and self._restart.due():
            self._deltas.restart()
            self._damaged = False
        spent = time.monotonic() - started
        self._engine_rests_until = time.monotonic() + min(spent / ENGINE_SHARE - spent, LONGEST_ENGINE_PAUSE_SECONDS)
        self._last = wanted, sizing
        self._report_faults(sizing)
        self._waiting.fit({name: sizing.pool_fits[like.id] for name, like in selection.likes.items()})
        self._waiting.fit(sizing.empty_fits)
        self._state.sizing_result = SizingResult(sizing.pool_fits, self._waiting.fits, wanted.pools)
        return selection, sizing

    def _report_faults(self, sizing: Sizing) -> None:
        """Record the workloads whose packing raised an unexpected error, each once for as long as it lasts."""
        for fault in sizing.faults:
            if fault.id not in self._faulty:
                record(Boundary.POOL_SIZE, fault.id, fault.error)
        self._faulty = frozenset(fault.id for fault in sizing.faults)

    def _plan(self, deltas: Sequence[Delta], wanted: _Input, unfitted: Sequence[tuple[str, PendingWorkload]]) -> Sizing:
        faults = self._planner.follow(deltas)
        for fault in faults:
            record(Boundary.DELTA, fault.subject, fault.error)
        self._damaged = self._damaged or bool(faults)
        return self._planner.size(wanted.pools, wanted.sized, wanted.bulk, wanted.options, wanted.refused, unfitted)

    # --- statistics ---------------------------------------------------------------------------------------------------

    def _make_stats(self, selection: Selection, sizing: Sizing) -> DemandStats:
        now = self._state.clock.now()
        by_pool = self._by_pool(selection, sizing)
        regions = {pool.name: pool.region for pool in self._last[0].pools} if self._last is not None else {}
        pools = []
        for name, load in sorted(sizing.loads.items()):
            mine = by_pool.get(name, Count())
            pools.append(
                PoolStats(
                    pool=name,
                    region=regions.get(name, ""),
                    workers=load.workers,
                    ready_workers=load.ready,
                    workers_in_use=load.in_use,
                    running_workloads=self._state.workloads.tally.bound[name],
                    running_slots=load.pods,
                    queued_workloads=mine.workloads,
                    queued_slots=mine.pods,
                    oldest_age_seconds=mine.age(now),
                    workers_needed=load.needed,
                    utilization=load.utilization,
                    utilization_percent_sum=load.percent_sum,
                )
            )
        return DemandStats(at=now, epoch=self._state.epoch, pools=tuple(pools), namespaces=self._namespaces(now))

    def _namespaces(self, now: int) -> tuple[NamespaceStats, ...]:
        """Namespaces with waiting or running workloads, in memory or not."""
        inside, counts = self._state.workloads.tally.namespaces, self._state.backlog.outside_counts
        oldest = self._state.waiting_since.namespaces
        workloads: Counter[str] = Counter()
        pods: Counter[str] = Counter()
        for (_, namespace), number in counts.workloads().items():
            workloads[namespace] += number
        for (_, namespace), number in counts.pods().items():
            pods[namespace] += number
        found = []
        for name in sorted(inside.keys() | workloads.keys()):
            mine = inside.get(name, NamespaceCount())
            waiting = Count(mine.waiting + workloads[name], mine.waiting_pods + pods[name], oldest.get(name))
            running = mine.running, mine.running_pods
            found.append(NamespaceStats(name, waiting.workloads, waiting.pods, *running, waiting.age(now)))
        return tuple(found)

    def _by_pool(self, selection: Selection, sizing: Sizing) -> dict[str, Count]:
        """The waiting workloads that count for each pool."""
        if self._summed is None or self._summed[0] is not selection or self._summed[1] is not sizing:
            self._summed = selection, sizing, self._sum(selection, sizing)
        sums = self._summed[2]
        by_pool = {pool: replace(count) for pool, count in sums.pools.items()}
        remaining = self._last[0].options.remaining if self._last is not None else {}
        left = {customer: max(0, number - sums.customers[customer]) for customer, number in remaining.items()}
        for customer, pool, count in self._waiting.unsized:
            workloads = count.workloads
            if customer in left:  # beyond its limit, more workers would not help
                workloads = min(workloads, left[customer])
                left[customer] -= workloads
            if workloads:
                mine = by_pool.setdefault(pool, Count())
                mine.add(workloads, 0, count.oldest)
                mine.pods += count.pods * workloads // count.workloads
        return by_pool

    def _sum(self, selection: Selection, sizing: Sizing) -> _Sums:
        """The workloads of the selection by pool. What came after the sizing counts for the pool of its class."""
        sums, fits = _Sums(), self._waiting.fits
        for workload, name in zip(selection.sized, selection.names, strict=True):
            fit = sizing.pool_fits.get(workload.id) or fits.get(name)
            if fit is not None and fit.pool:
                sums.add(fit.pool, workload, 1, workload.queued_at)
        for name, count in selection.rest.items():
            like, fit = selection.likes[name], fits.get(name)
            parts = sizing.identical.get(name)
            if parts is None:
                parts = () if fit is None or not fit.pool else ((fit.pool, count.workloads),)
            for pool, part in parts:
                sums.add(pool, like, part, count.oldest)
        return sums


def _templates(pools: Sequence[EmptyPool]) -> dict[str, tuple[WorkerInfo, ...]]:
    return {pool.name: pool.templates for pool in pools}
