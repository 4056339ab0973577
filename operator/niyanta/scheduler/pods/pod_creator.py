"""The pod creator: creates the pods of committed placements. A create is repeated until its outcome is definite; the
decision that follows from a definite refusal is passed to `observer` and committed by `transitions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from niyanta.aio import Backoff
from niyanta.lifecycle import Event
from niyanta.observability import log
from niyanta.resources.compile.pod import build_pod
from niyanta.scheduler.cluster_api import ClusterApi, LeaseLostError, PodWriteError, WriteProblem
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.pods.rest_object import RestObjects
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.workload_cache import TrackedWorkload

logger = log.get(__name__)

FIRST_DELAY_SECONDS = 0.3
LONGEST_DELAY_SECONDS = 7.5
"""Range of the delay before a create without a definite answer is repeated, without jitter."""


@dataclass(frozen=True, slots=True)
class CreateResult:
    """The result of creating one attempt's pods; `decision` is None if every pod exists."""

    workload_id: str
    attempt: int
    decision: LifecycleDecision | None


def refusal(problem: WriteProblem, message: str) -> LifecycleDecision:
    """The decision for an attempt whose pod was definitely refused."""
    if problem is WriteProblem.INVALID:
        return LifecycleDecision(Event.FAIL, problem.value, f"the API server refused the pod: {message}")
    return LifecycleDecision(Event.REQUEUE, problem.value, message)


class PodCreator:
    """Creates pods in concurrent tasks, for at most `concurrency` attempts at a time."""

    def __init__(
        self,
        cluster: ClusterApi,
        rest_objects: RestObjects,
        *,
        epoch: int,
        concurrency: int,
        wake: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        """`wake` makes the leader's loop run a round; `on_lost` is called when a request finds leadership lost."""
        self._cluster = cluster
        self._rest_objects = rest_objects
        self._epoch = epoch
        self._wake = wake
        self._on_lost = on_lost
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self.finished: list[CreateResult] = []
        """Results that the observer hasn't handled yet; it removes them."""

    def submit(self, tracked: TrackedWorkload) -> None:
        """Start creating the pods of the tracked row's current attempt."""
        tracked.applying = True
        task = asyncio.create_task(self._create_pods(tracked), name=f"create pods of {tracked.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all creates; the next leader creates the missing pods."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _create_pods(self, tracked: TrackedWorkload) -> None:
        attempt = tracked.row.attempt
        decision: LifecycleDecision | None = None
        try:
            async with self._slots:
                decision = await retry_until_definite(
                    lambda: self._rest_objects.ensure(tracked), what=f"object of {tracked.id}"
                )
                for index in () if decision is not None else range(len(tracked.row.workers)):
                    if index in tracked.known:
                        continue
                    if tracked.row.attempt != attempt or not tracked.row.phase.bound:
                        break  # cancelled or suspended meanwhile; `transitions` removes the pods that were created
                    decision = await self._create(tracked, index)
                    if decision is not None:
                        break
                    tracked.known.add(index)
        except LeaseLostError:
            self._on_lost()
            return
        except Exception as error:  # an internal error must not leave the workload Scheduled for ever
            logger.exception("pods were not created", id=tracked.id)
            decision = LifecycleDecision(
                Event.REQUEUE, RowReason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"[:300]
            )
        finally:
            tracked.applying = False
        self.finished.append(CreateResult(tracked.id, attempt, decision))
        self._wake()

    async def _create(self, tracked: TrackedWorkload, index: int) -> LifecycleDecision | None:
        row = tracked.row
        worker = row.workers[index]
        try:
            manifest = self._manifest(tracked, index, worker)
        except ValueError as error:
            return LifecycleDecision(Event.REQUEUE, RowReason.WORKER_CHANGED, str(error), exclude=worker)
        return await retry_until_definite(
            lambda: self._cluster.create_pod(row.namespace, manifest), what=f"pod {manifest['metadata']['name']}"
        )

    def _manifest(self, tracked: TrackedWorkload, index: int, worker: str) -> dict[str, Any]:
        row = tracked.row
        return build_pod(
            workload_name=row.name,
            namespace=row.namespace,
            uid=row.id,
            owner=row.object,
            spec=tracked.spec,
            attempt=row.attempt,
            index=index,
            worker=worker,
            worker_gpu_resource=self._cluster.gpu_resource(worker),
            epoch=self._epoch,
            customer=row.customer,
            pool=row.pool,
        )


async def retry_until_definite(create: Callable[[], Awaitable[None]], *, what: str) -> LifecycleDecision | None:
    """Repeat `create` until it succeeds (None) or is definitely refused; raises LeaseLostError when leadership is
    over."""
    backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
    while True:
        try:
            await create()
        except PodWriteError as error:
            if error.problem is WriteProblem.FENCED:
                raise LeaseLostError(error.message) from error
            if error.problem is not WriteProblem.UNAVAILABLE:
                return refusal(error.problem, error.message)
            delay = backoff.next()
            logger.warning("create failed; repeating", what=what, error=error.message, delay=round(delay, 2))
        else:
            return None
        await asyncio.sleep(delay)
