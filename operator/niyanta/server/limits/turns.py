"""Turns at work on the event loop that can't be interrupted, such as parsing a manifest.

Each customer has one such piece of work at a time, and the loop serves everybody else between two of them: a customer
with many requests delays another one's by one piece of its work, not by all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


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
                yield
                await asyncio.sleep(0)  # requests that are ready now find the lock taken
        finally:
            lock, users = self._queues[customer]
            if users == 1:
                del self._queues[customer]
            else:
                self._queues[customer] = (lock, users - 1)
