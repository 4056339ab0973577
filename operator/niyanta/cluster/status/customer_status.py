"""Writes the statuses of Customers while this process leads: counts of workloads, resources in use, and conditions.

The counts come from the counters in Postgres, so they include the backlog that isn't in memory. A status is applied at
most once per interval and Customer, and only if it changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, WritesClosedError
from niyanta.cluster.api.kinds import CUSTOMERS
from niyanta.cluster.api.status_apply import filled
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.status.conditions import stamped
from niyanta.cluster.status.customer_usage import as_quantities, usage_by_customer
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.observability import log
from niyanta.resources.models.customer import Customer
from niyanta.store.errors import StoreError
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import Depth
from niyanta.store.state import StateManager

logger = log.get(__name__)

READY = "Ready"
"""Type of a condition: workloads may belong to the Customer."""

WITHIN_LIMITS = "WithinLimits"
"""Type of a condition: no limit of the Customer is reached."""

FIRST_REPORT_SECONDS = 2.0
"""Longest time until the first report of a leader."""

MAX_FAILURES = 5
"""Failures of the API server itself (no answer, or a 5xx) in a row that end a pass."""


class CustomerStatusWriter:
    """Writes Customer statuses under one leadership."""

    def __init__(
        self,
        *,
        client: ApiClient,
        store: StateManager,
        cache: ClusterCache,
        customers: ResourceStore[Customer],
        clock: Clock,
        interval_seconds: float,
    ) -> None:
        self._client = client
        self._store = store
        self._cache = cache
        self._customers = customers
        self._clock = clock
        self._interval = interval_seconds
        self._written: dict[tuple[str, str], dict[str, Any]] = {}
        """Name and UID of a Customer -> its status as last written."""

    async def run(self) -> None:
        """Report until cancelled; after an error, the next pass reports again."""
        pause = min(FIRST_REPORT_SECONDS, self._interval)
        while True:
            await asyncio.sleep(pause)
            pause = self._interval
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
        usage = await usage_by_customer(self._cache.usage.charges(), self._cache.workers)
        customers = self._customers.items()
        present = {(name, customer.metadata.uid) for name, customer in customers.items()}
        self._written = {key: status for key, status in self._written.items() if key in present}
        failures = 0
        for name, customer in customers.items():
            try:
                await self._report(customer, depths.get(name, Depth()), usage.get(name, {}))
                failures = 0
            except SharedFaultError:
                raise
            except Exception as error:
                record(Boundary.CUSTOMER, name, error)
                failures += isinstance(error, ApiError) and not 400 <= error.status < 500
                if failures >= MAX_FAILURES:
                    raise

    async def _report(self, customer: Customer, depth: Depth, usage: Mapping[str, int]) -> None:
        name, uid = customer.metadata.name, customer.metadata.uid
        written = self._written.get((name, uid))
        before = customer.status or {} if written is None else written
        status = status_of(customer, depth, before, usage=usage, now_us=self._clock.now())
        if status == written:
            return
        if await self._client.apply_status(CUSTOMERS, name, uid, status) is not None:
            self._written[name, uid] = status


def status_of(
    customer: Customer, depth: Depth, before: Mapping[str, Any], *, usage: Mapping[str, int], now_us: int
) -> dict[str, Any]:
    """The status of a Customer. `before` is its present one: a condition keeps its time until its status changes.
    `usage`: resource -> base units that its placed pods request."""
    conditions = [
        {
            "type": kind,
            "status": "True" if holds else "False",
            "observedGeneration": customer.metadata.generation,
            "reason": reason,
            "message": message,
        }
        for kind, holds, reason, message in (_ready(customer), _within_limits(customer, depth))
    ]
    fields = {
        "observedGeneration": customer.metadata.generation,
        "pending": depth.pending,
        "running": depth.scheduled + depth.running,
        "usage": as_quantities(usage),
        "conditions": stamped(conditions, before.get("conditions") or (), now_us),
    }
    return filled(fields)


def _ready(customer: Customer) -> tuple[str, bool, str, str]:
    if customer.spec.namespaces:
        return READY, True, "NamespacesListed", ""
    return READY, False, "NoNamespaces", "namespaces: it lists none, so that no workload can belong to it"


def _within_limits(customer: Customer, depth: Depth) -> tuple[str, bool, str, str]:
    spec, running = customer.spec, depth.scheduled + depth.running
    if spec.max_concurrent is not None and running >= spec.max_concurrent:
        message = f"maxConcurrent {spec.max_concurrent} is reached; further workloads wait"
        return WITHIN_LIMITS, False, "AtMaxConcurrent", message
    if spec.max_queue_depth is not None and depth.pending >= spec.max_queue_depth:
        message = f"maxQueueDepth {spec.max_queue_depth} is reached; further ones are held"
        return WITHIN_LIMITS, False, "AtMaxQueueDepth", message
    return WITHIN_LIMITS, True, "BelowLimits", ""
