"""Requests of admins to cordon, uncordon and drain workers, which the REST door records and the leader carries out.

`maintenance` runs it in the leader's loop. A request stays open until the cluster shows what it wants: the cordon, its
absence, or a worker without work (`worker_drains`). A worker whose node can't be written waits with backoff, alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from niyanta.aio import Backoff, ticking
from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi, NodeWriteError
from niyanta.scheduler.periodic.worker_drains import WorkerDrains
from niyanta.scheduler.state import SchedulerState
from niyanta.store.rows import RequestOutcome, WorkerAction, WorkerRequest
from niyanta.store.state import StateManager

logger = log.get(__name__)

PASS_SECONDS = 2.0
"""Time after which a pass begins with no further worker."""
WRITE_SECONDS = 5.0
"""Longest wait for the API server to change a node."""
SEEN_AFTER_SECONDS = 15.0
"""Time after which the API server is asked for a change of a node that the watch hasn't shown."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Range of the pause of a worker whose node can't be written."""
LONGEST_MESSAGE = 300
"""Characters of an API server's message that are shown."""

GONE = "the node doesn't exist any more"


@dataclass(slots=True)
class _WorkerTries:
    """Attempts at the requests about one worker. Times are monotonic seconds."""

    last_at: float = float("-inf")
    not_before: float = float("-inf")
    written: dict[WorkerRequest, float] = field(default_factory=dict)
    """Requests for which this leader has written the node, with the time of the write."""
    backoff: Backoff = field(
        default_factory=lambda: Backoff(first_seconds=FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS)
    )


class WorkerRequests:
    """The open requests of one leadership."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        drains: WorkerDrains,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._drains = drains
        self._tick = tick
        self._tries: dict[str, _WorkerTries] = {}
        """Worker -> attempts at its open requests."""

    async def run(self) -> None:
        """Take the requests about each worker a step further, for about PASS_SECONDS; the longest untried first."""
        requests = await self._store.get_worker_requests()
        by_worker: dict[str, list[WorkerRequest]] = {}
        for request in requests:
            by_worker.setdefault(request.worker, []).append(request)
        self._tries = {worker: self._tries.get(worker, _WorkerTries()) for worker in by_worker}
        self._drains.begin_pass(requests)
        progress: dict[WorkerRequest, str] = {}
        ends_at = time.monotonic() + PASS_SECONDS
        for worker in sorted(by_worker, key=lambda name: (self._tries[name].last_at, name)):
            now = time.monotonic()
            if now > ends_at:
                break
            if now >= self._tries[worker].not_before:
                self._tries[worker].last_at = now
                progress |= await self._guarded(worker, by_worker[worker])
        if progress:
            await self._store.report_worker_requests(progress, epoch=self._state.epoch)

    async def _guarded(self, worker: str, requests: Sequence[WorkerRequest]) -> Mapping[WorkerRequest, str]:
        """New messages of requests that stay open. Errors of this worker make it pause."""
        tries = self._tries[worker]
        try:
            found = await self._advance(requests)
        except SharedFaultError:
            raise
        except (NodeWriteError, TimeoutError) as error:
            logger.warning("a node was not changed; repeated later", worker=worker, error=str(error)[:LONGEST_MESSAGE])
        except Exception as error:
            record(Boundary.DRAIN, worker, error)
        else:
            tries.backoff.reset()
            return found
        tries.not_before = time.monotonic() + tries.backoff.next()
        return {}

    async def _advance(self, requests: Sequence[WorkerRequest]) -> Mapping[WorkerRequest, str]:
        """The last request decides if the worker is to be cordoned; earlier ones that want the opposite end."""
        last = max(requests, key=lambda request: (request.requested_at, request.id))
        opens = last.action == WorkerAction.UNCORDON
        found: dict[WorkerRequest, str] = {}
        for request in requests:
            if (request.action == WorkerAction.UNCORDON) is not opens:
                message = f"replaced by a later request to {last.action} the worker"
                await self._complete(request, RequestOutcome.REPLACED, message)
            elif await self._is_in_place(request):
                if request.action != WorkerAction.DRAIN:
                    await self._complete(request, RequestOutcome.DONE, f"{request.action}ed")
                    continue
                progress = await self._drains.step(request)
                if not progress.left:
                    await self._complete(request, RequestOutcome.DONE, progress.message)
                elif request.begun_at is None or request.message != progress.message:
                    found[request] = progress.message
        return found

    async def _is_in_place(self, request: WorkerRequest) -> bool:
        """True if the worker is cordoned as the request wants it; writes the node once if it isn't. Ends requests that
        can't be carried out, and those that another client has undone."""
        worker, wanted = request.worker, request.action != WorkerAction.UNCORDON
        written = self._tries[worker].written
        if request.begun_at is None and request not in written and not await self._write(request):
            return False
        if self._cluster.is_schedulable(worker) is not wanted:
            return True
        since = written.get(request, float("-inf"))
        if request.begun_at is not None or time.monotonic() - since > SEEN_AFTER_SECONDS:
            # The watch may be late: only the API server knows if another client has changed the node.
            async with asyncio.timeout(WRITE_SECONDS):
                cordoned = await ticking(self._tick, self._cluster.is_cordoned(worker))
            if cordoned is wanted:
                return False
            if cordoned is None:
                await self._complete(request, RequestOutcome.FAILED, GONE)
                return False
            undone = "uncordoned" if wanted else "cordoned"
            await self._complete(request, RequestOutcome.REPLACED, f"another client {undone} the node meanwhile")
        return False

    async def _write(self, request: WorkerRequest) -> bool:
        """Cordon or uncordon the node; False if that ended the request."""
        change = self._cluster.uncordon if request.action == WorkerAction.UNCORDON else self._cluster.cordon
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                exists = await ticking(self._tick, change(request.worker))
        except NodeWriteError as error:
            if not error.refused:
                raise
            message = f"the API server refused to change the node: {error.message[:LONGEST_MESSAGE]}"
            await self._complete(request, RequestOutcome.FAILED, message)
            return False
        if not exists:
            await self._complete(request, RequestOutcome.FAILED, GONE)
            return False
        self._tries[request.worker].written[request] = time.monotonic()
        return True

    async def _complete(self, request: WorkerRequest, outcome: RequestOutcome, message: str) -> None:
        await self._store.complete_worker_request(request, outcome=outcome, message=message, epoch=self._state.epoch)
        logger.info(
            "a request about a worker has ended",
            worker=request.worker,
            action=request.action,
            by=request.requested_by,
            outcome=outcome.value,
            message=message,
        )
