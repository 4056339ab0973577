"""Writes the statuses of WorkerPools while this process leads, at most once per interval and pool.

The same pass writes workers, pools and customers to Postgres, from which the REST door answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from niyanta.aio import in_slices
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, WritesClosedError
from niyanta.cluster.api.kinds import WORKER_POOLS
from niyanta.cluster.api.status_apply import filled
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.status.conditions import stamped
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.containment import Boundary, SharedFaultError, contained, describe, record
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import CPU, MEMORY, WorkerInfo
from niyanta.observability import log
from niyanta.pools.reasons import ConditionReason, ConditionType
from niyanta.resources import template_lists
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.ownership import pod_selector
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.errors import StoreError
from niyanta.store.rows import CustomerRow, PoolRow, WorkerRow
from niyanta.store.state import StateManager

logger = log.get(__name__)

Named = TypeVar("Named", WorkerRow, CustomerRow)

SLICE_WORKERS = 200
"""Workers read before other tasks of the event loop run."""

FIRST_REPORT_SECONDS = 1.0
"""Longest time until the first report of a leader."""


@dataclass(frozen=True, slots=True)
class PoolCondition:
    """A condition of a WorkerPool. Its message must be stable, because each change is a write."""

    type: str
    holds: bool
    reason: str
    message: str = ""


class PoolStatusWriter:
    """Writes pool statuses and worker rows while this process leads."""

    def __init__(
        self,
        *,
        cache: ClusterCache,
        client: ApiClient,
        state: SchedulerState,
        store: StateManager,
        pools: ResourceStore[WorkerPool],
        customers: ResourceStore[Customer],
        settings: Settings,
        conditions: Callable[[WorkerPool], Iterable[PoolCondition]],
    ) -> None:
        """`conditions`: pool -> further conditions (those of scaling)."""
        self._cache = cache
        self._client = client
        self._state = state
        self._store = store
        self._pools = pools
        self._customers = customers
        self._conditions = conditions
        self._interval = settings.pool_status_interval
        self._written: dict[str, tuple[str, dict[str, Any]]] = {}
        """Name of a pool -> its UID and its status as last written."""
        self._stamped: dict[str, Sequence[Mapping[str, Any]]] = {}
        """UID of a pool -> its conditions as last written, whose times stay."""
        self._rows: dict[str, WorkerRow] = {}
        self._customer_rows: dict[str, CustomerRow] = {}

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
                logger.warning("pools were not reported", error=describe(error))
            except Exception as error:
                record(Boundary.POOL, "statuses of pools", error)

    async def report(self) -> None:
        """Write changed workers, Customers and pools to Postgres, and the statuses of pools to their objects.
        Unexpected errors are contained to the object that caused them."""
        await self._report_workers()
        await self._report_customers()
        await self._report_pools()

    async def _report_workers(self) -> None:
        rows: dict[str, WorkerRow] = {}
        async for part in in_slices(list(self._cache.workers.items()), SLICE_WORKERS):
            for name, info in part:
                with contained(Boundary.WORKER, name):
                    rows[name] = worker_row(info, self._state.snapshot)
        changed = [row for name, row in rows.items() if self._rows.get(name) != row]
        failed = await self._write(changed, self._store.upsert_workers, Boundary.WORKER)
        gone = [name for name in self._rows if name not in self._cache.workers]
        if gone:
            await self._store.delete_workers(gone)
        self._rows = {name: row for name, row in rows.items() if name not in failed}

    async def _report_customers(self) -> None:
        """Write changed Customers to Postgres, because the REST door doesn't read the API server."""
        customers = self._customers.items()
        rows: dict[str, CustomerRow] = {}
        for name, customer in customers.items():
            with contained(Boundary.CUSTOMER, name):
                rows[name] = customer_row(customer)
        changed = [row for name, row in rows.items() if self._customer_rows.get(name) != row]
        failed = await self._write(changed, self._store.upsert_customers, Boundary.CUSTOMER)
        for name in [name for name in self._customer_rows if name not in customers]:
            await self._store.delete_customer(name)
        self._customer_rows = {name: row for name, row in rows.items() if name not in failed}

    async def _report_pools(self) -> None:
        overlaps = self._cache.overlaps()
        by_pool: dict[str, list[WorkerRow]] = {}
        for row in self._rows.values():
            by_pool.setdefault(row.pool, []).append(row)
        for name, pool in self._pools.items().items():
            try:
                await self._report_pool(pool, by_pool.get(name, []), overlaps.get(name, []))
            except (WritesClosedError, SharedFaultError):
                raise
            except ApiError as error:
                logger.warning("the status of a pool was not written", pool=name, error=describe(error))
            except Exception as error:
                record(Boundary.POOL, name, error)
        if gone := [name for name in self._written if name not in self._pools.items()]:
            await self._store.delete_pools(gone)
            for name in gone:
                del self._written[name]
        uids = {pool.metadata.uid for pool in self._pools.items().values()}
        self._stamped = {uid: conditions for uid, conditions in self._stamped.items() if uid in uids}

    async def _report_pool(self, pool: WorkerPool, workers: list[WorkerRow], overlap: list[str]) -> None:
        name, uid = pool.metadata.name, pool.metadata.uid
        status = self._status(pool, workers, overlap)
        if self._written.get(name) == (uid, status):
            return
        before = self._stamped.get(uid) or (pool.status or {}).get("conditions") or []
        conditions = stamped(status["conditions"], before, self._state.clock.now())
        body = {**status, "conditions": conditions}
        await self._client.apply_status(WORKER_POOLS, name, uid, body, namespace=pool.metadata.namespace)
        await self._store.upsert_pools([PoolRow(name, pool.spec.manifest(), status)])
        self._written[name] = uid, status
        self._stamped[uid] = conditions

    @staticmethod
    async def _write(
        rows: Sequence[Named], write: Callable[[Sequence[Named]], Awaitable[None]], boundary: Boundary
    ) -> set[str]:
        """Write rows in one transaction, but those that raise an unexpected error; returns their names."""
        if not rows:
            return set()
        batch = await in_isolation(rows, write, group=lambda row: row.name)
        for row, error in batch.culprits:
            record(boundary, row.name, error)
        return {row.name for row, _ in batch.culprits}

    def _status(self, pool: WorkerPool, rows: list[WorkerRow], overlap: list[str]) -> dict[str, Any]:
        ready = sum(row.ready and not row.cordoned for row in rows)
        stats = self._state.demand_stats
        counted = stats.pool(pool.metadata.name) if stats is not None else None
        conditions = [
            _condition(
                pool,
                ConditionType.READY,
                holds=ready > 0 or wants_none(pool),
                reason=_ready_reason(pool, ready, rows, overlap),
            ),
            _condition(
                pool,
                ConditionType.OVERLAPPING,
                holds=bool(overlap),
                reason=ConditionReason.NODES_OF_OLDER_POOL if overlap else ConditionReason.NO_OVERLAP,
                message=f"{len(overlap)} nodes belong to an older pool: {', '.join(overlap[:5])}" if overlap else "",
            ),
            *(
                _condition(pool, found.type, holds=found.holds, reason=found.reason, message=found.message)
                for found in self._conditions(pool)
            ),
        ]
        fields = {
            "observedGeneration": pool.metadata.generation,
            "replicas": len(rows),
            "readyReplicas": ready,
            "selector": pod_selector([pool.metadata.name]),
            "queueDepth": counted.queued_workloads if counted is not None else 0,
            "runningWorkloads": counted.running_workloads if counted is not None else 0,
            "utilization": utilization(rows),
            "conditions": conditions,
        }
        return filled(fields)


def customer_row(customer: Customer) -> CustomerRow:
    """A Customer as the REST door needs it."""
    spec = customer.spec
    limits = {
        "maxQueueDepth": spec.max_queue_depth,
        "maxConcurrent": spec.max_concurrent,
        "submitRatePerSecond": spec.submit_rate_per_second,
        "maxPriority": spec.max_priority,
    }
    return CustomerRow(
        name=customer.metadata.name,
        tier=spec.tier.value,
        limits={name: value for name, value in limits.items() if value is not None},
        namespaces=tuple(spec.namespaces),
        generation=customer.metadata.generation,
        service_accounts=tuple(spec.service_accounts),
        secrets=tuple(spec.secrets),
        allow_cluster_scope=spec.allow_cluster_scope,
        template_lists=template_lists.to_record(customer),
    )


def worker_row(info: WorkerInfo, snapshot: Snapshot) -> WorkerRow:
    """A worker with its taken capacity in the engine's snapshot."""
    try:
        usage = snapshot.worker_usage(info.name)
    except KeyError:  # the snapshot doesn't contain the worker yet
        usage = None
    return WorkerRow(
        name=info.name,
        pool=info.pool,
        region=info.region,
        zone=info.zone,
        gpu_model=info.gpu.model if info.gpu else "",
        allocatable=dict(info.allocatable),
        used=dict(usage.used) if usage is not None else {},
        slots=info.slots,
        slots_used=usage.slots_used if usage is not None else 0,
        ready=info.ready,
        cordoned=info.cordoned,
    )


def utilization(rows: Iterable[WorkerRow]) -> dict[str, int]:
    """Percentage in use of cpu, memory, gpu and slots over these workers, without those that they don't offer."""
    total: dict[str, int] = {}
    taken: dict[str, int] = {}
    for row in rows:
        amounts: Mapping[str, int] = row.allocatable
        for name in amounts:
            kind = name if name in (CPU, MEMORY) else "gpu" if name.endswith("/gpu") else ""
            if kind:
                total[kind] = total.get(kind, 0) + amounts[name]
                taken[kind] = taken.get(kind, 0) + row.used.get(name, 0)
        if row.slots is not None:
            total["slots"] = total.get("slots", 0) + row.slots
            taken["slots"] = taken.get("slots", 0) + row.slots_used
    return {
        kind: round(100 * taken[kind] / total[kind]) for kind in ("cpu", "memory", "gpu", "slots") if total.get(kind)
    }


def wants_none(pool: WorkerPool) -> bool:
    """True if the pool is meant to have no workers."""
    spec = pool.spec
    if spec.max_replicas == 0:
        return True
    return spec.replicas == 0 and spec.min_replicas == 0


def _ready_reason(pool: WorkerPool, ready: int, rows: list[WorkerRow], overlap: list[str]) -> ConditionReason:
    if ready:
        return ConditionReason.WORKERS_READY
    if wants_none(pool):
        return ConditionReason.NO_WORKERS_WANTED
    if rows:
        return ConditionReason.NO_WORKER_READY
    return ConditionReason.ALL_NODES_OF_OLDER_POOLS if overlap else ConditionReason.NO_NODE_SELECTED


def _condition(pool: WorkerPool, kind: str, *, holds: bool, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "observedGeneration": pool.metadata.generation,
        "reason": reason,
        "message": message,
    }
