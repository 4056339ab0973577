"""The leader's duties beside placing: customers' queue limits, drains, statistics for REST, partitions of the store."""

from __future__ import annotations

from collections.abc import Callable

from niyanta.aio import Timer, ticking
from niyanta.lifecycle import Event, Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.periodic.drain_queries import DrainQueries
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import TransitionRequest, Transitions
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.state import StateManager
from niyanta.store.workloads.limits import QUEUE_FULL, RELEASE_AT_ONCE

logger = log.get(__name__)

RELEASE_EVERY_SECONDS = 1.0
WORKER_REQUESTS_EVERY_SECONDS = 2.0
PARTITIONS_EVERY_SECONDS = 3600.0
"""Partitions are made days ahead, so an hour late is early."""

WORKER_TAKES_PODS = -1
"""Answer to a drain query about a worker that isn't cordoned."""


class Maintenance:
    """Called by the leader's timers; each duty keeps its own interval."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        work_queue: WorkQueue,
        drain_queries: DrainQueries,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._work_queue = work_queue
        self._drain_queries = drain_queries
        self._transitions = transitions
        self._tick = tick
        self._release = Timer(RELEASE_EVERY_SECONDS)
        self._worker_requests = Timer(WORKER_REQUESTS_EVERY_SECONDS)
        self._stats = Timer(state.settings.leader_stats_interval)
        self._partitions = Timer(PARTITIONS_EVERY_SECONDS)

    async def run(self) -> None:
        """Do what is due."""
        await self._answer_drain_queries()
        if self._release.due():
            await self._release_held()
        if self._worker_requests.due():
            await self._drain_workers()
        if self._stats.due():
            await self._write_stats()
        if self._partitions.due():
            await self._store.maintain_partitions()

    async def _release_held(self) -> None:
        """Release workloads held for a full queue, in queue order, as room appears."""
        held = [t for t in self._state.workloads.select((Phase.HELD,)) if t.row.reason == QUEUE_FULL]
        for customer in sorted({tracked.row.customer for tracked in held}):
            limit = self._cluster.customer_limits(customer).queue_depth
            released = RELEASE_AT_ONCE
            while released >= RELEASE_AT_ONCE:
                released = await self._transitions.release_held(customer, limit)
                if released:
                    self._work_queue.put_capacity()  # they are in the queue now, and nothing else need happen

    async def _drain_workers(self) -> None:
        """Drain workers as REST callers ask: cordon them, and put their workloads back into the queue."""
        for request in await self._store.get_worker_requests():
            if not await ticking(self._tick, self._cluster.cordon(request.worker)):
                message = "there is no such node any more"
            else:
                count = await self._requeue(
                    request.worker, RowReason.WORKER_DRAINED, f"worker {request.worker} is drained"
                )
                message = f"cordoned; {count} workloads went back to the queue"
            await self._store.complete_worker_request(request.id, message=message, epoch=self._state.epoch)
            logger.info("worker drained", worker=request.worker, by=request.requested_by, outcome=message)

    async def _answer_drain_queries(self) -> None:
        """Answer the scaling's queries about workers. No cycle is under way here: a workload that isn't in the record
        by now can't be placed on a cordoned worker any more. Queries stay open until they are answered, whatever
        fails."""
        for query in self._drain_queries.open():
            if query.evict:
                text = f"worker {query.worker} is removed from its pool"
                self._drain_queries.answer(query, await self._requeue(query.worker, query.reason, text))
            elif self._cluster.is_schedulable(query.worker):
                self._drain_queries.answer(query, WORKER_TAKES_PODS)
            else:
                self._drain_queries.answer(query, len(await self._store.get_workloads_by_worker(query.worker)))

    async def _requeue(self, worker: str, reason: str, message: str) -> int:
        """Put the workloads on a worker back into the queue as fresh attempts; returns how many."""
        on_it = self._on_worker(worker)
        decision = LifecycleDecision(Event.REQUEUE, reason, message)
        await self._transitions.commit([TransitionRequest(tracked, decision) for tracked in on_it])
        return len(on_it)

    def _on_worker(self, worker: str) -> list[TrackedWorkload]:
        bound = self._state.workloads.select((Phase.SCHEDULED, Phase.RUNNING))
        return [t for t in bound if worker in t.row.workers and not t.applying]

    async def _write_stats(self) -> None:
        state = self._state
        total, pools, customers = state.placement_rate.per_minute()
        workers, ready = self._cluster.worker_counts()
        pending = state.workloads.select((Phase.PENDING,))
        stats = {
            "at": state.clock.now(),
            "epoch": state.epoch,
            "placed_per_minute": total,
            "placed_per_minute_by_pool": pools,
            "placed_per_minute_by_customer": customers,
            "pending": len(pending),
            "oldest_us": min((t.row.queued_at_us for t in pending), default=None),
            "workers": workers,
            "ready_workers": ready,
        }
        await self._store.write_leader_stats(stats, epoch=state.epoch)
