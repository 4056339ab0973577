"""The pod creator: creates the pods of committed placements. A create is repeated until its outcome is definite, or
given up after many tries; the decision that follows is passed to `observer` and committed by `transitions`.

A workload that waits (for its namespace's turn, or to try again) takes no slot, so that creates that fail in one
namespace don't hold up the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from niyanta.aio import Backoff
from niyanta.containment import Boundary, record
from niyanta.lifecycle import Event
from niyanta.observability import log
from niyanta.plain_text import plain
from niyanta.resources.compile.pod import build_pod
from niyanta.scheduler.cluster_api import ClusterApi, LeaseLostError, PodWriteError, WriteProblem
from niyanta.scheduler.faults.parked import parked_message
from niyanta.scheduler.intake.eligibility import EligibilityCheck
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.pods.namespace_gate import NamespaceGates
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.pods.rest_object import RestObjects
from niyanta.scheduler.reasons import RowReason

logger = log.get(__name__)

FIRST_DELAY_SECONDS = 0.3
LONGEST_DELAY_SECONDS = 7.5
"""Range of the delay before a create without a definite answer is repeated, without jitter."""

MOST_SIDE_BY_SIDE = 16
"""Most pods of one workload that wait for their turn or are being created: a large group takes a slot when one is free,
and other workloads of its namespace never wait for all of its pods."""

MOST_TRIES = 12
"""Tries of one create before its workload goes back to the queue: about a minute."""

LATE_TIMEOUTS = 2.0
"""Request timeouts after which a create without an answer can't be carried out any more: the server drops it at its
timeout."""


@dataclass(frozen=True, slots=True)
class CreateResult:
    """The result of creating one attempt's pods; `decision` is None if every pod exists."""

    workload_id: str
    attempt: int
    decision: LifecycleDecision | None


class _RefusedError(Exception):
    """The pod may not be created as its row says now."""

    def __init__(self, decision: LifecycleDecision) -> None:
        super().__init__(decision.message)
        self.decision = decision


class _AttemptEndedError(Exception):
    """The row has moved on; the pods that were created are removed by `transitions`."""


class _GroupStoppedError(Exception):
    """Another pod of the group was refused, so this one isn't created."""


@dataclass(slots=True)
class _Group:
    """The pods that one attempt still needs. `decision`: that of the first refusal."""

    indexes: Iterator[int]
    decision: LifecycleDecision | None = None
    stopped: bool = False
    """True when no further pod may be created."""


def refusal(problem: WriteProblem, message: str) -> LifecycleDecision:
    """The decision for an attempt whose pod was definitely refused."""
    if problem is WriteProblem.INVALID:
        return LifecycleDecision(Event.FAIL, problem.value, f"the API server refused the pod: {message}")
    return LifecycleDecision(Event.REQUEUE, problem.value, message)


class PodCreator:
    """Creates pods in concurrent tasks, with as many requests at a time as `gates` let through."""

    def __init__(
        self,
        cluster: ClusterApi,
        rest_objects: RestObjects,
        *,
        eligibility: EligibilityCheck,
        gates: NamespaceGates,
        epoch: int,
        request_timeout: float,
        wake: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        """`request_timeout`: of a create, in seconds. `wake` makes the leader's loop run a round; `on_lost` is called
        when a request finds leadership lost."""
        self._cluster = cluster
        self._rest_objects = rest_objects
        self._eligibility = eligibility
        self._gates = gates
        self._epoch = epoch
        self._late_seconds = LATE_TIMEOUTS * request_timeout
        self._wake = wake
        self._on_lost = on_lost
        self._tasks: set[asyncio.Task[None]] = set()
        self.finished: list[CreateResult] = []
        """Results that the observer hasn't handled yet; it removes them."""

    def submit(self, tracked: TrackedWorkload) -> None:
        """Start creating the pods of the tracked row's current attempt."""
        tracked.applying = True
        task = asyncio.create_task(self._run(tracked), name=f"create pods of {tracked.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all creates; the next leader creates the missing pods."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, tracked: TrackedWorkload) -> None:
        attempt = tracked.row.attempt
        decision: LifecycleDecision | None = None
        try:
            decision = await self._create_pods(tracked, attempt)
        except LeaseLostError:
            self._on_lost()
            return
        except _AttemptEndedError:
            logger.debug("creates ended with their attempt", id=tracked.id, attempt=attempt)
        except Exception as error:  # an internal error must not leave the workload Scheduled for ever
            record(Boundary.POD_WRITE, tracked.id, error)
            decision = LifecycleDecision(Event.REQUEUE, RowReason.INTERNAL_ERROR, parked_message(error))
        finally:
            tracked.applying = False
        self.finished.append(CreateResult(tracked.id, attempt, decision))
        self._wake()

    async def _create_pods(self, tracked: TrackedWorkload, attempt: int) -> LifecycleDecision | None:
        """Create the object of a REST submission, then all pods; the decision of the first refusal."""
        decision = self._eligibility.refusal(tracked, Event.REQUEUE)  # it may have changed since the placement
        if decision is None:
            decision = await self._until_definite(tracked, attempt, lambda: self._create_object(tracked))
        if decision is not None:
            return decision
        missing = [index for index in range(tracked.row.replicas) if index not in tracked.known]
        group = _Group(iter(missing))
        if len(missing) == 1:
            await self._create_each(tracked, attempt, group)
        else:
            await self._create_side_by_side(tracked, attempt, group, min(len(missing), MOST_SIDE_BY_SIDE))
        return group.decision

    async def _create_side_by_side(self, tracked: TrackedWorkload, attempt: int, group: _Group, tasks: int) -> None:
        """Create the pods of a group, several at a time. Returns when no create is under way, because a late one must
        not appear beside the pods of a later attempt; only lost leadership ends at once."""
        left = {asyncio.create_task(self._create_each(tracked, attempt, group)) for _ in range(tasks)}
        errors: list[BaseException] = []
        try:
            while left:
                ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_EXCEPTION)
                errors += [error for task in ended if (error := task.exception()) is not None]
                group.stopped = group.stopped or bool(errors)
                lost = [error for error in errors if isinstance(error, LeaseLostError)]
                if lost:
                    raise lost[0]
        finally:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        for error in sorted(errors, key=lambda error: isinstance(error, _AttemptEndedError)):
            raise error

    async def _create_each(self, tracked: TrackedWorkload, attempt: int, group: _Group) -> None:
        """Create pods of the group, whose indexes other tasks take as well, until one is refused."""
        for index in group.indexes:
            if group.stopped:
                return
            if index in tracked.known:
                continue
            if not _is_current(tracked, attempt):
                raise _AttemptEndedError
            create = partial(self._create_pod, tracked, index)
            try:
                decision = await self._until_definite(tracked, attempt, create, index=index, group=group)
            except _GroupStoppedError:
                return
            if decision is None:
                tracked.known.add(index)
            else:
                group.decision = group.decision or decision
                group.stopped = True

    async def _create_object(self, tracked: TrackedWorkload) -> None:
        refused = self._eligibility.refusal(tracked, Event.REQUEUE)
        if refused is not None:
            raise _RefusedError(refused)
        await self._rest_objects.ensure(tracked)

    async def _create_pod(self, tracked: TrackedWorkload, index: int) -> None:
        """Check the row and its worker, and send the request without a pause between: the row may have changed since
        the placement. Raises _RefusedError, PodWriteError."""
        row = tracked.row
        if len(row.workers) != row.replicas:
            message = f"the row names {len(row.workers)} workers for {row.replicas} replicas"
            raise _RefusedError(LifecycleDecision(Event.REQUEUE, RowReason.WORKER_CHANGED, message))
        worker = row.workers[index]
        refused = self._eligibility.worker_refusal(tracked, worker)
        if refused is not None:
            raise _RefusedError(refused)
        try:
            manifest = self._manifest(tracked, index, worker)
        except ValueError as error:
            decision = LifecycleDecision(Event.REQUEUE, RowReason.WORKER_CHANGED, str(error), exclude=worker)
            raise _RefusedError(decision) from error
        await self._cluster.create_pod(row.namespace, manifest)

    async def _until_definite(
        self,
        tracked: TrackedWorkload,
        attempt: int,
        create: Callable[[], Awaitable[None]],
        *,
        index: int | None = None,
        group: _Group | None = None,
    ) -> LifecycleDecision | None:
        """Repeat `create` until it succeeds (None), is definitely refused, or was tried often enough.

        A late create must not appear beside the pods of a later attempt: the result of a create that is given up is
        returned only when it can't be carried out any more. Raises LeaseLostError, _AttemptEndedError,
        _GroupStoppedError.
        """
        row = tracked.row
        backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
        tried_at, problem, refused = None, "creates in this namespace fail", None
        for _ in range(MOST_TRIES):
            gate = self._gates.of(row.namespace, row.customer)
            if not await gate.enter():
                break
            answered: bool | None = None
            try:
                if not _may_go(tracked, attempt, group) or tracked.row.namespace != row.namespace:
                    break
                await create()
                answered = True
                return None
            except _RefusedError as error:
                refused = error.decision
                break
            except PodWriteError as error:
                answered = error.problem is not WriteProblem.UNAVAILABLE
                if error.problem is WriteProblem.FENCED:
                    raise LeaseLostError(error.message) from error
                if answered:
                    return refusal(error.problem, error.message)
                tried_at, problem = time.monotonic(), error.message
            finally:
                gate.leave(answered)
            delay = backoff.next()
            logger.warning(
                "create failed; repeating",
                namespace=tracked.row.namespace,
                id=tracked.id,
                error=plain(problem, 300),
                delay=round(delay, 2),
            )
            await asyncio.sleep(delay)
        if tried_at is not None:
            await asyncio.sleep(tried_at + self._late_seconds - time.monotonic())
        if not _is_current(tracked, attempt):
            raise _AttemptEndedError
        if index is not None and index in tracked.known:
            return None  # the observer has seen the pod meanwhile
        if refused is None and group is not None and group.stopped:
            raise _GroupStoppedError
        away = f"pods can't be created: {problem}"
        return refused or LifecycleDecision(Event.REQUEUE, WriteProblem.UNAVAILABLE.value, away)

    def _manifest(self, tracked: TrackedWorkload, index: int, worker: str) -> dict[str, Any]:
        row = tracked.row
        return build_pod(
            workload_name=row.name,
            namespace=row.namespace,
            uid=row.id,
            owner=row.object,
            spec=tracked.full_spec(),
            attempt=row.attempt,
            index=index,
            worker=worker,
            worker_gpu_resource=self._cluster.gpu_resource(worker),
            epoch=self._epoch,
            customer=row.customer,
            pool=row.pool_of(index),
            workload_labels=row.labels,
        )


def _may_go(tracked: TrackedWorkload, attempt: int, group: _Group | None) -> bool:
    """True while the attempt needs its pods."""
    return _is_current(tracked, attempt) and not (group is not None and group.stopped)


def _is_current(tracked: TrackedWorkload, attempt: int) -> bool:
    """True while the row is still at this attempt."""
    return tracked.row.phase.bound and tracked.row.attempt == attempt and not tracked.object_missing
