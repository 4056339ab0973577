"""Periodic work of the leader beside placing: queue limits of customers, drains, statistics for the REST door,
partitions of the store."""

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
"""Partitions are created days ahead, so an hourly check is enough."""

WORKER_TAKES_PODS = -1
"""Answer to a drain query about a worker that isn't cordoned."""


class Maintenance:
    """Runs in the leader's loop; each task has its own interval."""

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
        """Run the tasks that are due."""
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
        """Release workloads held for a full queue, in queue order, while the customer is below its limit."""
        held = [t for t in self._state.workloads.select((Phase.HELD,)) if t.row.reason == QUEUE_FULL]
        for customer in sorted({tracked.row.customer for tracked in held}):
            limit = self._cluster.customer_limits(customer).queue_depth
            released = RELEASE_AT_ONCE
            while released >= RELEASE_AT_ONCE:
                released = await self._transitions.release_held(customer, limit)
                if released:
                    self._work_queue.put_capacity()  # so that a cycle runs, even if nothing else changes

    async def _drain_workers(self) -> None:
        """Carry out the drains that REST callers requested: cordon each worker and put its workloads back into the
        queue."""
        for request in await self._store.get_worker_requests():
            if not await ticking(self._tick, self._cluster.cordon(request.worker)):
                message = "the node doesn't exist any more"
            else:
                count = await self._requeue(
                    request.worker, RowReason.WORKER_DRAINED, f"worker {request.worker} is drained"
                )
                message = f"cordoned; {count} workloads went back to the queue"
            await self._store.complete_worker_request(request.id, message=message, epoch=self._state.epoch)
            logger.info("worker drained", worker=request.worker, by=request.requested_by, outcome=message)

    async def _answer_drain_queries(self) -> None:
        """Answer the drain queries of pool scaling. No cycle runs at this time, so a workload that isn't committed to a
        cordoned worker now can't be placed there later. A query stays open if answering it fails."""
        for query in self._drain_queries.open():
            if query.evict:
                text = f"worker {query.worker} is removed from its pool"
                self._drain_queries.answer(query, await self._requeue(query.worker, query.reason, text))
            elif self._cluster.is_schedulable(query.worker):
                self._drain_queries.answer(query, WORKER_TAKES_PODS)
            else:
                self._drain_queries.answer(query, len(await self._store.get_workloads_by_worker(query.worker)))

    async def _requeue(self, worker: str, reason: str, message: str) -> int:
        """Put the workloads on a worker back into the queue as fresh attempts; returns their number."""
        bound = self._bound_to(worker)
        decision = LifecycleDecision(Event.REQUEUE, reason, message)
        await self._transitions.commit([TransitionRequest(tracked, decision) for tracked in bound])
        return len(bound)

    def _bound_to(self, worker: str) -> list[TrackedWorkload]:
        """Workloads on a worker, without those whose pods are just being created."""
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
