"""submitRatePerSecond: the sliding window of the package `limits`, with its counters in Postgres.

The counters are in Postgres because a limit per process would change with the number of replicas. Only customers that
have the limit pay for it: one statement on an unlogged table, which doesn't wait for the disk. A refusal is remembered
for the time in which one more submission becomes free, so that a customer at its limit is refused before its next body
is read, and without Postgres.
"""

from __future__ import annotations

import time

from limits import RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.storage.base import SlidingWindowCounterSupport
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from niyanta.server.limits.budgets import LIMITED
from niyanta.server.submit.backpressure import Backpressure
from niyanta.store.errors import StoreError
from niyanta.store.rest.record import RestStore


class PostgresWindows(Storage, SlidingWindowCounterSupport):
    """The part of the storage interface of `limits` that its sliding window needs."""

    STORAGE_SCHEME = ["niyanta"]  # noqa: RUF012 - as limits declares it

    def __init__(self, store: RestStore) -> None:
        super().__init__()
        self._store = store

    @property
    def base_exceptions(self) -> type[Exception]:
        return StoreError

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Add `amount` to the window if it stays within `limit`; True when it does."""
        return await self._store.rate_acquire(key, limit=limit, expiry=expiry, amount=amount)

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """See `RestStore.rate_window`."""
        return await self._store.rate_window(key, expiry=expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        raise NotImplementedError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    async def get(self, key: str) -> int:
        raise NotImplementedError

    async def get_expiry(self, key: str) -> float:
        raise NotImplementedError

    async def check(self) -> bool:
        """True when Postgres answers; else raises StoreError."""
        await self._store.clock()
        return True

    async def reset(self) -> int | None:
        raise NotImplementedError

    async def clear(self, key: str) -> None:
        raise NotImplementedError


class SubmitRate:
    """The limit of a customer's submissions per second."""

    def __init__(self, store: RestStore) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(PostgresWindows(store))
        self._refused: dict[str, tuple[float, int]] = {}
        """Customer -> end of its refusal by the monotonic clock, and its limit."""

    def require(self, customer: str) -> None:
        """Raises Problem (429) while the customer's last refusal is fresh."""
        until, per_second = self._refused.get(customer, (0.0, 0))
        if time.monotonic() < until:
            LIMITED.labels("submit_rate").inc()
            raise Backpressure.rate_limited(per_second)

    async def take(self, customer: str, per_second: int, wanted: int) -> int:
        """Take up to `wanted` submissions; returns how many were granted."""
        granted = await self._take(customer, per_second, wanted)
        if granted:
            self._refused.pop(customer, None)
        else:
            self._refused[customer] = (time.monotonic() + 1.0 / max(1, per_second), per_second)
        return granted

    async def _take(self, customer: str, per_second: int, wanted: int) -> int:
        if per_second <= 0:
            return 0
        item = RateLimitItemPerSecond(per_second)
        if wanted <= per_second and await self._limiter.hit(item, customer, cost=wanted):
            return wanted
        if wanted == 1:
            return 0
        left = min(wanted, (await self._limiter.get_window_stats(item, customer)).remaining)
        return left if left > 0 and await self._limiter.hit(item, customer, cost=left) else 0
