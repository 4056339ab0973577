"""Make the pods of committed placements. A create is asked again until its outcome is definite; what a definite refusal
means for the attempt is decided here and committed by the session.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from niyanta.lifecycle import Event
from niyanta.observability import log
from niyanta.resources.compile.pod import build_pod
from niyanta.scheduler.cluster_api import ClusterApi, LeaseLostError, PodWriteError, WriteProblem
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.pods.rest_object import RestObjects
from niyanta.scheduler.workload_cache import TrackedWorkload

logger = log.get(__name__)


@dataclass(frozen=True, slots=True)
class CreateResult:
    """What became of one attempt's creates: `verdict` None means that every pod exists."""

    workload_id: str
    attempt: int
    verdict: LifecycleDecision | None


def refusal(problem: WriteProblem, message: str) -> LifecycleDecision:
    """What a definite refusal of a pod means for its attempt."""
    if problem is WriteProblem.INVALID:
        return LifecycleDecision(Event.FAIL, problem.value, f"the API server refused the pod: {message}")
    return LifecycleDecision(Event.REQUEUE, problem.value, message)


class PodCreator:
    """Creates pods with at most `width` attempts under way."""

    def __init__(
        self,
        cluster: ClusterApi,
        dispatcher: RestObjects,
        *,
        epoch: int,
        width: int,
        report: Callable[[CreateResult], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._dispatcher = dispatcher
        self._epoch = epoch
        self._report = report
        self._on_lost = on_lost
        self._slots = asyncio.Semaphore(width)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    def submit(self, tracked: TrackedWorkload) -> None:
        """Start creating the pods of the tracked row's current attempt."""
        tracked.applying = True
        task = asyncio.create_task(self._apply(tracked), name=f"apply {tracked.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop at once: the next leader repairs what is missing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _apply(self, tracked: TrackedWorkload) -> None:
        attempt = tracked.row.attempt
        verdict: LifecycleDecision | None = None
        try:
            async with self._slots:
                verdict = await retry_until_definite(
                    lambda: self._dispatcher.ensure(tracked), what=f"object of {tracked.id}"
                )
                for index in () if verdict is not None else range(len(tracked.row.workers)):
                    if index in tracked.known:
                        continue
                    if tracked.row.attempt != attempt or not tracked.row.phase.bound:
                        break  # cancelled or suspended meanwhile: the session takes down what was made
                    verdict = await self._create(tracked, index)
                    if verdict is not None:
                        break
                    tracked.known.add(index)
        except LeaseLostError:
            self._on_lost()
            return
        except Exception as error:  # a fault of ours must not leave the workload Scheduled for ever
            logger.exception("pods were not made", id=tracked.id)
            verdict = LifecycleDecision(Event.REQUEUE, "InternalError", f"{type(error).__name__}: {error}"[:300])
        finally:
            tracked.applying = False
        self._report(CreateResult(tracked.id, attempt, verdict))

    async def _create(self, tracked: TrackedWorkload, index: int) -> LifecycleDecision | None:
        row = tracked.row
        worker = row.workers[index]
        try:
            manifest = self._manifest(tracked, index, worker)
        except ValueError as error:
            return LifecycleDecision(Event.REQUEUE, "WorkerChanged", str(error), exclude=worker)
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
    """Run `create` until the answer is a yes or a definite no; raises LeaseLostError when leadership is over."""
    delay = 0.2
    while True:
        try:
            await create()
        except PodWriteError as error:
            if error.problem is WriteProblem.FENCED:
                raise LeaseLostError(error.message) from error
            if error.problem is not WriteProblem.UNAVAILABLE:
                return refusal(error.problem, error.message)
            logger.warning("create is asked again", what=what, error=error.message, delay=round(delay, 2))
        else:
            return None
        await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311 - jitter
        delay = min(delay * 2, 5.0)
