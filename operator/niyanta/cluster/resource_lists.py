"""Customers and WorkerPools: kept up to date by kopf's events, and corrected by a list every 30 s.

The list is needed because kopf doesn't report deletions that its watch missed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.cluster.api.kinds import CUSTOMERS, WORKER_POOLS
from niyanta.cluster.state.pool_info import pool_infos
from niyanta.cluster.state.worker_info import PoolInfo
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.containment import Boundary, contained
from niyanta.observability import log
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool

logger = log.get(__name__)

LIST_INTERVAL_SECONDS = 30.0
"""Time between two lists."""

DEFAULT_CUSTOMER = {
    "apiVersion": "niyanta.io/v1alpha1",
    "kind": "Customer",
    "metadata": {"name": "default"},
    "spec": {"tier": "Standard", "namespaces": ["*"]},
}


class ResourceLists:
    """The stores of Customers and WorkerPools; `run` and `follow_pools` are tasks of every replica."""

    def __init__(
        self,
        client: ApiClient,
        *,
        namespace: str,
        on_customers: Callable[[], None],
        on_pools: Callable[[], None],
        set_pools: Callable[[Iterable[PoolInfo]], Awaitable[None]],
    ) -> None:
        """Needs a running event loop.

        `namespace`: the operator's own; WorkerPools in other namespaces are ignored. `on_customers` is called in any
        thread after a Customer changed, `on_pools` in the event loop after `set_pools` has applied changed pools.
        """
        self._client = client
        self._namespace = namespace
        self._on_pools = on_pools
        self._set_pools = set_pools
        self._loop = asyncio.get_running_loop()
        self._pools_event = asyncio.Event()
        self.customers = ResourceStore(Customer, on_customers, boundary=Boundary.CUSTOMER)
        self.pools = ResourceStore(WorkerPool, self._pools_changed, boundary=Boundary.POOL, namespace=namespace)

    async def run(self) -> None:
        """List every 30 s until cancelled; errors are logged."""
        while True:
            await asyncio.sleep(LIST_INTERVAL_SECONDS)
            with contained(Boundary.LISTENER, "lists of customers and pools"):
                try:
                    await self.load()
                except ApiError as error:
                    logger.warning("customers and pools were not listed", error=str(error))

    async def follow_pools(self) -> None:
        """Pass changed pools to `set_pools` until cancelled."""
        while True:
            await self._pools_event.wait()
            self._pools_event.clear()
            with contained(Boundary.LISTENER, "pools"):
                await self._apply_pools()
                self._on_pools()

    async def load(self) -> None:
        """List both kinds. Raises ApiError."""
        asked_at = time.monotonic()
        customers = await self._client.list(CUSTOMERS)
        self.customers.replace(customers.items, asked_at=asked_at)
        asked_at = time.monotonic()
        pools = await self._client.list(WORKER_POOLS, namespace=self._namespace)
        self.pools.replace(pools.items, asked_at=asked_at)
        await self._apply_pools()

    async def ensure_default_customer(self) -> None:
        """Create the Customer `default`, which owns every namespace, unless it exists; errors are logged."""
        if "default" in self.customers.items():
            return
        try:
            created = await self._client.create_customer(DEFAULT_CUSTOMER)
        except ApiError as error:
            if error_kind(error) is not ErrorKind.ALREADY_EXISTS:
                logger.warning("the default Customer was not created", error=str(error))
            return
        self.customers.on_event("ADDED", created.obj)
        logger.info("created the default Customer")

    async def _apply_pools(self) -> None:
        await self._set_pools(pool_infos(self.pools.items().values()))

    def _pools_changed(self) -> None:
        self._loop.call_soon_threadsafe(self._pools_event.set)
