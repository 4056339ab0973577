"""Submissions that arrive together are committed together.

One commit for each would hold the customer's counter row until it is on disk, and so cap a customer at one submission
per disk sync. While a commit is in progress, further requests queue (at most MAX_ITEMS items in the next commit), so
latency grows only under load.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from niyanta.server.problems import INVALID, UNAVAILABLE, Problem
from niyanta.store.errors import ConflictError, RowEncodingError, StoreError, StoreUnavailableError
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import RefusedSubmissionError, SubmissionOutcome, SubmissionRequest

MAX_ITEMS = 1000
"""Most items in one commit, unless a single request has more."""
CONCURRENT_COMMITS = 2
"""One computes while the other waits for the disk."""
IDLE_WINDOW_SECONDS = 0.002
"""Time that a first request waits for others to join its commit."""
QUEUE_TIMEOUT_SECONDS = 4.5
"""A request that has waited this long for its commit is refused with 503."""
_TRIES = 3


@dataclass(slots=True)
class _Waiting:
    request: SubmissionRequest
    answer: asyncio.Future[SubmissionOutcome]
    since: float


class SubmissionBatcher:
    """Passes requests to `RestStore.submit` in groups. Call `start` before use and `stop` after."""

    def __init__(self, store: RestStore, position: Callable[[], Awaitable[int | None]]) -> None:
        self._store = store
        self._position = position
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._committers: list[asyncio.Task[None]] = []
        self._keys_in_progress: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Start the tasks that commit."""
        self._committers = [
            asyncio.create_task(self._run(), name=f"submit-{number}") for number in range(CONCURRENT_COMMITS)
        ]

    async def stop(self) -> None:
        """Stop; requests that still wait are cancelled."""
        for committer in self._committers:
            committer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await committer
        for waiting in self._queue:
            waiting.answer.cancel()

    async def submit(self, request: SubmissionRequest) -> SubmissionOutcome:
        """The outcome of a request; raises Problem, StoreError."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.create_future(), loop.time())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(IDLE_WINDOW_SECONDS)
            group = self._take()
            if not group:
                # Nothing, or only requests whose idempotency key is in the other commit.
                if not self._queue:
                    self._arrived.clear()
                continue
            keys = {key for waiting in group if (key := _key(waiting.request)) is not None}
            self._keys_in_progress |= keys
            try:
                await self._commit(group)
            finally:
                self._keys_in_progress -= keys

    def _take(self) -> list[_Waiting]:
        """The next group, in order of arrival, without two requests that have the same idempotency key."""
        now = asyncio.get_running_loop().time()
        group: list[_Waiting] = []
        left: list[_Waiting] = []
        seen = set(self._keys_in_progress)
        items = 0
        while self._queue:
            waiting = self._queue.popleft()
            if waiting.answer.done():
                continue
            if now - waiting.since > QUEUE_TIMEOUT_SECONDS:
                waiting.answer.set_exception(
                    Problem(UNAVAILABLE, "Postgres is too slow to accept submissions", retry_after=2)
                )
                continue
            key = _key(waiting.request)
            if key is not None and key in seen:
                left.append(waiting)
                continue
            if group and items + len(waiting.request.items) > MAX_ITEMS:
                self._queue.appendleft(waiting)
                break
            group.append(waiting)
            items += len(waiting.request.items)
            if key is not None:
                seen.add(key)
        self._queue.extendleft(reversed(left))
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        try:
            outcomes = await self._submit([waiting.request for waiting in group])
        except StoreUnavailableError as error:
            _fail(group, error)
        except StoreError as error:
            if len(group) == 1:
                refused = isinstance(error, RefusedSubmissionError | RowEncodingError)
                _fail(group, Problem(INVALID, str(error)) if refused else error)
                return
            for waiting in group:  # one request makes the commit fail: find it
                await self._commit([waiting])
        except asyncio.CancelledError:
            _fail(group, StoreUnavailableError("this process is shutting down"))
            raise
        except Exception as error:
            _fail(group, error)
        else:
            position = await self._position()
            for waiting, outcome in zip(group, outcomes, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(replace(outcome, position=position))

    async def _submit(self, requests: list[SubmissionRequest]) -> list[SubmissionOutcome]:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(ConflictError):
                return await self._store.submit(requests)
        return await self._store.submit(requests)


def _key(request: SubmissionRequest) -> tuple[str, str] | None:
    return None if request.key is None else (request.customer, request.key)


def _fail(group: list[_Waiting], error: Exception) -> None:
    for waiting in group:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
