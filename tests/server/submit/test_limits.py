"""Limits of queues, rates and priorities: they hold exactly; refusals that end by themselves carry a Retry-After."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from niyanta.server.dependencies import Dependencies
from niyanta.server.problems import Problem
from niyanta.server.submit import backpressure
from niyanta.settings import Settings
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import CustomerRow
from tests.server.conftest import door
from tests.server.make import manifest, ndjson
from tests.store.make import intake, pending_rows

pytestmark = pytest.mark.store


async def _limit(store: RestStore, **limits: int) -> None:
    await store.upsert_customers([CustomerRow("acme", "Premium", limits, ("acme",))])


async def test_a_customer_over_its_own_limit_gets_429_with_retry_after(
    client: httpx.AsyncClient, store: RestStore
) -> None:
    await _limit(store, maxQueueDepth=2)
    await store.write_leader_stats(
        {"placed_per_minute": 100.0, "placed_per_minute_by_customer": {"acme": 4.0}}, epoch=None
    )
    answers = [await client.post("/v1/workloads", json=manifest()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    refused = answers[2]
    assert refused.json()["type"] == "urn:niyanta:problem:queue-full"
    assert "2 workloads waiting, its maxQueueDepth is 2" in refused.json()["detail"]
    assert refused.headers["Retry-After"] == "15", "one place at 4 placements a minute"
    assert refused.headers["RateLimit"] == '"queue";r=0;t=15'
    assert refused.headers["RateLimit-Policy"] == '"queue";q=2'
    assert (refused.headers["RateLimit-Limit"], refused.headers["RateLimit-Remaining"]) == ("2", "0")
    stats = (await client.get("/v1/customer/stats")).json()
    assert (stats["waiting"], stats["maxQueueDepth"], stats["placedPerMinute"]) == (2, 2, 4.0)


async def test_held_and_suspended_workloads_count_too(client: httpx.AsyncClient, store: RestStore) -> None:
    await store.take_in([intake()], epoch=None, queue_limits={"acme": 0})
    await _limit(store, maxQueueDepth=2)
    assert (await client.post("/v1/workloads", json=manifest(suspend=True))).status_code == 202
    assert (await client.post("/v1/workloads", json=manifest())).status_code == 429


async def test_a_batch_is_accepted_up_to_the_limit(client: httpx.AsyncClient, store: RestStore) -> None:
    await _limit(store, maxQueueDepth=3)
    assert (await client.post("/v1/workloads", json=manifest("taken"))).status_code == 202
    lines = ndjson(manifest("taken"), manifest("a"), manifest("b"), manifest("c"))
    answer = await client.post("/v1/workloads:batch", content=lines)
    assert [item["status"] for item in answer.json()["items"]] == [409, 202, 202, 429], (
        "a refusal does not count against the limit"
    )
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await client.post("/v1/workloads:batch", content=ndjson(manifest("c")))).json()["accepted"] == 0
    assert await store.wrong_counters() == []
    names = {row.name for row in await pending_rows(store, 10)}
    assert names == {"taken", "a", "b"}


async def test_names_refused_over_the_limit_stay_free(client: httpx.AsyncClient, store: RestStore) -> None:
    await _limit(store, maxQueueDepth=1)
    answer = await client.post("/v1/workloads:batch", content=ndjson(manifest("a"), manifest("b")))
    assert [item["status"] for item in answer.json()["items"]] == [202, 429]
    await client.post(f"/v1/workloads/{answer.json()['items'][0]['workload']['id']}/cancel")
    assert (await client.post("/v1/workloads", json=manifest("b"))).status_code == 202


async def test_the_limit_is_exact_for_sixteen_submitters_on_two_processes(
    settings: Settings, store: RestStore, key: str
) -> None:
    """Two applications, each with its own connection pool; `test_processes` uses real processes."""
    await _limit(store, maxQueueDepth=100)
    headers = {"Authorization": f"Bearer {key}"}
    statuses: list[int] = []

    async def submit(client: httpx.AsyncClient, number: int) -> None:
        for _ in range(10):
            if number % 4 == 0:
                lines = ndjson(*(manifest() for _ in range(5)))
                answer = await client.post("/v1/workloads:batch", content=lines, headers=headers)
                statuses.extend(item["status"] for item in answer.json()["items"])
            else:
                answer = await client.post("/v1/workloads", json=manifest(), headers=headers)
                statuses.append(answer.status_code)

    async with door(settings) as (_, one), door(settings) as (_, two):
        await asyncio.gather(*(submit((one, two)[number % 2], number) for number in range(16)))
    assert statuses.count(202) == 100
    assert set(statuses) == {202, 429}
    assert (await store.get_queue_depth("acme")).total.pending == 100
    assert await store.wrong_counters() == []


async def test_at_capacity_retry_after_comes_from_the_measured_placement_rate(
    settings: Settings, store: RestStore, key: str
) -> None:
    await store.take_in([intake(customer="other") for _ in range(5)], epoch=None)
    await store.write_leader_stats({"placed_per_minute": 10.0}, epoch=None)
    full = settings.model_copy(update={"max_queue_depth": 5})
    async with door(full) as (_, client):
        client.headers["Authorization"] = f"Bearer {key}"
        refused = await client.post("/v1/workloads", json=manifest())
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:niyanta:problem:at-capacity")
        assert refused.headers["Retry-After"] == "6"
        assert refused.json()["detail"] == (
            "the queue has no room for 1 more workloads of this customer, which has 0 waiting"
        )
        batch = await client.post("/v1/workloads:batch", content=ndjson(*(manifest() for _ in range(3))))
        assert (batch.status_code, batch.headers["Retry-After"]) == (503, "18")
    assert (await store.get_queue_depth("acme")).total.pending == 0


async def test_a_customer_without_a_limit_leaves_room_in_the_queue_to_others(
    settings: Settings, store: RestStore, key: str
) -> None:
    await store.upsert_customers([CustomerRow("acme", "Premium", {}, ("acme",))])
    await store.take_in([intake(customer="acme") for _ in range(50)], epoch=None)
    async with door(settings.model_copy(update={"max_queue_depth": 100})) as (app, client):
        client.headers["Authorization"] = f"Bearer {key}"
        assert (await client.post("/v1/workloads", json=manifest())).status_code == 503
        pressure = app.state.dependencies.pressure
        await pressure.require_capacity("other", 25)
        with pytest.raises(Problem, match="at-capacity"):
            await pressure.require_capacity("other", 26)


async def test_without_a_placement_rate_retry_after_has_a_default(
    client: httpx.AsyncClient, store: RestStore, dependencies: Dependencies
) -> None:
    rate = backpressure.ObservedPlacementRate.of({"placed_per_minute": 100.0}, age=3600.0)
    assert rate.seconds_for(1) == backpressure.UNKNOWN_WAIT_SECONDS
    rate = backpressure.ObservedPlacementRate.of(
        {"placed_per_minute": "many", "placed_per_minute_by_customer": [1]}, age=1.0
    )
    assert rate.seconds_for(1, "acme") == backpressure.UNKNOWN_WAIT_SECONDS
    rate = backpressure.ObservedPlacementRate.of({"placed_per_minute": 0.001}, age=1.0)
    assert rate.seconds_for(10_000) == backpressure.LONGEST_WAIT_SECONDS


async def test_submissions_per_second_are_limited_across_processes(
    settings: Settings, store: RestStore, key: str
) -> None:
    await _limit(store, submitRatePerSecond=10)
    headers = {"Authorization": f"Bearer {key}"}
    async with door(settings) as (_, one), door(settings) as (_, two):
        answers = await asyncio.gather(
            *((one, two)[n % 2].post("/v1/workloads", json=manifest(), headers=headers) for n in range(40))
        )
        taken = [answer for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(taken) + len(refused) == 40
        # A window of a second: 10, or up to 10 more for each second that the forty took.
        assert 10 <= len(taken) <= 30
        assert refused[0].json()["type"] == "urn:niyanta:problem:rate-limited"
        assert refused[0].headers["Retry-After"] == "1"
        assert refused[0].headers["RateLimit-Limit"] == "10"
        await asyncio.sleep(2.1)
        lines = ndjson(*(manifest() for _ in range(15)))
        batch = (await one.post("/v1/workloads:batch", content=lines, headers=headers)).json()
        assert (batch["accepted"], batch["items"][14]["status"]) == (10, 429), "the limit of one second"


async def test_a_rate_of_zero_accepts_nothing(client: httpx.AsyncClient, store: RestStore) -> None:
    await _limit(store, submitRatePerSecond=0)
    assert (await client.post("/v1/workloads", json=manifest())).status_code == 429


async def test_a_priority_above_the_customers_maximum_gets_422_alone_and_in_a_batch(
    client: httpx.AsyncClient, store: RestStore
) -> None:
    await _limit(store, maxPriority=40)
    refused = await client.post("/v1/workloads", json=manifest(priority=41))
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:niyanta:problem:customer-not-allowed")
    (error,) = refused.json()["errors"]
    assert error["field"] == "spec.priority"
    assert error["message"].startswith("41 is above maxPriority 40")
    lines = ndjson(manifest(priority=40), manifest(priority=41))
    batch = (await client.post("/v1/workloads:batch", content=lines)).json()
    assert [item["status"] for item in batch["items"]] == [202, 422]
    assert (await client.get("/v1/customer")).json()["limits"] == {"maxPriority": 40}


async def test_too_many_requests_in_flight_are_refused(settings: Settings, store: RestStore, key: str) -> None:
    async with door(settings.model_copy(update={"api_max_inflight": 4})) as (_, client):
        client.headers["Authorization"] = f"Bearer {key}"
        answers = await asyncio.gather(*(client.post("/v1/workloads", json=manifest()) for _ in range(10)))
        statuses = [answer.status_code for answer in answers]
        # A customer leaves as many places free as it takes.
        assert {status: statuses.count(status) for status in set(statuses)} == {202: 2, 429: 2, 503: 6}
        assert {answer.headers.get("Retry-After") for answer in answers} == {None, "1"}
