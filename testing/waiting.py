"""Waits on conditions: the only way in which test support and its users wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class ConditionTimeoutError(AssertionError):
    """A condition was not true in time; the message names it and gives its last value."""


def until(
    condition: Callable[[], T | None], *, what: str, timeout: float = 60, interval: float = 0.1, tolerate: bool = False
) -> T:
    """Polls `condition` until it returns a truthy value, and returns that value.

    Args:
        condition: called repeatedly; a falsy value means not yet.
        what: names the condition in the error.
        timeout: seconds; generous, because the machines tests run on are slow and noisy.
        interval: seconds between two calls.
        tolerate: treat an exception of `condition` as not yet; the error shows the last one.

    Raises:
        ConditionTimeoutError: the condition was not true within `timeout`.
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
