"""Writes the statuses of Customers while this process leads: counts of workloads, and whether a limit is reached.

The counts come from the counters in Postgres, so they include the backlog that isn't in memory. A status is written at
most once per interval and Customer, and only if it changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, WritesClosedError
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.observability import log
from niyanta.resources.models.customer import Customer
from niyanta.store.errors import StoreError
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import Depth
from niyanta.store.state import StateManager

logger = log.get(__name__)

WITHIN_LIMITS = "WithinLimits"
"""Type of the condition."""

MAX_FAILURES = 5
"""Failures of the API server itself (no answer, or a 5xx) in a row that end a pass."""


class CustomerStatusWriter:
    """Writes Customer statuses under one leadership."""

    def __init__(
        self,
        *,
        client: ApiClient,
        store: StateManager,
        customers: ResourceStore[Customer],
        clock: Clock,
        interval_seconds: float,
    ) -> None:
        self._client = client
        self._store = store
        self._customers = customers
        self._clock = clock
        self._interval = interval_seconds
        self._written: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        """Report until cancelled; after an error, the next pass reports again."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.report()
            except WritesClosedError:
                return
            except (ApiError, StoreError, SharedFaultError) as error:
                logger.warning("statuses of customers were not written", error=str(error)[:300])
            except Exception as error:
                record(Boundary.STATUS, "statuses of customers", error)

    async def report(self) -> None:
        """Write the statuses that changed. An error is contained to its Customer; the pass ends, with the last error,
        after MAX_FAILURES in a row, because then the API server answers nobody."""
        depths = (await self._store.get_queue_depth()).customers
        customers = self._customers.items()
        self._written = {name: status for name, status in self._written.items() if name in customers}
        failures = 0
        for name, customer in customers.items():
            try:
                await self._report(customer, depths.get(name, Depth()))
                failures = 0
            except SharedFaultError:
                raise
            except Exception as error:
                record(Boundary.CUSTOMER, name, error)
                failures += isinstance(error, ApiError) and not 400 <= error.status < 500
                if failures >= MAX_FAILURES:
                    raise

    async def _report(self, customer: Customer, depth: Depth) -> None:
        name = customer.metadata.name
        before = self._written.get(name, customer.status or {})
        status = status_of(customer, depth, before, now_us=self._clock.now())
        if status != self._written.get(name) and await self._client.patch_customer_status(name, {"status": status}):
            self._written[name] = status


def status_of(customer: Customer, depth: Depth, before: Mapping[str, Any], *, now_us: int) -> dict[str, Any]:
    """The status of a Customer. `before` is its present one: a condition keeps its time until its status changes."""
    spec, running = customer.spec, depth.scheduled + depth.running
    reason, message = "BelowLimits", ""
    if spec.max_concurrent is not None and running >= spec.max_concurrent:
        reason, message = "AtMaxConcurrent", f"maxConcurrent {spec.max_concurrent} is reached; further workloads wait"
    elif spec.max_queue_depth is not None and depth.pending >= spec.max_queue_depth:
        reason, message = "AtMaxQueueDepth", f"maxQueueDepth {spec.max_queue_depth} is reached; further ones are held"
    holds = "True" if reason == "BelowLimits" else "False"
    known: Mapping[str, Any] = next((c for c in before.get("conditions") or () if c.get("type") == WITHIN_LIMITS), {})
    time = known.get("lastTransitionTime") if known.get("status") == holds else None
    return {
        "observedGeneration": customer.metadata.generation,
        "pending": depth.pending,
        "running": running,
        "conditions": [
            {
                "type": WITHIN_LIMITS,
                "status": holds,
                "reason": reason,
                "message": message,
                "lastTransitionTime": time or datetime.fromtimestamp(now_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ],
    }
