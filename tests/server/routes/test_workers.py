"""Workers over REST: list and drain, with admin and customer keys."""

from __future__ import annotations

import httpx
import pytest

from niyanta.store.rest.record import RestStore
from niyanta.store.rows import WorkerRow

pytestmark = pytest.mark.store


async def test_only_admins_see_the_usage_of_workers(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore
) -> None:
    worker = WorkerRow("w1", "a", allocatable={"cpu": 1000}, used={"cpu": 400}, slots=4, slots_used=1)
    await store.upsert_workers([worker])
    (seen,) = (await client.get("/v1/workers")).json()["items"]
    assert (seen["name"], seen["allocatable"], seen["used"], seen["slotsUsed"]) == ("w1", {"cpu": 1000}, None, None)
    (seen,) = (await admin.get("/v1/workers", params={"pool": "a"})).json()["items"]
    assert (seen["used"], seen["free"], seen["slotsUsed"]) == ({"cpu": 400}, {"cpu": 600}, 1)


async def test_only_admins_drain_a_worker_and_a_repeat_returns_the_open_request(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore
) -> None:
    await store.upsert_workers([WorkerRow("w1", "a")])
    assert (await client.post("/v1/workers/w1/drain")).status_code == 403
    drained = await admin.post("/v1/workers/w1/drain")
    assert (drained.status_code, drained.json()["action"]) == (202, "drain")
    assert (await admin.post("/v1/workers/w1/drain")).json()["id"] == drained.json()["id"]
    assert (await admin.post("/v1/workers/zzz/drain")).status_code == 404
    (request,) = await store.get_worker_requests()
    assert request.worker == "w1"
