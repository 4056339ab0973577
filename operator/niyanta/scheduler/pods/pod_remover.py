"""The pod remover: deletes and releases pods that no attempt needs, in concurrent tasks. Each action on a pod runs at
most once at a time. Namespaces take turns, so that removals that fail in one don't hold up the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from niyanta.aio import Backoff
from niyanta.containment import describe
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi, LeaseLostError, PodView, pods_of
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.pods.namespace_gate import NamespaceGates
from niyanta.scheduler.pods.outcome import Teardown, tear_down
from niyanta.scheduler.state import SchedulerState
from niyanta.store.rows import WorkloadRow

logger = log.get(__name__)

CONCURRENCY = 24
"""Most concurrent requests, so that connections are left for creates."""

FIRST_DELAY_SECONDS = 0.3
LONGEST_DELAY_SECONDS = 7.5
"""Range of the delay before a failed request is repeated, without jitter."""

REMEMBERED_ACTIONS = 10_000
"""Finished actions that are remembered, so that they aren't started again while the reflector lags."""


class PodRemover:
    """Idempotent deletes and finalizer removals, repeated until the API server confirms them."""

    def __init__(self, state: SchedulerState, cluster: ClusterApi, *, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called when a request finds leadership lost."""
        self._state = state
        self._cluster = cluster
        self._on_lost = on_lost
        self._gates = NamespaceGates(CONCURRENCY)
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._done: dict[tuple[str, str], None] = {}

    def remove_superseded(self, tracked: TrackedWorkload) -> Teardown:
        """Start removing the pods of a workload that its current attempt doesn't need; returns how they were sorted."""
        bound = tracked.row.phase.bound
        teardown = tear_down(
            pods_of(self._cluster, tracked.row),
            keep_attempt=tracked.row.attempt if bound else None,
            replace=tracked.replace_lost and (not bound or self._state.node_grace_over(tracked)),
            node_state=self._cluster.node_state,
        )
        if not self._state.adopting:  # pods that the restored database doesn't know may belong to the row
            self._run_teardown(teardown)
        return teardown

    def remove_untracked(self, workload_id: str, row: WorkloadRow | None) -> None:
        """Start removing all pods of a workload that isn't in memory. Without a row, only pods that the object with
        that UID controls are known to be its pods."""
        pods = self._cluster.pods(workload_id, workload_id) if row is None else pods_of(self._cluster, row)
        self._run_teardown(tear_down(pods, keep_attempt=None, replace=False, node_state=self._cluster.node_state))

    def _run_teardown(self, teardown: Teardown) -> None:
        """Start the actions of a teardown that aren't in progress or finished already."""
        for pod in teardown.release:
            self._start("release", pod, self._cluster.release_pod)
        for pod in teardown.delete:
            self._start("delete", pod, self._cluster.delete_pod)
        for pod in teardown.force:
            self._start("force", pod, lambda p: self._cluster.delete_pod(p, force=True))

    async def close(self) -> None:
        """Cancel all actions."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, action: str, pod: PodView, act: Callable[[PodView], Awaitable[None]]) -> None:
        key = (pod.uid, action)
        if key in self._under_way or key in self._done:
            return
        task = asyncio.create_task(self._run(key, pod, act), name=f"{action} {pod.name}")
        self._under_way[key] = task
        task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def _run(self, key: tuple[str, str], pod: PodView, act: Callable[[PodView], Awaitable[None]]) -> None:
        backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
        while True:
            try:
                await self._take_turn(pod, act)
            except LeaseLostError:
                self._on_lost()
                return
            except Exception as error:  # any failed removal is repeated, or the pod would stay for ever
                logger.warning("removal of a pod is repeated", pod=pod.name, action=key[1], error=describe(error))
            else:
                self._done[key] = None
                while len(self._done) > REMEMBERED_ACTIONS:
                    self._done.pop(next(iter(self._done)))
                return
            await asyncio.sleep(backoff.next())

    async def _take_turn(self, pod: PodView, act: Callable[[PodView], Awaitable[None]]) -> None:
        """Try an action when it is its namespace's turn."""
        gate = self._gates.of(pod.namespace)
        while not await gate.enter():
            gate = self._gates.of(pod.namespace)
        succeeded: bool | None = None
        try:
            succeeded = False
            await act(pod)
            succeeded = True
        finally:
            gate.leave(succeeded)
