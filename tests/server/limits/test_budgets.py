"""Budgets of requests in flight and of their memory: one customer's share leaves room for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from niyanta.server.limits import budgets as budgets_module
from niyanta.server.limits.budgets import InflightBudgets, RequestBudget
from niyanta.server.problems import Problem
from niyanta.settings import Settings
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from tests.server.conftest import door
from tests.server.make import manifest

MIB = 1024 * 1024


def budgets(**values: int) -> InflightBudgets:
    return InflightBudgets(Settings().model_copy(update=values))


@pytest.mark.unit
def test_a_customer_has_at_most_its_limit_of_requests() -> None:
    found = budgets(api_max_inflight=100, api_max_inflight_per_customer=3)
    for _ in range(3):
        found.enter("acme")
    with pytest.raises(Problem, match="too-many-requests") as refused:
        found.enter("acme")
    assert refused.value.detail == (
        "the customer has 3 requests in flight in this process, and may have at most 3 while there is room"
    )
    found.enter("other")
    found.leave("acme")
    found.enter("acme")


@pytest.mark.unit
def test_customers_at_their_limits_leave_room_for_one_more() -> None:
    found = budgets(api_max_inflight=64, api_max_inflight_per_customer=64)
    for name in ("a", "b", "c"):
        with suppress(Problem):
            for _ in range(64):
                found.enter(name)
    found.enter("d")
    with pytest.raises(Problem) as refused:
        found.enter("a")
    assert "at most 64 " in str(refused.value.detail), "the limit as configured, whatever others hold"


@pytest.mark.unit
async def test_memory_is_waited_for_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets_module, "BYTES_PATIENCE_SECONDS", 0.05)
    shared = budgets(api_max_inflight_bytes=64 * MIB, api_max_inflight_bytes_per_customer=32 * MIB)
    one, two, three = (RequestBudget(shared) for _ in range(3))
    one.charge("acme")
    two.charge("acme")
    three.charge("other")
    await one.hold(20 * MIB)
    with pytest.raises(Problem, match="too-many-requests"):
        await two.hold(20 * MIB)
    await three.hold(20 * MIB)
    monkeypatch.setattr(budgets_module, "BYTES_PATIENCE_SECONDS", 30.0)
    waiting = asyncio.create_task(two.hold(20 * MIB))
    await asyncio.sleep(0)
    assert not waiting.done()
    one.release()
    await waiting
    two.release()
    three.release()
    assert shared.fits("acme", 32 * MIB)


@pytest.mark.store
async def test_slow_bodies_of_one_customer_leave_the_door_open_to_others(
    settings: Settings, store: RestStore, pool: Pool, key: str
) -> None:
    _, other = await ApiKeys(pool).create("other", Role.CUSTOMER)
    limited = settings.model_copy(update={"api_max_inflight": 8, "api_max_inflight_per_customer": 3})
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await gate.wait()

    async with door(limited) as (_, client):
        mine = {"Authorization": f"Bearer {key}"}
        held = [
            asyncio.create_task(client.post("/v1/workloads", content=slow(), headers=mine, timeout=60))
            for _ in range(3)
        ]
        async with asyncio.timeout(30):
            while True:
                refused = await client.get("/v1/workloads", headers=mine)
                if refused.status_code == 429:
                    break
        assert refused.json()["type"] == "urn:niyanta:problem:too-many-requests"
        assert "at most 3 " in refused.json()["detail"]
        assert refused.headers["Retry-After"] == "1"
        body = manifest()
        body["metadata"]["namespace"] = "other"
        accepted = await client.post("/v1/workloads", json=body, headers={"Authorization": f"Bearer {other}"})
        assert accepted.status_code == 202, accepted.text
        gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*held)] == [400] * 3
