"""Queue limits and the Retry-After of refused submissions, from the leader's measured placement rate.

A customer's own limit is exact: the store checks it under the customer's lock. Of the whole queue each customer may
have at most half of what the others leave free, so nobody can fill it for all. This compares with counts that are up to
100 ms old, so all API processes together may exceed it by what they accept in that time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from niyanta.server.metrics import QUEUE_LIMIT
from niyanta.server.problems import AT_CAPACITY, QUEUE_FULL, RATE_LIMITED, Problem
from niyanta.settings import Settings
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import CustomerRow, PoolRow

DEPTH_CACHE_SECONDS = 0.1
STATS_CACHE_SECONDS = 1.0
CUSTOMER_CACHE_SECONDS = 1.0
STALE_SECONDS = 60.0
"""A placement rate that the leader reported longer ago is not used."""
UNKNOWN_WAIT_SECONDS = 30.0
"""Retry-After when nothing was placed lately, so that no wait can be computed."""
LONGEST_WAIT_SECONDS = 600.0

T = TypeVar("T")


class Cached(Generic[T]):
    """A value that is loaded again when it is older than `seconds`."""

    def __init__(self, seconds: float, load: Callable[[], Awaitable[T]]) -> None:
        self._seconds = seconds
        self._load = load
        self._value: tuple[float, T] | None = None

    async def get(self) -> T:
        """The value; raises what the loader raises."""
        now = time.monotonic()
        if self._value is None or now - self._value[0] > self._seconds:
            self._value = (now, await self._load())
        return self._value[1]


@dataclass(frozen=True, slots=True)
class ObservedPlacementRate:
    """Placement rate of the leader, from `leader_stats`: placements per minute over the last ten minutes."""

    total: float | None = None
    by_customer: Mapping[str, float] | None = None
    by_pool: Mapping[str, float] | None = None
    stats: Mapping[str, Any] | None = None
    age: float | None = None

    @classmethod
    def of(cls, stats: Mapping[str, Any], age: float | None) -> ObservedPlacementRate:
        """From the row's JSON; rates that are too old or not numbers are left out."""
        if age is None or age > STALE_SECONDS:
            return cls(stats=stats, age=age)
        total = stats.get("placed_per_minute")
        return cls(
            total=float(total) if isinstance(total, int | float) else None,
            by_customer=_rates(stats.get("placed_per_minute_by_customer")),
            by_pool=_rates(stats.get("placed_per_minute_by_pool")),
            stats=stats,
            age=age,
        )

    def seconds_for(self, count: int, customer: str | None = None) -> float:
        """Seconds until `count` workloads (of one customer) have left the queue, bounded for Retry-After."""
        rate = self.total if customer is None else (self.by_customer or {}).get(customer)
        if not rate:
            return UNKNOWN_WAIT_SECONDS
        return min(LONGEST_WAIT_SECONDS, max(1.0, count * 60.0 / rate))


def _rates(value: Any) -> Mapping[str, float]:
    if not isinstance(value, dict):
        return {}
    return {str(name): float(rate) for name, rate in value.items() if isinstance(rate, int | float)}


class Backpressure:
    """Limits that submissions are checked against, and cached rows that they need."""

    def __init__(self, store: RestStore, settings: Settings) -> None:
        self._store = store
        self._capacity = settings.max_queue_depth
        QUEUE_LIMIT.set(self._capacity)
        self._waiting = Cached(DEPTH_CACHE_SECONDS, store.waiting_by_customer)
        self._rate = Cached(STATS_CACHE_SECONDS, self._load_rate)
        self._pools = Cached(CUSTOMER_CACHE_SECONDS, store.get_pools)
        self._tiers = Cached(CUSTOMER_CACHE_SECONDS, self._load_tiers)
        self._customers: dict[str, Cached[CustomerRow | None]] = {}

    async def _load_rate(self) -> ObservedPlacementRate:
        return ObservedPlacementRate.of(*await self._store.get_leader_stats())

    async def placement_rate(self) -> ObservedPlacementRate:
        """The leader's placement rate, at most STATS_CACHE_SECONDS old."""
        return await self._rate.get()

    async def customer(self, name: str) -> CustomerRow | None:
        """A Customer as the leader last wrote it; None when it is unknown or deleted."""
        if name not in self._customers:
            if len(self._customers) > 10_000:
                self._customers.clear()
            self._customers[name] = Cached(CUSTOMER_CACHE_SECONDS, lambda: self._store.get_customer(name))
        found = await self._customers[name].get()
        return None if found is None or found.deleted else found

    async def tiers(self) -> dict[str, str]:
        """Customer -> tier, including deleted Customers."""
        return await self._tiers.get()

    async def pools(self) -> list[PoolRow]:
        """The pools, at most a second old."""
        return await self._pools.get()

    async def _load_tiers(self) -> dict[str, str]:
        return {row.name: row.tier for row in await self._store.get_customers()}

    async def depth(self) -> int:
        """Waiting workloads of all customers together, at most DEPTH_CACHE_SECONDS old."""
        return sum((await self._waiting.get()).values())

    async def require_capacity(self, customer: str, count: int) -> None:
        """Raises Problem (503) when the whole queue has no room for `count` more of this customer. Its message names
        neither the depth of the queue nor the share, which would show the backlogs of others."""
        waiting = await self._waiting.get()
        own = waiting.get(customer, 0)
        over = own + count - share_of(self._capacity, sum(waiting.values()) - own)
        if over > 0:
            detail = f"the queue has no room for {count} more workloads of this customer, which has {own} waiting"
            raise Problem(AT_CAPACITY, detail, retry_after=(await self.placement_rate()).seconds_for(over))

    async def queue_full(self, customer: CustomerRow, limit: int, depth: int, count: int) -> Problem:
        """The response to a customer over its own limit."""
        wait = (await self.placement_rate()).seconds_for(max(1, min(count, depth + count - limit)), customer.name)
        return Problem(
            QUEUE_FULL,
            f"the customer has {depth} workloads waiting, its maxQueueDepth is {limit}",
            retry_after=wait,
            headers=limit_headers("queue", limit, max(0, limit - depth), wait),
        )

    @staticmethod
    def rate_limited(per_second: int) -> Problem:
        """The response to a customer that submits too fast."""
        return Problem(
            RATE_LIMITED,
            f"the limit is {per_second} submissions per second",
            retry_after=1.0,
            headers=limit_headers("rate", per_second, 0, 1.0),
        )


def share_of(capacity: int, others: int) -> int:
    """Number of workloads that one customer may have waiting while those of all others are `others`: half of what is
    free, rounded up."""
    return (max(0, capacity - others) + 1) // 2


def limit_headers(name: str, limit: int, remaining: int, reset: float) -> dict[str, str]:
    """RateLimit headers: the fields of the IETF draft (draft-ietf-httpapi-ratelimit-headers-10), and the older three
    that most clients read."""
    seconds = max(1, round(reset))
    return {
        "RateLimit-Policy": f'"{name}";q={limit}',
        "RateLimit": f'"{name}";r={remaining};t={seconds}',
        "RateLimit-Limit": str(limit),
        "RateLimit-Remaining": str(remaining),
        "RateLimit-Reset": str(seconds),
    }


def limit_of(customer: CustomerRow, name: str) -> int | None:
    """One of a Customer's limits; None when it isn't set."""
    value = customer.limits.get(name)
    return int(value) if isinstance(value, int) else None
