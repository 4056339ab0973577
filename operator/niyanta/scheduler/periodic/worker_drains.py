"""Drains that users requested by REST. A request stays open until the worker is free: the node is cordoned, its
workloads go back to the queue, and their pods have ended.

`maintenance` runs it in the leader's loop. Workloads whose pods are just being created are put back in a later pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from niyanta.aio import in_slices, ticking
from niyanta.containment import Boundary, contained
from niyanta.lifecycle import Event, Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi, pods_of
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import TransitionRequest, Transitions
from niyanta.store.rows import WorkerRequest
from niyanta.store.state import StateManager

logger = log.get(__name__)

SLICE_WORKLOADS = 200
"""Workloads whose pods are read before other tasks of the event loop run."""


@dataclass(slots=True)
class WorkerDrain:
    """A drain in progress."""

    requeued: int = 0
    """Workloads that this leader has put back into the queue."""
    stopping: set[str] = field(default_factory=set)
    """Workloads that may still have running pods on the worker."""


class WorkerDrains:
    """The open drains of one leadership."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._transitions = transitions
        self._tick = tick
        self._drains: dict[str, WorkerDrain] = {}
        """Request -> its drain."""

    async def run(self) -> None:
        """Take each requested drain a step further."""
        requests = await self._store.get_worker_requests()
        open_ids = {request.id for request in requests}
        self._drains = {id_: drain for id_, drain in self._drains.items() if id_ in open_ids}
        for request in requests:
            with contained(Boundary.DRAIN, request.worker):
                await self._drain(request)

    async def _drain(self, request: WorkerRequest) -> None:
        worker = request.worker
        drain = self._drains.get(request.id)
        takes_work = drain is None or self._cluster.is_schedulable(worker)
        if takes_work and not await ticking(self._tick, self._cluster.cordon(worker)):
            await self._complete(request, "the node doesn't exist any more")
            return
        if drain is None:
            drain = self._drains[request.id] = WorkerDrain(stopping=await self._workloads_with_pods_on(worker))
        drain.requeued += await self.requeue(worker, RowReason.WORKER_DRAINED, f"worker {worker} is drained")
        placed = await self._store.get_workloads_by_worker(worker)
        drain.stopping |= {row.id for row in placed}
        drain.stopping = await self._running_on(worker, drain.stopping)
        if not placed and not drain.stopping:
            await self._complete(request, f"cordoned; {drain.requeued} workloads went back to the queue")

    async def _complete(self, request: WorkerRequest, message: str) -> None:
        await self._store.complete_worker_request(request.id, message=message, epoch=self._state.epoch)
        self._drains.pop(request.id, None)
        logger.info("worker drained", worker=request.worker, by=request.requested_by, outcome=message)

    async def requeue(self, worker: str, reason: str, message: str) -> int:
        """Put the workloads on a worker back into the queue as fresh attempts, but those whose pods are just being
        created; returns their number."""
        bound = [
            tracked
            for tracked in self._state.workloads.select((Phase.SCHEDULED, Phase.RUNNING))
            if worker in tracked.row.workers and not tracked.applying
        ]
        decision = LifecycleDecision(Event.REQUEUE, reason, message)
        await self._transitions.commit([TransitionRequest(tracked, decision) for tracked in bound])
        for drain in self._drains.values():
            drain.stopping |= {tracked.id for tracked in bound}
        return len(bound)

    async def _workloads_with_pods_on(self, worker: str) -> set[str]:
        """Workloads with a running pod on the worker; also those that an earlier leader has put back already."""
        found: set[str] = set()
        async for part in in_slices(list(self._cluster.workload_ids_with_pods()), SLICE_WORKLOADS, tick=self._tick):
            found |= await self._running_on(worker, part)
        return found

    async def _running_on(self, worker: str, workload_ids: Collection[str]) -> set[str]:
        """Ids of the given workloads whose own pods run on the worker. Pods of strangers, whose labels may name any
        workload, don't count."""
        ids = {i for i in workload_ids if any(pod.node == worker and not pod.over for pod in self._cluster.pods(i))}
        tracked = {i: found.row for i in ids if (found := self._state.workloads.get(i)) is not None}
        ended = await self._store.get_workloads(ids - tracked.keys()) if ids - tracked.keys() else []
        return {
            row.id
            for row in (*tracked.values(), *ended)
            if any(pod.node == worker and not pod.over for pod in pods_of(self._cluster, row))
        }
