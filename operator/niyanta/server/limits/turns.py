"""Turns at work on the event loop that can't be interrupted, such as parsing a manifest.

Each customer has one such piece of work at a time, and the loop serves everybody else between two of them: a customer
with many requests delays another one's by one piece of its work, not by all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LONG_SECONDS = 0.003
"""Work that takes longer is followed by a pause of the customer's, of PAUSE times its duration: so costly manifests of
one customer take a quarter of the loop's time at most."""
PAUSE = 3.0
LONGEST_PAUSE_SECONDS = 0.25


class Turns:
    """A queue for each customer."""

    def __init__(self) -> None:
        self._queues: dict[str, tuple[asyncio.Lock, int]] = {}
        """Customer -> its lock, and the number of those that have it or wait for it."""

    @asynccontextmanager
    async def of(self, customer: str) -> AsyncIterator[None]:
        """Wait for the customer's turn, and end it with the block."""
        lock, users = self._queues.get(customer, (asyncio.Lock(), 0))
        self._queues[customer] = (lock, users + 1)
        try:
            async with lock:
                started = time.thread_time()
                yield
                # Time of the processor: on a busy machine the clock says nothing of the work.
                taken = time.thread_time() - started
                # At least once round the loop: requests that are ready now find the lock taken.
                await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, PAUSE * taken) if taken > LONG_SECONDS else 0)
        finally:
            lock, users = self._queues[customer]
            if users == 1:
                del self._queues[customer]
            else:
                self._queues[customer] = (lock, users - 1)
