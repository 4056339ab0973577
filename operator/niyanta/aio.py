"""Helpers of asynchronous loops: backoff, retry, slices, timers, and waiting without appearing stalled.

Callers define durations and intervals as constants with their unit.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

ALIVE_EVERY_SECONDS = 0.5
"""Longest time between two ticks of `ticking`."""


class Backoff:
    """Exponential delays with jitter, in seconds: each is random between half of its nominal value and the whole of it.

    The nominal value starts at `first_seconds` and doubles up to `longest_seconds`. Jitter keeps clients that failed
    together from coming back together.
    """

    def __init__(self, *, first_seconds: float, longest_seconds: float) -> None:
        self._first = first_seconds
        self._longest = longest_seconds
        self._nominal = first_seconds

    def next(self) -> float:
        """The delay before the next attempt."""
        nominal = min(self._nominal, self._longest)
        self._nominal = min(self._nominal * 2, self._longest)
        return jittered(nominal)

    def reset(self) -> None:
        """An attempt succeeded: the next delay is the first one again."""
        self._nominal = self._first

    def __iter__(self) -> Iterator[float]:
        """An endless series of delays, independent of this object's own state."""
        series = Backoff(first_seconds=self._first, longest_seconds=self._longest)
        while True:
            yield series.next()


def jittered(seconds: float) -> float:
    """A random delay between half of `seconds` and all of it."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


async def retry(
    attempt: Callable[[], Awaitable[T]],
    *,
    on: type[Exception] | tuple[type[Exception], ...],
    backoff: Backoff,
    report: Callable[[Exception, float], None],
) -> T:
    """Repeat `attempt` until it returns. Exceptions of type `on` are handed to `report` with the delay in seconds
    before the next attempt; any other exception is raised."""
    while True:
        try:
            return await attempt()
        except on as error:
            delay = backoff.next()
            report(error, delay)
        await asyncio.sleep(delay)


async def in_slices(
    items: Sequence[T], size: int, *, tick: Callable[[], None] | None = None
) -> AsyncIterator[Sequence[T]]:
    """Yield `items` in slices of at most `size`; other tasks of the event loop run between two slices.

    `tick` is called before each slice: the leader's loop passes the tick of its lease, so that long work does not
    appear as a stall.
    """
    for start in range(0, len(items), size):
        if start:
            await asyncio.sleep(0)
        if tick is not None:
            tick()
        yield items[start : start + size]


class Timer:
    """A timer that is due once per interval of monotonic time, and at once when it is new."""

    def __init__(self, every_seconds: float) -> None:
        self._every = every_seconds
        self._next = 0.0

    def due(self) -> bool:
        """True when the interval is over; the next one then starts now."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every
        return True

    def rest(self, seconds: float) -> None:
        """Not be due for so long, if that is longer than the rest of the interval."""
        self._next = max(self._next, time.monotonic() + seconds)


async def gathered(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all coroutines, in their order."""
    return await asyncio.gather(*work)


async def ticking(tick: Callable[[], None], work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, which may take long (a list of all objects), and call `tick` meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            tick()
            done, _ = await asyncio.wait({task}, timeout=ALIVE_EVERY_SECONDS)
            if done:
                return task.result()
    finally:
        task.cancel()
