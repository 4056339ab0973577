"""Writes about Workload objects, in order within a namespace and through gates: a namespace whose writes are slow, fail
or are many neither delays nor drops those of another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Generic, TypeVar

from niyanta.cluster.api.errors import ErrorKind
from niyanta.scheduler.pods.namespace_gate import NamespaceGate, NamespaceGates

NO_ANSWER = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.UNKNOWN_OUTCOME, ErrorKind.TOO_MANY})
"""Errors that are no definite answer; several in a row stop the writes of a namespace for a while."""

Key = tuple[str, str]
"""Namespace and customer."""


T = TypeVar("T")


class FairWrites(Generic[T]):
    """Items that wait to be written, in one queue for each namespace and customer.

    At most `most_waiting` wait (None: as many as come). When there are more, the longest queue loses its newest item.
    """

    def __init__(
        self,
        write: Callable[[T], Awaitable[bool | None]],
        *,
        concurrency: int,
        most_waiting: int | None = None,
        dropped: Callable[[T], None] = lambda _: None,
    ) -> None:
        """`write` returns True if the API server gave a definite answer, False if it didn't, None if nothing was sent;
        it raises nothing. `dropped` is called with items that are not written."""
        self._write = write
        self._most_waiting = most_waiting
        self._dropped = dropped
        self._concurrency = concurrency
        self._gates = NamespaceGates(concurrency)
        self._queues: dict[Key, deque[T]] = {}
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, namespace: str, customer: str, item: T) -> None:
        """Write an item when it is its turn."""
        key = namespace, customer
        if self._most_waiting is not None and self._waiting >= self._most_waiting and not self._make_room(key):
            self._dropped(item)
            return
        self._waiting += 1
        queue = self._queues.get(key)
        if queue is not None:
            queue.append(item)
            return
        queue = self._queues[key] = deque([item])
        self._start(self._run(key, queue))

    def close(self) -> None:
        """Cancel everything. Items may come again at once, before the cancelled tasks have ended: a task that hasn't
        begun ends without leaving its gate or queue, so both are made anew."""
        for task in self._tasks:
            task.cancel()
        self._waiting = 0
        self._queues = {}
        self._gates = NamespaceGates(self._concurrency)

    def _make_room(self, key: Key) -> bool:
        """Drop the newest item of a queue that is longer than the one of `key`; False if there is none."""
        own = len(self._queues.get(key, ()))
        if own * len(self._queues) >= self._waiting:
            return False  # not shorter than the average
        longest = max(self._queues.values(), key=len)
        if len(longest) <= own:
            return False
        self._dropped(longest.pop())
        self._waiting -= 1
        return True

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, key: Key, queue: deque[T]) -> None:
        """Start the writes of one queue until it is empty."""
        try:
            while queue:
                gate = self._gates.of(*key)
                if not await gate.enter():
                    continue  # it waits on, behind an open breaker
                if queue:
                    self._waiting -= 1
                    self._start(self._turn(gate, queue.popleft()))
                else:
                    gate.leave(None)
        finally:
            if self._queues.get(key) is queue:
                del self._queues[key]

    async def _turn(self, gate: NamespaceGate, item: T) -> None:
        answered: bool | None = None
        try:
            answered = await self._write(item)
        finally:
            gate.leave(answered)
