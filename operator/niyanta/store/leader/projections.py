"""Rows through which leader and API processes communicate: workers, pools, customers, statistics, worker requests.

The leader alone writes the projections of Kubernetes objects; `StateManager` inherits these methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from niyanta.settings import Settings
from niyanta.store.leader.demand_stats import DemandStats, from_record, to_record
from niyanta.store.leadership import begin
from niyanta.store.postgres.pool import Pool, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.reads.reads import Reads
from niyanta.store.row_mapping import checked_id, customer_row, dumps, worker_request, worker_row
from niyanta.store.rows import CustomerRow, PoolRow, RequestOutcome, WorkerAction, WorkerRequest, WorkerRow

FOLD_AT_ONCE = 10_000
"""Most deltas of the queue's counts that are folded in one transaction."""


class Projections(Reads):
    """Rows that are not about workloads."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        super().__init__(pool)
        self._pool = pool
        self._settings = settings

    # --- Workers -----------------------------------------------------------------------------------------------------

    async def get_available_workers(
        self, *, pool: str | None = None, region: str | None = None, gpu_model: str | None = None
    ) -> list[WorkerRow]:
        """Ready, uncordoned workers with a free slot, by name; `free` and `free_slots` are their free capacity."""
        params = {"pool": pool, "region": region, "gpu_model": gpu_model}
        return [worker_row(row) for row in await self._pool.fetch("workers_available", params)]

    async def upsert_workers(self, workers: Iterable[WorkerRow]) -> None:
        """Write the leader's view of workers; `updated_at` is set by the database."""
        records = {worker.name: asdict(replace(worker, updated_at=None)) for worker in workers}
        if records:
            await self._pool.execute("upsert_workers", {"records": dumps(list(records.values()))})

    async def delete_workers(self, names: Iterable[str]) -> None:
        """Delete workers; unknown names are ignored."""
        await self._pool.execute("delete_workers", {"names": list(names)})

    # --- Customers ---------------------------------------------------------------------------------------------------

    async def get_customer(self, name: str) -> CustomerRow | None:
        """One customer, even a deleted one; None for an unknown name."""
        rows = await self._pool.fetch("customers", {"name": name})
        return customer_row(rows[0]) if rows else None

    async def upsert_customers(self, customers: Iterable[CustomerRow]) -> None:
        """Insert or replace customers, with the settings by which the database orders their submissions."""
        records = {
            customer.name: asdict(customer) | {"tier_weight": self._settings.tier_weight(customer.tier)}
            for customer in customers
        }
        if records:
            settings = self._settings
            rules = {"priority": settings.enable_priority, "aging": settings.enable_aging}
            await self._pool.execute("write_queue_rules", rules | {"boost": settings.aging_boost_per_minute})
            await self._pool.execute("upsert_customers", {"records": dumps(list(records.values()))})

    async def delete_customer(self, name: str) -> None:
        """Mark a customer deleted; unknown names are ignored."""
        await self._pool.execute("delete_customer", {"name": name})

    # --- Pools -------------------------------------------------------------------------------------------------------

    async def upsert_pools(self, pools: Iterable[PoolRow]) -> None:
        """Write the leader's view of WorkerPools; `updated_at` is set by the database."""
        records = {pool.name: asdict(replace(pool, updated_at=None)) for pool in pools}
        if records:
            await self._pool.execute("upsert_pools", {"records": dumps(list(records.values()))})

    async def delete_pools(self, names: Iterable[str]) -> None:
        """Delete pools; unknown names are ignored."""
        await self._pool.execute("delete_pools", {"names": list(names)})

    # --- Requests for workers ----------------------------------------------------------------------------------------

    async def add_worker_request(
        self, worker: str, *, action: WorkerAction, by: str, evict_after: int | None = None
    ) -> WorkerRequest | None:
        """Add a request for the leader, or ask the open request of the same kind anew. None for an unknown worker.
        `evict_after`: seconds after which a drain evicts; None: never."""
        params = {"worker": worker, "action": action.value, "by": by, "evict_after": evict_after}
        rows = await self._pool.fetch("add_worker_request", params)
        return worker_request(rows[0]) if rows else None

    async def get_worker_request(self, worker: str, id_: str) -> WorkerRequest | None:
        """A request about that worker, open or done; None if there is none with this UUID."""
        rows = await self._pool.fetch("worker_request", {"id": checked_id(id_), "worker": worker})
        return worker_request(rows[0]) if rows else None

    async def get_worker_requests(self) -> list[WorkerRequest]:
        """Open requests, oldest first."""
        return [worker_request(row) for row in await self._pool.fetch("worker_requests")]

    async def report_worker_requests(self, messages: Mapping[WorkerRequest, str], *, epoch: int | None) -> None:
        """Record that the workers of these drains are cordoned, and how far each has come. Raises StaleEpochError."""
        records = [
            {"id": request.id, "requested_at": request.requested_at, "message": message}
            for request, message in messages.items()
        ]
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("report_worker_requests"), {"records": dumps(records)})

    async def complete_worker_request(
        self, request: WorkerRequest, *, outcome: RequestOutcome, message: str, epoch: int | None
    ) -> None:
        """End a request, unless it was asked anew meanwhile, and delete those that ended 30 days ago. Raises
        StaleEpochError."""
        params = {"id": request.id, "requested_at": request.requested_at}
        params |= {"outcome": outcome.value, "message": message}
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("complete_worker_request"), params)
            await connection.execute(sql("prune_worker_requests"))

    # --- The leader's statistics -------------------------------------------------------------------------------------

    async def write_leader_stats(self, stats: Mapping[str, Any], *, epoch: int | None) -> None:
        """Replace the row of statistics. Raises StaleEpochError."""
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("write_leader_stats"), {"stats": dumps(dict(stats))})

    async def get_leader_stats(self) -> tuple[dict[str, Any], float | None]:
        """The statistics and their age in seconds (None: never written)."""
        ((stats, age),) = await self._pool.fetch("leader_stats")
        return stats, age

    # --- Demand statistics -------------------------------------------------------------------------------------------

    async def write_figures(self, figures: DemandStats, *, epoch: int | None) -> None:
        """Replace the row of statistics, and fold deltas of the queue's counts: the leader calls this once a second.

        Raises StaleEpochError.
        """
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("write_figures"), {"figures": dumps(to_record(figures))})
            await connection.execute(sql("fold_counts"), {"limit": FOLD_AT_ONCE})

    async def get_figures(self) -> tuple[DemandStats, float] | None:
        """The last statistics and their age in seconds by the database's clock; None: never written."""
        rows = await self._pool.fetch("figures")
        return (from_record(rows[0][0]), rows[0][1]) if rows else None

    async def write_shapes(self, shapes: Mapping[str, Mapping[str, Any]], *, epoch: int | None) -> set[str]:
        """Store the shape of an empty worker of each pool. Returns the pools that have a row; others are not stored.

        Raises StaleEpochError.
        """
        records = [{"name": name, "shape": shape} for name, shape in sorted(shapes.items())]
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            return {name for (name,) in await fetch(connection, "write_shapes", {"records": dumps(records)})}

    async def get_shapes(self) -> dict[str, dict[str, Any]]:
        """Pool -> stored shape of its empty worker."""
        return dict(await self._pool.fetch("shapes"))
