"""Waits on conditions: the only way the harness and its users let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class ConditionTimeoutError(AssertionError):
    """A condition did not come true in time; the message says which, and what was last seen."""


def until(
    condition: Callable[[], T | None], *, what: str, timeout: float = 60, interval: float = 0.1, tolerate: bool = False
) -> T:
    """Polls `condition` until it gives something truthy, and returns that.

    Args:
        condition: called again and again; a falsy answer means not yet.
        what: names the condition in the error.
        timeout: seconds; generous, because the machines tests run on are slow and noisy.
        interval: seconds between two calls.
        tolerate: take an exception of `condition` as not yet; the last one is shown when time is up.

    Raises:
        ConditionTimeoutError: not true in time.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            last = condition()
        except Exception as error:
            if not tolerate:
                raise
            last = error
        else:
            if last:
                return last
        if time.monotonic() >= deadline:
            raise ConditionTimeoutError(f"not within {timeout:g} s: {what} (last seen: {last!r})")
        time.sleep(interval)
