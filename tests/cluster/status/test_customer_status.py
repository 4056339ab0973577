"""Statuses of Customers: counts, the limit that is reached, and a write only for a change."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import CUSTOMERS, ResourceKind
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.state.usage import UsageIndex
from niyanta.cluster.status.customer_status import MAX_FAILURES, CustomerStatusWriter, status_of
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.resources.models.base import parse
from niyanta.resources.models.customer import Customer, CustomerStatus
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import Depth, QueueDepth
from niyanta.store.state import StateManager
from tests.fakes.objects import customer

pytestmark = pytest.mark.unit


class Counters:
    """The store's counters."""

    def __init__(self, **depths: Depth) -> None:
        self.depths = depths

    async def get_queue_depth(self) -> QueueDepth:
        return QueueDepth(Depth(), dict(self.depths))


class StatusApi:
    """An API server that keeps the patches of statuses, and refuses those of `broken`."""

    def __init__(self) -> None:
        self.patches: list[tuple[str, Mapping[str, Any]]] = []
        self.requests = 0

    async def apply_status(self, kind: ResourceKind, name: str, uid: str, status: Mapping[str, Any]) -> str:
        assert kind is CUSTOMERS
        self.requests += 1
        if name == "broken":
            raise KeyError(name)
        if name.startswith("unanswered"):
            raise ApiError(500, "", "a webhook failed")
        self.patches.append((name, status))
        return "7"


class Items:
    """Customers by name."""

    def __init__(self, *customers: Customer) -> None:
        self.customers = {found.metadata.name: found for found in customers}

    def items(self) -> dict[str, Customer]:
        return dict(self.customers)


class Noon:
    """A clock that stands still."""

    def now(self) -> int:
        return 43_200_000_000


def writer(api: StatusApi, counters: Counters, *customers: Customer) -> CustomerStatusWriter:
    return CustomerStatusWriter(
        client=cast(ApiClient, api),
        cache=cast(ClusterCache, SimpleNamespace(usage=UsageIndex(lambda *_: None), workers={})),
        store=cast(StateManager, counters),
        customers=cast(ResourceStore[Customer], Items(*customers)),
        clock=cast(Clock, Noon()),
        interval_seconds=1.0,
    )


async def test_a_status_has_counts_and_is_written_once_for_each_change() -> None:
    api, counters = StatusApi(), Counters(acme=Depth(pending=3, scheduled=1, running=2))
    reports = writer(api, counters, customer("acme", "team"), customer("idle", "rest"))
    await reports.report()
    await reports.report()
    assert [(name, status["pending"], status["running"]) for name, status in api.patches] == [
        ("acme", 3, 3),
        ("idle", 0, 0),
    ]
    counters.depths["acme"] = Depth(running=3)
    await reports.report()
    assert api.patches[-1][1]["pending"] == 0
    assert len(api.patches) == 3


async def test_an_error_at_one_customer_stops_no_other() -> None:
    api = StatusApi()
    await writer(api, Counters(), customer("broken", "a"), customer("fine", "b")).report()
    assert [name for name, _ in api.patches] == ["fine"]


@pytest.mark.parametrize(
    ("limits", "depth", "reason"),
    [
        ({}, Depth(pending=10**6), "BelowLimits"),
        ({"maxConcurrent": 2}, Depth(scheduled=1, running=1), "AtMaxConcurrent"),
        ({"maxQueueDepth": 2}, Depth(pending=2), "AtMaxQueueDepth"),
        ({"maxQueueDepth": 2, "maxConcurrent": 3}, Depth(pending=1, running=2), "BelowLimits"),
    ],
)
def test_the_condition_names_the_limit_that_is_reached(limits: dict[str, int], depth: Depth, reason: str) -> None:
    ready, condition = status_of(customer("acme", "team", **limits), depth, {}, usage={}, now_us=0)["conditions"]
    assert (ready["type"], ready["status"]) == ("Ready", "True")
    assert (condition["reason"], condition["status"]) == (reason, "True" if reason == "BelowLimits" else "False")


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    acme = customer("acme", "team", maxConcurrent=1)
    first = status_of(acme, Depth(), {}, usage={}, now_us=0)
    later = status_of(acme, Depth(pending=1), first, usage={"cpu": 1500}, now_us=5_000_000)
    assert later["conditions"] == first["conditions"]
    assert later["usage"] == {"cpu": "1500m"}
    full = status_of(acme, Depth(running=1), later, usage={}, now_us=9_000_000)
    assert "usage" not in full  # an empty object would be refused
    assert [c["lastTransitionTime"] for c in full["conditions"]] == ["1970-01-01T00:00:00Z", "1970-01-01T00:00:09Z"]


def test_a_customer_without_namespaces_is_not_ready() -> None:
    ready = status_of(customer("acme"), Depth(), {}, usage={}, now_us=0)["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "NoNamespaces")


def test_a_status_has_the_form_of_the_resource() -> None:
    found = status_of(customer("acme", "team"), Depth(), {}, usage={"memory": 2**31, "pods": 3}, now_us=0)
    assert parse(CustomerStatus, found).usage == {"memory": "2Gi", "pods": "3"}


async def test_a_remade_customer_gets_a_status_again() -> None:
    api, items = StatusApi(), Items(customer("acme", "team"))
    reports = writer(api, Counters())
    reports._customers = cast(ResourceStore[Customer], items)
    await reports.report()
    remade = customer("acme", "team")
    items.customers["acme"] = remade.model_copy(
        update={"metadata": remade.metadata.model_copy(update={"uid": "another"})}
    )
    await reports.report()
    assert len(api.patches) == 2


async def test_a_failing_write_of_one_customer_leaves_the_others_their_statuses() -> None:
    api, counters = StatusApi(), Counters()
    reports = writer(api, counters, customer("unanswered", "first"), customer("acme", "team"))
    await reports.report()
    await reports.report()
    assert [name for name, _ in api.patches] == ["acme"]


async def test_a_pass_ends_while_the_api_server_answers_nobody() -> None:
    api, counters = StatusApi(), Counters()
    customers = [customer(f"unanswered-{number}", f"team-{number}") for number in range(MAX_FAILURES + 3)]
    with pytest.raises(ApiError):
        await writer(api, counters, *customers).report()
    assert api.requests == MAX_FAILURES
