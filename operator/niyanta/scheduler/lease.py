"""This process's own view of its leadership: valid until a moment of the monotonic clock, never longer than
Postgres says.

`valid` is asked before every write to the API server; `tick` shows that the leader's loop is alive.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Lease:
    """Monotonic bookkeeping of one candidate; times are seconds."""

    def __init__(self, *, seconds: float, stall_limit: float) -> None:
        self._seconds = seconds
        self._stall_limit = stall_limit
        self._until = 0.0
        self._ticked = 0.0
        self.epoch = 0

    def begin(self, epoch: int, *, asked_at: float) -> None:
        """Leadership was taken by a statement sent at `asked_at` (monotonic)."""
        self.epoch = epoch
        self._until = asked_at + self._seconds
        self._ticked = time.monotonic()

    def renewed(self, *, asked_at: float) -> None:
        """A renewal sent at `asked_at` succeeded."""
        self._until = asked_at + self._seconds

    def end(self) -> None:
        """Leadership is over, whatever Postgres says."""
        self._until = 0.0

    def tick(self) -> None:
        """The leader's loop did something."""
        self._ticked = time.monotonic()

    @property
    def valid(self) -> bool:
        """Whether this process may write."""
        return time.monotonic() < self._until

    @property
    def stalled(self) -> bool:
        """Whether the loop has not ticked for too long to go on renewing."""
        return time.monotonic() - self._ticked > self._stall_limit


async def gathered(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all of it, for `alive_while`."""
    return await asyncio.gather(*work)


async def alive_while(tick: Callable[[], None], work: Coroutine[Any, Any, T]) -> T:
    """Await something that takes long for good reasons (a list of everything), ticking meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            tick()
            done, _ = await asyncio.wait({task}, timeout=0.5)
            if done:
                return task.result()
    finally:
        task.cancel()
