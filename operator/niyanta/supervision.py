"""Supervision of background tasks: one that raises an unexpected error is started again, and nothing else ends.

`manager` runs the tasks of every replica and the tasks beside the leader's loop through `supervised`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from niyanta.aio import Backoff
from niyanta.containment import Boundary, SharedFaultError, describe, record
from niyanta.observability import log

logger = log.get(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
"""Range of the pause before a task is started again, without jitter."""

STEADY_SECONDS = 60.0
"""Time after which a task that ran counts as healthy: its next pause is the first one again."""


async def supervised(
    name: str, work: Callable[[], Awaitable[None]], *, on_return: Callable[[], None] | None = None
) -> None:
    """Run `work` until cancelled, again after each error, with growing pauses. When `work` returns, `on_return` is
    called and the task ends; without it, `work` is started again."""
    backoff = Backoff(first_seconds=FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS)
    while True:
        started = time.monotonic()
        try:
            await work()
        except SharedFaultError as error:
            logger.warning("a background task failed; it is started again", task=name, error=describe(error))
        except Exception as error:
            record(Boundary.TASK, name, error)
        else:
            if on_return is not None:
                on_return()
                return
        if time.monotonic() - started >= STEADY_SECONDS:
            backoff.reset()
        await asyncio.sleep(backoff.next())
