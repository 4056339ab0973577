"""Workers over REST: list, cordon, uncordon and drain, with admin and customer keys."""

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


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "drain"])
async def test_only_admins_ask_for_a_worker_and_a_repeat_returns_the_open_request(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore, verb: str
) -> None:
    await store.upsert_workers([WorkerRow("w1", "a")])
    assert (await client.post(f"/v1/workers/w1/{verb}")).status_code == 403
    asked = await admin.post(f"/v1/workers/w1/{verb}")
    assert (asked.status_code, asked.json()["action"]) == (202, verb)
    id_ = asked.json()["id"]
    assert (await admin.post(f"/v1/workers/w1/{verb}")).json()["id"] == id_
    read = await admin.get(f"/v1/workers/w1/requests/{id_}")
    assert (read.status_code, read.json()["outcome"], read.json()["doneAt"]) == (200, None, None)
    assert (await client.get(f"/v1/workers/w1/requests/{id_}")).status_code == 403
    assert (await admin.get(f"/v1/workers/w2/requests/{id_}")).status_code == 404
    assert (await admin.get("/v1/workers/w1/requests/5")).status_code == 422
    (request,) = await store.get_worker_requests()
    assert request.worker == "w1"


@pytest.mark.parametrize("cursor", ["A", "a/b", "a\n"])
async def test_a_cursor_that_is_no_name_is_refused(admin: httpx.AsyncClient, cursor: str) -> None:
    assert (await admin.get("/v1/workers", params={"cursor": cursor})).status_code == 422


@pytest.mark.parametrize("name", ["zzz", "Not_A_Node"])
async def test_an_unknown_worker_is_named(admin: httpx.AsyncClient, name: str) -> None:
    refused = await admin.post(f"/v1/workers/{name}/cordon")
    assert (refused.status_code, refused.json()["detail"]) == (404, f"there is no worker {name}")


async def test_a_drain_evicts_only_if_asked_to(admin: httpx.AsyncClient, store: RestStore) -> None:
    await store.upsert_workers([WorkerRow("w1", "a")])
    assert (await admin.post("/v1/workers/w1/drain")).json()["evictAt"] is None
    assert (await admin.post("/v1/workers/w1/drain?evictAfterSeconds=60")).json()["evictAt"] is not None
    assert (await admin.post("/v1/workers/w1/drain")).json()["evictAt"] is None, "the last request decides"
    for wrong in ("-1", "604801", "soon"):
        assert (await admin.post(f"/v1/workers/w1/drain?evictAfterSeconds={wrong}")).status_code == 422


async def test_workers_show_their_drain_and_admins_see_who_asked(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore
) -> None:
    await store.upsert_workers([WorkerRow("w1", "a"), WorkerRow("w2", "a")])
    asked = (await admin.post("/v1/workers/w1/drain")).json()
    first, second = (await admin.get("/v1/workers")).json()["items"]
    assert (first["draining"], first["request"]) == (True, asked)
    assert (second["draining"], second["request"]) == (False, None)
    (seen, _) = (await client.get("/v1/workers")).json()["items"]
    assert (seen["draining"], seen["request"]) == (True, None)
