"""WorkerPools over REST: list, statistics for autoscalers, scaling decisions."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from niyanta.store.leader.demand_stats import DemandStats, PoolStats
from niyanta.store.leader.scaling import ScalingDecision
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import PoolRow

pytestmark = pytest.mark.store

GPU = PoolStats(
    "gpu",
    workers=3,
    ready_workers=3,
    workers_in_use=2,
    running_workloads=9,
    running_slots=16,
    queued_workloads=4,
    queued_slots=5,
    oldest_age_seconds=7.5,
    workers_needed=4,
    utilization={"gpu": 0.67, "memory": None},
    utilization_percent_sum=200,
)
STATS = "/v1/pools/gpu/figures"
DECISIONS = "/v1/pools/gpu/decisions"


@pytest.fixture
async def epoch(pool: Pool) -> int:
    epoch = await Leadership(pool, "leader", 60.0).try_acquire()
    assert epoch is not None
    return epoch


@pytest.fixture
async def observer(app_client: tuple[FastAPI, httpx.AsyncClient], pool: Pool) -> httpx.AsyncClient:
    """A client with a key of role metrics."""
    _, token = await ApiKeys(pool).create("ops", Role.METRICS)
    app_client[1].headers["Authorization"] = f"Bearer {token}"
    return app_client[1]


async def test_a_metrics_key_reads_the_statistics_of_a_pool(
    observer: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    await store.write_figures(DemandStats(1, epoch, (GPU,)), epoch=epoch)
    answer = await observer.get(STATS)
    assert answer.status_code == 200
    found = answer.json()
    assert 0 <= found.pop("ageSeconds") < 5
    assert found == {
        "pool": "gpu",
        "demand": 21,
        "workersNeeded": 4,
        "utilizationPercentSum": 200,
        "queueDepth": 4,
        "queueOldestAgeSeconds": 7.5,
        "workers": 3,
        "readyWorkers": 3,
        "workersInUse": 2,
        "runningWorkloads": 9,
        "runningSlots": 16,
        "queuedSlots": 5,
        "utilization": {"gpu": 0.67, "memory": None},
    }
    assert (await observer.get("/v1/pools/none/figures")).status_code == 404


async def test_a_metrics_key_reads_nothing_else(observer: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/v1/workloads"),
        ("POST", "/v1/workloads"),
        ("GET", "/v1/customers"),
        ("GET", "/v1/workers"),
        ("GET", "/v1/pools"),
        ("POST", "/v1/workers/w/drain"),
        ("GET", "/v1/metrics/queue-depth"),
    ):
        answer = await observer.request(method, path)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:niyanta:problem:forbidden"), path


async def test_admins_read_the_statistics_of_a_pool_and_customers_do_not(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    await store.write_figures(DemandStats(1, epoch, (GPU,)), epoch=epoch)
    assert (await client.get(STATS)).status_code == 403
    assert (await admin.get(STATS)).json()["workersNeeded"] == 4


async def test_old_statistics_are_not_returned(
    observer: httpx.AsyncClient, store: RestStore, pool: Pool, epoch: int
) -> None:
    never = await observer.get(STATS)
    assert (never.status_code, never.headers["Retry-After"]) == (503, "2")
    await store.write_figures(DemandStats(1, epoch, (GPU,)), epoch=epoch)
    async with pool.connection() as connection:
        await connection.execute("UPDATE leader_figures SET updated_at = clock_timestamp() - interval '6 seconds'")
    answer = await observer.get(STATS)
    assert answer.status_code == 503
    assert "6 s old" in answer.json()["detail"]


async def test_only_admins_see_the_usage_of_pools(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore
) -> None:
    await store.upsert_pools([PoolRow("a", {"region": "x", "provider": {"s": 1}}, {"replicas": 1, "queueDepth": 7})])
    (pool,) = (await client.get("/v1/pools")).json()["items"]
    assert (pool["spec"], pool["status"]) == ({"region": "x"}, {"replicas": 1})
    (pool,) = (await admin.get("/v1/pools")).json()["items"]
    assert pool["status"]["queueDepth"] == 7


async def test_admins_read_decisions_page_by_page(
    app_client: tuple[FastAPI, httpx.AsyncClient], pool: Pool, store: RestStore
) -> None:
    epoch = await Leadership(pool, "leader", 60.0).try_acquire()
    await store.record_scaling([ScalingDecision("gpu", "ScaleUp", wanted=n) for n in range(5)], epoch=epoch)
    client = app_client[1]
    for role, status in ((Role.CUSTOMER, 403), (Role.ADMIN, 200)):
        _, token = await ApiKeys(pool).create("ops", role)
        client.headers["Authorization"] = f"Bearer {token}"
        answer = await client.get(DECISIONS, params={"limit": 3})
        assert answer.status_code == status
    page = answer.json()
    rest = (await client.get(DECISIONS, params={"limit": 3, "cursor": page["next"]})).json()
    assert [item["wanted"] for item in (*page["items"], *rest["items"])] == [4, 3, 2, 1, 0]
    assert rest["next"] is None
    assert (await client.get("/v1/pools/none/decisions")).json() == {"items": [], "next": None}


@pytest.mark.parametrize("cursor", ["x1", "1\n", "\U00083d56\u00cc3", "٣", "-1", "9" * 19])
async def test_a_cursor_that_is_no_number_is_refused(admin: httpx.AsyncClient, cursor: str) -> None:
    assert (await admin.get("/v1/pools/gpu/decisions", params={"cursor": cursor})).status_code == 422


@pytest.mark.parametrize("name", ["a%00b", "%ED%A0%80", "x" * 300])
async def test_a_name_that_no_pool_can_have_is_answered_below_500(admin: httpx.AsyncClient, name: str) -> None:
    assert (await admin.get(f"/v1/pools/{name}/decisions")).status_code < 500
