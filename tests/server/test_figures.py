"""What autoscalers read: the figures of a pool, with a key that is good for nothing else."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from niyanta.store.leader.demand_stats import DemandStats, PoolStats
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore

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
PATH = "/v1/pools/gpu/figures"


@pytest.fixture
async def epoch(pool: Pool) -> int:
    epoch = await Leadership(pool, "leader", 60.0).try_acquire()
    assert epoch is not None
    return epoch


@pytest.fixture
async def observer(app_client: tuple[FastAPI, httpx.AsyncClient], pool: Pool) -> httpx.AsyncClient:
    """Asks as an autoscaler."""
    _, token = await ApiKeys(pool).create("ops", Role.METRICS)
    app_client[1].headers["Authorization"] = f"Bearer {token}"
    return app_client[1]


async def test_an_autoscalers_key_reads_the_figures_of_a_pool(
    observer: httpx.AsyncClient, record: RestStore, epoch: int
) -> None:
    await record.write_figures(DemandStats(1, epoch, (GPU,)), epoch=epoch)
    answer = await observer.get(PATH)
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


async def test_it_reads_nothing_else(observer: httpx.AsyncClient) -> None:
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


async def test_figures_are_not_for_customers_and_for_admins_they_are(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, record: RestStore, epoch: int
) -> None:
    await record.write_figures(DemandStats(1, epoch, (GPU,)), epoch=epoch)
    assert (await client.get(PATH)).status_code == 403
    assert (await admin.get(PATH)).json()["workersNeeded"] == 4


async def test_old_figures_are_not_answered(
    observer: httpx.AsyncClient, record: RestStore, pool: Pool, epoch: int
) -> None:
    never = await observer.get(PATH)
    assert (never.status_code, never.headers["Retry-After"]) == (503, "2")
    await record.write_figures(DemandStats(1, epoch, (GPU,)), epoch=epoch)
    async with pool.connection() as connection:
        await connection.execute("UPDATE leader_figures SET updated_at = clock_timestamp() - interval '6 seconds'")
    answer = await observer.get(PATH)
    assert answer.status_code == 503
    assert "6 s ago" in answer.json()["detail"]
