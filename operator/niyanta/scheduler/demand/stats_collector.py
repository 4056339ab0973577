"""The leader's figures: once a second what runs and waits per pool and namespace, and how many workers pools need.

A task beside the leader's loop, so that figures stay young while the loop waits for the engine or for Postgres. It
reads the session's memory, has `engine.sizing` think in a thread on a snapshot of its own, and writes one row that the
metrics adapters of all replicas answer from. `cycle` takes from it which pool waiting work would fit.

What counts as waiting: every Pending workload, those in backoff too, for they come back; not one whose last pods still
stop, for those pods still count as running. The first LOOKED_AT in queue order (fewer of a kind, so that no wall hides
the rest) are packed one by one. What else there is of these kinds in memory, and in a backlog of the REST door that is
too deep for memory, is counted by its class and rounded down: exact once the queue has become shorter.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from niyanta.engine.schedule import Options
from niyanta.engine.sizing.planner import EmptyPool, IdenticalWorkloads, Planner, Sizing
from niyanta.engine.snapshot.deltas import Delta
from niyanta.engine.types import PendingWorkload
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.scheduler.demand.sizing_result import SizingResult, WorkloadKind
from niyanta.scheduler.session import Session
from niyanta.scheduler.workload_cache import TrackedWorkload, pending
from niyanta.store.errors import StaleEpochError, StoreError
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats, PoolStats

logger = log.get(__name__)

EVERY = 1.0
"""Seconds between two writings."""

SHARE = 0.3
"""Most part of the time that the engine may think about sizes; beyond it, a round only counts."""

LOOKED_AT = 4000
MOST_OF_A_KIND = 2000
MOST_KINDS = 1000
"""Kinds beyond these (customer and requirements class) are looked at when their turn in the queue comes."""

SHAPES_EVERY = 10.0
BACKLOG_EVERY = 2.0
SLICE = 2000
"""Workloads counted before other tasks of the loop get their turn."""


@dataclass(slots=True)
class _Count:
    """Workloads, their pods, and when the first was queued (microseconds)."""

    workloads: int = 0
    pods: int = 0
    oldest: int | None = None

    def add(self, workloads: int, replicas: int, queued_at: int | None) -> None:
        self.workloads += workloads
        self.pods += workloads * replicas
        if queued_at is not None:
            self.oldest = queued_at if self.oldest is None else min(self.oldest, queued_at)

    def age(self, now: int) -> float:
        """Seconds that the first has waited."""
        return 0.0 if self.oldest is None else round(max(now - self.oldest, 0) / 1e6, 3)


@dataclass(slots=True)
class _Queue:
    """What waits, at one moment: looked at one by one, and the rest by kind."""

    looked_at: list[PendingWorkload] = field(default_factory=list)
    kinds: dict[WorkloadKind, PendingWorkload] = field(default_factory=dict)
    """The last of each kind that is looked at: what more there is of it fares like this one."""
    inside: Counter[WorkloadKind] = field(default_factory=Counter)
    """All of each kind that are in memory."""
    rest: dict[WorkloadKind, _Count] = field(default_factory=dict)

    def add(self, kind: WorkloadKind, workload: PendingWorkload) -> None:
        """Next in queue order."""
        self.inside[kind] += 1
        if kind not in self.kinds:
            chosen = len(self.kinds) < MOST_KINDS  # one of each, however long the queue before it
        else:
            chosen = self.inside[kind] <= MOST_OF_A_KIND and len(self.looked_at) < LOOKED_AT
        if chosen:
            self.looked_at.append(workload)
            self.kinds[kind] = workload
        elif kind in self.kinds:
            self.rest.setdefault(kind, _Count()).add(1, workload.replicas, workload.queued_at)

    def bulk(self) -> tuple[IdenticalWorkloads, ...]:
        return tuple(IdenticalWorkloads(kind, self.kinds[kind], count.workloads) for kind, count in self.rest.items())


@dataclass(frozen=True, slots=True)
class _Input:
    """All that a sizing depends on, beside what changed in the cluster."""

    pools: tuple[EmptyPool, ...]
    looked_at: tuple[PendingWorkload, ...]
    bulk: tuple[IdenticalWorkloads, ...]
    options: Options
    refused: frozenset[str]


class StatsCollector:
    """Makes the figures of one session; `deep` tells whether Postgres holds more waiting work than memory does."""

    def __init__(self, session: Session, *, deep: Callable[[], bool] = lambda: False) -> None:
        self.session = session
        self._deep = deep
        self._planner = Planner()
        self._shapes: dict[str, Mapping[str, Any]] = {}
        self._unsaved: set[str] = set()
        self._backlog: Mapping[WorkloadKind, int] = {}
        self._due: dict[str, float] = {}
        self._last: tuple[_Input, Sizing] | None = None
        self._deltas = session.cluster.delta_cursor()

    async def run(self) -> None:
        """Until cancelled, or until another leads."""
        self._shapes = {}
        while True:
            started = time.monotonic()
            try:
                if not self._shapes and self._is_due("remembered", SHAPES_EVERY):
                    self._shapes = {**await self.session.state.get_shapes()}
                await self.once()
            except StaleEpochError:
                return  # the leader's loop finds out by itself
            except StoreError as error:
                logger.warning("figures were not written", error=str(error))
            except Exception:  # placement goes on without figures, and the adapter says that they are old
                logger.exception("figures were not made")
            await asyncio.sleep(max(EVERY - (time.monotonic() - started), EVERY / 4))

    async def once(self) -> DemandStats:
        """Make, keep and write them."""
        session = self.session
        if self._is_due("shapes", SHAPES_EVERY):
            await self._learn_shapes()
        if self._deep() and self._is_due("backlog", BACKLOG_EVERY):
            self._backlog = await session.state.get_kind_depths()
        running = await self._count_running()
        queue, sizing = await self._size()
        figures = self._figures(queue, sizing, running)
        session.figures = figures
        await session.state.write_figures(figures, epoch=session.epoch)
        return figures

    def _is_due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every
        return True

    async def _learn_shapes(self) -> None:
        """What the workers of pools look like is remembered for when there are none."""
        seen = await self.session.cluster.observe_shapes()
        self._unsaved |= {name for name, shape in seen.items() if self._shapes.get(name) != shape}
        self._shapes.update(seen)
        if self._unsaved:
            shapes = {name: self._shapes[name] for name in self._unsaved if name in self._shapes}
            self._unsaved -= await self.session.state.write_shapes(shapes, epoch=self.session.epoch)

    # --- what runs ---------------------------------------------------------------------------------------------------

    async def _count_running(self) -> tuple[Counter[str], dict[str, tuple[_Count, _Count]]]:
        """Bound workloads by pool; by namespace what waits and what runs."""
        pools: Counter[str] = Counter()
        spaces: dict[str, tuple[_Count, _Count]] = {}
        for number, tracked in enumerate(self.session.mirror):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            row = tracked.row
            if row.phase.bound:
                pools[row.pool] += 1
                spaces.setdefault(row.namespace, (_Count(), _Count()))[1].add(1, row.replicas, None)
            elif row.phase is Phase.PENDING:
                spaces.setdefault(row.namespace, (_Count(), _Count()))[0].add(1, row.replicas, row.queued_at_us)
        return pools, spaces

    # --- what waits --------------------------------------------------------------------------------------------------

    def _gather(self) -> _Queue:
        """In queue order, then what isn't in the queue for a while."""
        session, queue = self.session, _Queue()
        for workload in session.mirror.queue.in_order():
            tracked = session.mirror.get(workload.id)
            if tracked is not None:
                queue.add((tracked.row.customer, tracked.row.class_id), workload)
        for tracked, workload in self._absent():
            queue.add((tracked.row.customer, tracked.row.class_id), workload)
        if self._deep():
            for kind, depth in self._backlog.items():
                like = queue.kinds.get(kind)
                if like is not None and depth > queue.inside[kind]:
                    queue.rest.setdefault(kind, _Count()).add(depth - queue.inside[kind], like.replicas, None)
        return queue

    def _absent(self) -> Iterator[tuple[TrackedWorkload, PendingWorkload]]:
        """Pending but not in the queue: in backoff. One whose pods still stop counts by these."""
        session = self.session
        now = session.clock.now()
        away = [
            tracked
            for tracked in session.mirror.select((Phase.PENDING,))
            if tracked.requirements is not None and tracked.id not in session.mirror.queue
        ]
        for tracked in sorted(away, key=lambda tracked: (tracked.row.queued_at_us, tracked.id)):
            assert tracked.requirements is not None
            if not tracked.applying and all(pod.over for pod in session.cluster.pods(tracked.id)):
                yield tracked, pending(tracked.row, tracked.requirements, tracked.subject, now=now)

    def _options(self) -> Options:
        session = self.session
        remaining = {}
        for customer, bound in session.mirror.bound_by_customer().items():
            limit = session.cluster.limits_of(customer).concurrent
            if limit is not None:
                remaining[customer] = max(limit - bound, 0)
        return Options(keep_gpu_workers_free=session.settings.keep_gpu_workers_free, remaining=remaining)

    # --- sizing ------------------------------------------------------------------------------------------------------

    async def _size(self) -> tuple[_Queue, Sizing]:
        """Think if something changed; else the last answer holds. Queue and cluster are of the same moment."""
        session = self.session
        queue = self._gather()
        pools = tuple(session.cluster.empty_pools(self._shapes))
        for gone in self._shapes.keys() - {pool.name for pool in pools}:
            del self._shapes[gone]  # a new pool of that name may be another
        refused = frozenset(w.id for w in queue.looked_at if (t := session.mirror.get(w.id)) and t.turned_down)
        wanted = _Input(pools, tuple(queue.looked_at), queue.bulk(), self._options(), refused)
        last = self._last
        if last is not None and not self._deltas.has_unread and last[0] == wanted:
            return queue, last[1]
        if last is not None and time.monotonic() < self._due.get("engine", 0.0):
            return queue, last[1]
        started = time.monotonic()
        sizing = await asyncio.to_thread(self._think, self._deltas.take(), wanted)
        spent = time.monotonic() - started
        self._due["engine"] = time.monotonic() + min(spent / SHARE - spent, 3.0)
        self._last = wanted, sizing
        kinds = {kind: sizing.pool_fits[like.id] for kind, like in queue.kinds.items()}
        session.fits = SizingResult(sizing.pool_fits, kinds, wanted.pools)
        return queue, sizing

    def _think(self, deltas: Sequence[Delta], wanted: _Input) -> Sizing:
        self._planner.follow(deltas)
        return self._planner.size(wanted.pools, wanted.looked_at, wanted.bulk, wanted.options, wanted.refused)

    # --- the sums ----------------------------------------------------------------------------------------------------

    def _figures(
        self, queue: _Queue, sizing: Sizing, running: tuple[Counter[str], dict[str, tuple[_Count, _Count]]]
    ) -> DemandStats:
        session = self.session
        now = session.clock.now()
        waiting: dict[str, _Count] = {}
        for workload in queue.looked_at:
            verdict = sizing.pool_fits.get(workload.id)
            if verdict is not None and verdict.pool:
                waiting.setdefault(verdict.pool, _Count()).add(1, workload.replicas, workload.queued_at)
        bound, spaces = running
        for kind, count in queue.rest.items():
            like = queue.kinds[kind]
            for pool, part in sizing.identical.get(kind, ()):
                waiting.setdefault(pool, _Count()).add(part, like.replicas, count.oldest)
            beyond = self._backlog.get(kind, 0) - queue.inside[kind] if self._deep() else 0
            if beyond > 0:  # where exactly they are, only Postgres knows: where the others of the kind are
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
            epoch=session.epoch,
            pools=tuple(pools),
            namespaces=tuple(
                NamespaceStats(name, waits.workloads, waits.pods, runs.workloads, runs.pods, waits.age(now))
                for name, (waits, runs) in sorted(spaces.items())
            ),
        )
