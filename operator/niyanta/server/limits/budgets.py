"""Budgets of requests in flight and of the memory of their submissions, for each customer and for the whole process.

A customer may have at most its own limit, and never more than is still free: so some room is left for others however
many customers are at their limits. `middleware` makes a `RequestBudget` for each request and releases it at the end;
authentication charges it to the caller's customer.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Multiset

from prometheus_client import Counter, Gauge
from starlette.requests import Request
from starlette.types import Scope

from niyanta.server.problems import TOO_MANY, Problem
from niyanta.settings import Settings

LIMITED = Counter(
    "niyanta_api_limited_total", "Requests and connections that a limit of the REST door refused or closed", ["limit"]
)
HELD_BYTES = Gauge("niyanta_api_submission_bytes", "Estimated memory of the submissions in flight")

BYTES_PATIENCE_SECONDS = 2.0
"""Time for which a submission waits for memory before it is refused."""

_SCOPE_KEY = "niyanta.budget"


class InflightBudgets:
    """Requests in flight and their bytes, by customer."""

    def __init__(self, settings: Settings) -> None:
        self._most_requests = settings.api_max_inflight
        self._most_requests_each = settings.api_max_inflight_per_customer
        self._most_bytes = settings.api_max_inflight_bytes
        self._most_bytes_each = settings.api_max_inflight_bytes_per_customer
        self._requests: Multiset[str] = Multiset()
        self._requests_total = 0
        self._bytes: Multiset[str] = Multiset()
        self._bytes_total = 0
        self._released = asyncio.Event()

    def enter(self, customer: str) -> None:
        """Count a request of this customer; raises Problem (429) if it has too many."""
        most = max(1, min(self._most_requests_each, self._most_requests - self._requests_total))
        if self._requests[customer] >= most:
            LIMITED.labels("customer_requests").inc()
            # The limit as configured: what is free now would show the load of others.
            text = (
                f"the customer has {self._requests[customer]} requests in flight in this process, and may have at "
                f"most {self._most_requests_each} while there is room"
            )
            raise Problem(TOO_MANY, text, retry_after=1)
        self._requests[customer] += 1
        self._requests_total += 1

    def leave(self, customer: str) -> None:
        """The request has ended."""
        _subtract(self._requests, customer, 1)
        self._requests_total -= 1

    async def reserve(self, customer: str, amount: int) -> None:
        """Count `amount` bytes of this customer, and wait for them a while; then raises Problem (429)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BYTES_PATIENCE_SECONDS
        while not self.fits(customer, amount):
            self._released.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._released.wait()
            except TimeoutError:
                LIMITED.labels("customer_bytes").inc()
                text = (
                    f"the customer's submissions in flight in this process take {self._bytes[customer]} bytes, this "
                    f"one would add {amount}, and they may take at most {self._most_bytes_each} while there is room"
                )
                raise Problem(TOO_MANY, text, retry_after=1) from None
        self._bytes[customer] += amount
        self._bytes_total += amount
        HELD_BYTES.set(self._bytes_total)

    def fits(self, customer: str, amount: int) -> bool:
        """True if `amount` more bytes of this customer are within its limit and within what is free."""
        most = min(self._most_bytes_each, self._most_bytes - self._bytes_total)
        return self._bytes[customer] + amount <= most

    def give_back(self, customer: str, amount: int) -> None:
        """`amount` bytes are free again."""
        if amount:
            _subtract(self._bytes, customer, amount)
            self._bytes_total -= amount
            HELD_BYTES.set(self._bytes_total)
            self._released.set()


def _subtract(counts: Multiset[str], customer: str, amount: int) -> None:
    counts[customer] -= amount
    if counts[customer] <= 0:
        del counts[customer]


class RequestBudget:
    """The part of its customer's budgets that one request takes; nothing before `charge`."""

    def __init__(self, budgets: InflightBudgets) -> None:
        self._budgets = budgets
        self._customer: str | None = None
        self._bytes = 0

    def charge(self, customer: str) -> None:
        """Count the request for this customer, once; raises Problem (429)."""
        if self._customer is None:
            self._budgets.enter(customer)
            self._customer = customer

    def fits(self, amount: int) -> bool:
        """True if `hold` would not wait for `amount` bytes."""
        return self._customer is None or self._budgets.fits(self._customer, amount)

    async def hold(self, amount: int) -> None:
        """Take `amount` bytes; raises Problem (429) when they don't become free in time."""
        if self._customer is not None:
            await self._budgets.reserve(self._customer, amount)
            self._bytes += amount

    def give_back(self, amount: int) -> None:
        """Return `amount` of the bytes held."""
        if self._customer is not None:
            amount = min(amount, self._bytes)
            self._bytes -= amount
            self._budgets.give_back(self._customer, amount)

    def release(self) -> None:
        """The request has ended: return everything."""
        if self._customer is not None:
            self.give_back(self._bytes)
            self._budgets.leave(self._customer)
            self._customer = None


def attach(scope: Scope, budget: RequestBudget) -> None:
    """Let handlers of the request with this scope find `budget`."""
    scope[_SCOPE_KEY] = budget


def budget_of(request: Request) -> RequestBudget:
    """The budget of a request that came through the middleware."""
    found: RequestBudget = request.scope[_SCOPE_KEY]
    return found
