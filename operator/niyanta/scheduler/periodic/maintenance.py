"""Periodic work of the leader beside placing: queue limits of customers, missing objects, requests about
workers, statistics for the REST door, partitions of the store."""

from __future__ import annotations

from collections.abc import Callable

from niyanta.aio import Timer
from niyanta.containment import Boundary, SharedFaultError, contained, record
from niyanta.lifecycle import Phase
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.periodic.class_upkeep import ClassUpkeep
from niyanta.scheduler.periodic.drain_queries import DrainQueries, DrainQuery
from niyanta.scheduler.periodic.row_retention import RowRetention
from niyanta.scheduler.periodic.worker_drains import WorkerDrains
from niyanta.scheduler.periodic.worker_requests import WorkerRequests
from niyanta.scheduler.recovery.missing_objects import MissingObjects
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.state import StateManager
from niyanta.store.workloads.limits import QUEUE_FULL, RELEASE_AT_ONCE

RELEASE_EVERY_SECONDS = 1.0
MISSING_OBJECTS_EVERY_SECONDS = 1.0
WORKER_REQUESTS_EVERY_SECONDS = 1.0
ROW_RETENTION_EVERY_SECONDS = 1.0
CLASS_UPKEEP_EVERY_SECONDS = 1.0
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
        missing_objects: MissingObjects,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._work_queue = work_queue
        self._drain_queries = drain_queries
        self._missing_objects = missing_objects
        self._transitions = transitions
        self._worker_drains = WorkerDrains(state, store=store, cluster=cluster, transitions=transitions, tick=tick)
        self._requests = WorkerRequests(state, store=store, cluster=cluster, drains=self._worker_drains, tick=tick)
        self._release = Timer(RELEASE_EVERY_SECONDS)
        self._missing = Timer(MISSING_OBJECTS_EVERY_SECONDS)
        self._worker_requests = Timer(WORKER_REQUESTS_EVERY_SECONDS)
        self._row_retention = RowRetention(state, store=store)
        self._retention = Timer(ROW_RETENTION_EVERY_SECONDS)
        self._class_upkeep = ClassUpkeep(state, store=store)
        self._classes = Timer(CLASS_UPKEEP_EVERY_SECONDS)
        self._stats = Timer(state.settings.leader_stats_interval)
        self._partitions = Timer(PARTITIONS_EVERY_SECONDS)

    async def run(self) -> None:
        """Run the tasks that are due."""
        await self._answer_drain_queries()
        tasks = (
            (self._release, "release of held workloads", self._release_held),
            (self._missing, "missing objects", self._missing_objects.check),
            (self._worker_requests, "requests about workers", self._requests.run),
            (self._stats, "statistics for the REST door", self._write_stats),
            (self._retention, "retention of finished rows", self._row_retention.run),
            (self._classes, "upkeep of queue classes", self._class_upkeep.run),
            (self._partitions, "partitions", self._store.maintain_partitions),
        )
        for timer, name, task in tasks:
            if timer.due():
                with contained(Boundary.TIMER, name):
                    await task()

    async def _release_held(self) -> None:
        """Release workloads held for a full queue, in queue order, while the customer is below its limit."""
        if not any(self._state.workloads.tally.held.values()):  # a reason may have changed since it was counted
            return
        held = [t for t in self._state.workloads.select((Phase.HELD,)) if t.row.reason == QUEUE_FULL]
        for customer in sorted({tracked.row.customer for tracked in held}):
            with contained(Boundary.CUSTOMER, customer):
                limit = self._cluster.customer_limits(customer).queue_depth
                released = RELEASE_AT_ONCE
                while released >= RELEASE_AT_ONCE:
                    released = await self._transitions.release_held(customer, limit)
                    if released:
                        self._work_queue.put_capacity()  # so that a cycle runs, even if nothing else changes

    async def _answer_drain_queries(self) -> None:
        """Answer the drain queries of pool scaling. No cycle runs at this time, so a workload that isn't committed to a
        cordoned worker now can't be placed there later. A query stays open while Postgres
        is away; any other error goes to the pool that asks."""
        for query in self._drain_queries.open():
            try:
                answer = await self._answer(query)
            except SharedFaultError:
                raise
            except Exception as error:
                record(Boundary.DRAIN, query.worker, error)
                self._drain_queries.fail(query, error)
            else:
                self._drain_queries.answer(query, answer)

    async def _answer(self, query: DrainQuery) -> int:
        if query.evict:
            text = f"worker {query.worker} is removed from its pool"
            return await self._worker_drains.requeue(query.worker, query.reason, text)
        if self._cluster.is_schedulable(query.worker):
            return WORKER_TAKES_PODS
        return len(await self._store.get_workloads_by_worker(query.worker))

    async def _write_stats(self) -> None:
        state = self._state
        total, pools, customers = state.placement_rate.per_minute()
        workers, ready = self._cluster.worker_counts()
        waiting = state.waiting_since
        stats = {
            "at": state.clock.now(),
            "epoch": state.epoch,
            "placed_per_minute": total,
            "placed_per_minute_by_pool": pools,
            "placed_per_minute_by_customer": customers,
            "pending": state.workloads.tally.pending + waiting.outside,
            "oldest_us": waiting.oldest,
            "workers": workers,
            "ready_workers": ready,
        }
        await self._store.write_leader_stats(stats, epoch=state.epoch)
