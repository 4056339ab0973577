"""Submissions that arrive together are committed together.

One commit for each would hold the customer's counter row until it is on disk, and so cap a customer at one submission
per disk sync. While a commit is in progress, further requests queue (at most MAX_ITEMS items in the next commit), so
latency grows only under load. Customers take turns: a request waits behind those of its own customer, not behind
another customer's batches, and small requests have a commit that no batch is part of.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter as Multiset
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
SMALL_ITEMS = 10
"""Requests with at most so many items have another commit in progress for themselves."""
POLL_SECONDS = 0.01
"""Time until requests that could not be taken are looked at again."""
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
        self._locked: set[str] = set()
        """Customers with a limit in a commit in progress: another one would wait for their lock."""
        self._served: dict[str, int] = {}
        """Customer -> number of its last commit, since requests last waited."""
        self._commits = 0

    def start(self) -> None:
        """Start the tasks that commit."""
        self._committers = [
            asyncio.create_task(self._run(small=False), name=f"submit-{number}") for number in range(CONCURRENT_COMMITS)
        ]
        self._committers.append(asyncio.create_task(self._run(small=True), name="submit-small"))

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

    async def _run(self, *, small: bool) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(IDLE_WINDOW_SECONDS)
            group = self._take(small=small)
            if not group:
                if self._queue:
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    self._arrived.clear()
                    self._served.clear()
                continue
            keys = {key for waiting in group if (key := _key(waiting.request)) is not None}
            locked = {waiting.request.customer for waiting in group if waiting.request.limit is not None}
            self._keys_in_progress |= keys
            self._locked |= locked
            try:
                await self._commit(group)
            finally:
                self._keys_in_progress -= keys
                self._locked -= locked

    def _take(self, *, small: bool) -> list[_Waiting]:
        """The next group, without two requests that have the same idempotency key, and without requests that would wait
        for a commit in progress."""
        group: list[_Waiting] = []
        seen = set(self._keys_in_progress)
        items = 0
        for waiting in self._in_turn():
            key, count = _key(waiting.request), len(waiting.request.items)
            if (
                (key is not None and key in seen)
                or waiting.request.customer in self._locked
                or (small and count > SMALL_ITEMS)
                or (group and items + count > MAX_ITEMS)
            ):
                continue
            group.append(waiting)
            items += count
            if key is not None:
                seen.add(key)
        self._commits += 1
        self._served |= {waiting.request.customer: self._commits for waiting in group}
        taken = set(map(id, group))
        self._queue = deque(
            waiting for waiting in self._queue if id(waiting) not in taken and not waiting.answer.done()
        )
        return group

    def _in_turn(self) -> list[_Waiting]:
        """The requests that wait, by the number of items of their own customer before them, then by its last commit,
        then by arrival. Those that have waited for too long are refused."""
        now = asyncio.get_running_loop().time()
        before: Multiset[str] = Multiset()
        turns: list[tuple[int, int, int, _Waiting]] = []
        for number, waiting in enumerate(self._queue):
            if waiting.answer.done():
                continue
            if now - waiting.since > QUEUE_TIMEOUT_SECONDS:
                waiting.answer.set_exception(
                    Problem(UNAVAILABLE, "Postgres is too slow to accept submissions", retry_after=2)
                )
                continue
            customer = waiting.request.customer
            turns.append((before[customer], self._served.get(customer, 0), number, waiting))
            before[customer] += len(waiting.request.items)
        turns.sort(key=lambda turn: turn[:3])
        return [turn[3] for turn in turns]

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
