"""Drains that users requested by REST: how far each one is, and the eviction of workloads from a worker.

A drain is over when no workload is placed on the worker and none of their pods runs there any more. It waits for the
workloads' own end, unless its request has a time of eviction: from then on they go back to the queue. Workloads whose
pods are just being created are put back in a later step. `worker_requests` takes the drains further; `maintenance`
evicts for pool scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from niyanta.aio import in_slices
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.cluster_api import ClusterApi, pods_of
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import TransitionRequest, Transitions
from niyanta.store.row_mapping import to_us
from niyanta.store.rows import WorkerRequest
from niyanta.store.state import StateManager

SLICE_WORKLOADS = 200
"""Workloads whose pods are read before other tasks of the event loop run."""

_BOUND = (Phase.SCHEDULED, Phase.RUNNING)


@dataclass(slots=True)
class WorkerDrain:
    """A drain in progress."""

    requeued: int = 0
    """Workloads that this leader has put back into the queue."""
    stopping: set[str] = field(default_factory=set)
    """Workloads that may still have running pods on the worker."""


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """State of a drain after a step. `left`: workloads that are still placed on the worker, or run there."""

    left: int
    requeued: int

    @property
    def message(self) -> str:
        """The state in words."""
        evicted = f"; {self.requeued} workloads went back to the queue" if self.requeued else ""
        return (f"cordoned; {self.left} workloads still run there" if self.left else "drained") + evicted


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
        self._bound: Mapping[str, Sequence[TrackedWorkload]] = {}
        """Drained worker -> workloads that were placed there when the pass began."""
        self._with_pods: Mapping[str, set[str]] | None = None
        """Drained worker -> ids of workloads with running pods there; None: not looked for in this pass."""

    def begin_pass(self, requests: Iterable[WorkerRequest]) -> None:
        """Prepare the steps of these open drains, which follow without a cycle in between; forget all others."""
        open_drains = [request for request in requests if request.draining]
        open_ids = {request.id for request in open_drains}
        self._drains = {id_: drain for id_, drain in self._drains.items() if id_ in open_ids}
        self._bound = self._bound_to({request.worker for request in open_drains})
        self._with_pods = None

    def _bound_to(self, workers: Collection[str]) -> Mapping[str, Sequence[TrackedWorkload]]:
        """Worker -> workloads that are placed there; one pass over all placed workloads."""
        found: dict[str, list[TrackedWorkload]] = {worker: [] for worker in workers}
        if found:
            for tracked in self._state.workloads.select(_BOUND):
                for worker in found.keys() & set(tracked.row.workers):
                    found[worker].append(tracked)
        return found

    async def step(self, request: WorkerRequest) -> DrainProgress:
        """Take a drain of this pass, whose worker is cordoned, a step further.

        No cycle runs at this time, and the next one knows of the cordon, so a worker that is free now stays free.
        """
        worker = request.worker
        drain = self._drains.get(request.id)
        if drain is None:
            drain = self._drains[request.id] = WorkerDrain(stopping=await self._workloads_with_pods_on(worker))
        placed = {tracked.id for tracked in self._bound[worker]}
        drain.stopping |= placed
        evicts = request.evict_at is not None and to_us(request.evict_at) <= self._state.clock.now()
        if placed and evicts:
            drain.requeued += await self.requeue(worker, RowReason.WORKER_DRAINED, f"worker {worker} is drained")
            placed = {tracked.id for tracked in self._bound_to([worker])[worker]}
        if not placed:
            placed = {row.id for row in await self._store.get_workloads_by_worker(worker)}
            drain.stopping |= placed
        drain.stopping = await self._running_on(worker, drain.stopping)
        return DrainProgress(len(placed | drain.stopping), drain.requeued)

    async def requeue(self, worker: str, reason: str, message: str) -> int:
        """Put the workloads on a worker back into the queue as fresh attempts, but those whose pods are just being
        created; returns their number."""
        bound = [tracked for tracked in self._bound_to([worker])[worker] if not tracked.applying]
        decision = LifecycleDecision(Event.REQUEUE, reason, message)
        await self._transitions.commit([TransitionRequest(tracked, decision) for tracked in bound])
        for drain in self._drains.values():
            drain.stopping |= {tracked.id for tracked in bound}
        return len(bound)

    async def _workloads_with_pods_on(self, worker: str) -> set[str]:
        """Workloads with a running pod on the worker; also those that an earlier leader has put back already. Looks
        through all pods, once in a pass for all its drains."""
        if self._with_pods is None:
            found: dict[str, set[str]] = {name: set() for name in self._bound}
            async for part in in_slices(list(self._cluster.workload_ids_with_pods()), SLICE_WORKLOADS, tick=self._tick):
                for id_ in part:
                    for node in {pod.node for pod in self._cluster.pods(id_) if not pod.over} & found.keys():
                        found[node].add(id_)
            self._with_pods = found
        return await self._running_on(worker, self._with_pods[worker])

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
