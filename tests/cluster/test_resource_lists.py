"""One Customer or pool that can't be read leaves the others alone."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from niyanta.cluster import resource_lists
from niyanta.cluster.api.client import ApiClient, Listed
from niyanta.cluster.api.kinds import CUSTOMERS, ResourceKind
from niyanta.cluster.resource_lists import ResourceLists
from niyanta.cluster.state.worker_info import PoolInfo
from niyanta.containment import CONTAINED_ERRORS, Boundary
from niyanta.resources.models.customer import Customer
from tests.fakes.scripted_api_server import until

pytestmark = pytest.mark.unit


def customer(name: str, **meta: Any) -> dict[str, Any]:
    spec = {"tier": "Standard", "namespaces": [name]}
    meta = {"name": name, "uid": name, "generation": 1} | meta
    return {"apiVersion": "niyanta.io/v1alpha1", "kind": "Customer", "metadata": meta, "spec": spec}


def pool(name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "system", "uid": name, "generation": 1}
    spec = {"nodeSelector": {"matchLabels": {"pool": name}}}
    return {"apiVersion": "niyanta.io/v1alpha1", "kind": "WorkerPool", "metadata": meta, "spec": spec}


class ListingClient:
    """Lists the same objects each time."""

    def __init__(self, customers: list[dict[str, Any]], pools: list[dict[str, Any]]) -> None:
        self.customers, self.pools = customers, pools
        self.error: Exception | None = None
        self.lists = 0

    async def list(self, kind: ResourceKind, **_: Any) -> Listed:
        self.lists += 1
        if self.error is not None:
            raise self.error
        return Listed(self.customers if kind is CUSTOMERS else self.pools, "1")


async def _no_pools(_: object) -> None:
    pass


def lists_of(client: ListingClient, **options: Any) -> ResourceLists:
    options = {"on_customers": lambda: None, "on_pools": lambda: None, "set_pools": _no_pools} | options
    return ResourceLists(cast(ApiClient, client), namespace="system", **options)


async def test_odd_customers_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Customer.model_validate

    def fails(found: dict[str, Any]) -> Customer:
        if found["metadata"]["name"] == "raises":
            raise RecursionError("a validator that fails")
        return real(found)

    monkeypatch.setattr(Customer, "model_validate", fails)
    counted = CONTAINED_ERRORS.labels(Boundary.CUSTOMER.value)
    before = counted._value.get()
    stub = customer("stub") | {"spec": {}, "niyantaViolation": "too deep"}
    odd = [customer("raises"), stub, customer("generation", generation="junk"), customer("junk") | {"spec": 7}]
    lists = lists_of(ListingClient([*odd, customer("good")], [pool("p")]))
    await lists.load()
    assert list(lists.customers.items()) == ["good"]
    assert list(lists.pools.items()) == ["p"]
    assert counted._value.get() == before + 2
    assert lists.customers.get("good") is not None
    assert lists.customers.get("stub") is None


async def test_errors_of_lists_and_listeners_end_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_lists, "LIST_INTERVAL_SECONDS", 0.001)
    applied: list[list[PoolInfo]] = []

    async def set_pools(pools: list[PoolInfo]) -> None:
        applied.append(pools)
        if len(applied) == 1:
            raise RuntimeError("a listener that fails")

    client = ListingClient([customer("good")], [pool("p")])
    client.error = RecursionError("a list too deep")
    lists = lists_of(client, set_pools=set_pools)
    tasks = [asyncio.create_task(lists.run()), asyncio.create_task(lists.follow_pools())]
    await until(lambda: client.lists > 2)
    client.error = None
    await until(lambda: len(applied) > 2 and lists.customers.items())
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
