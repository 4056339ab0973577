"""The depth of the queue over REST."""

from __future__ import annotations

import httpx
import pytest

from niyanta.lifecycle import Phase
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import PoolRow
from tests.server.make import manifest, ndjson
from tests.store.make import arrive

pytestmark = pytest.mark.store


@pytest.fixture
async def epoch(pool: Pool) -> int:
    epoch = await Leadership(pool, "leader", 60.0).try_acquire()
    assert epoch is not None
    return epoch


async def test_queue_depth_by_customer_tier_and_pool(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    await client.post("/v1/workloads:batch", content=ndjson(*(manifest() for _ in range(3))))
    await arrive(store, epoch=epoch, customer="other")
    await arrive(store, epoch=epoch, customer="other", phase=Phase.HELD)
    await store.upsert_pools([PoolRow("gpu", {}, {"queueDepth": 4})])
    found = (await admin.get("/v1/metrics/queue-depth")).json()
    assert (found["total"], found["held"], found["byCustomer"]) == (4, 1, {"acme": 3, "other": 1})
    assert (found["byTier"], found["byPool"]) == ({"Premium": 3, "Free": 1}, {"gpu": 4})
    assert 0 <= found["oldestAgeSeconds"] < 60
    own = (await client.get("/v1/metrics/queue-depth")).json()
    assert (own["total"], own["held"], own["byCustomer"], own["byPool"]) == (3, 0, {"acme": 3}, {})
    assert 0 <= own["oldestAgeSeconds"] < 60
