"""Submissions: accepted ones are rows, refused ones have a reason, and repeats change nothing."""

from __future__ import annotations

import asyncio
import uuid

import httpx
import pytest

from niyanta.lifecycle import Door, Event, Phase
from niyanta.store.rest.record import RestStore
from tests.server.make import manifest, ndjson
from tests.store.make import change, intake, pending_rows

pytestmark = pytest.mark.store


async def test_an_accepted_submission_is_a_row(client: httpx.AsyncClient, store: RestStore) -> None:
    body = manifest("job", priority=30, type="render")
    answer = await client.post("/v1/workloads", json=body)
    assert answer.status_code == 202, answer.text
    found = answer.json()
    assert answer.headers["Location"] == f"/v1/workloads/{found['id']}" == found["href"]
    row = await store.get_workload(found["id"])
    assert row is not None
    assert (row.door, row.namespace, row.name, row.customer) == (Door.REST, "acme", "job", "acme")
    assert row.phase is Phase.PENDING
    assert (row.priority, row.tier_weight, row.type, row.generation) == (30, 50, "render", 1)
    assert row.spec == {**body["spec"], "customer": "acme"}, "the Workload object made from it must name its customer"
    assert len(row.class_id) == 32
    assert await store.wrong_counters() == []


async def test_a_suspended_submission_waits_outside_the_queue(client: httpx.AsyncClient, store: RestStore) -> None:
    found = (await client.post("/v1/workloads", json=manifest(suspend=True))).json()
    assert found["phase"] == "Suspended"
    assert (await store.get_queue_depth("acme")).total.suspended == 1


async def test_the_only_namespace_of_a_customer_is_the_default(admin: httpx.AsyncClient, store: RestStore) -> None:
    body = manifest(customer="other")
    del body["metadata"]["namespace"]
    answer = await admin.post("/v1/workloads", json=body)
    assert (answer.status_code, answer.json()["namespace"]) == (202, "other")


async def test_a_repeat_with_the_same_key_gives_the_first_answer(client: httpx.AsyncClient, store: RestStore) -> None:
    body, headers = manifest(), {"Idempotency-Key": "once"}
    first = await client.post("/v1/workloads", json=body, headers=headers)
    again = await client.post("/v1/workloads", json=body, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    other = await client.post("/v1/workloads", json=manifest(), headers=headers)
    assert (other.status_code, other.json()["type"]) == (409, "urn:niyanta:problem:idempotency-key-reused")
    assert (await store.get_queue_depth()).total.pending == 1


async def test_repeats_at_the_same_moment_make_one_row(client: httpx.AsyncClient, store: RestStore) -> None:
    body, headers = manifest(), {"Idempotency-Key": str(uuid.uuid4())}
    answers = await asyncio.gather(*(client.post("/v1/workloads", json=body, headers=headers) for _ in range(8)))
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (await store.get_queue_depth()).total.pending == 1


async def test_a_key_whose_request_was_refused_may_be_used_again(client: httpx.AsyncClient, store: RestStore) -> None:
    headers = {"Idempotency-Key": "k"}
    assert (await client.post("/v1/workloads", json=manifest("same"))).status_code == 202
    taken = await client.post("/v1/workloads", json=manifest("same"), headers=headers)
    assert (taken.status_code, taken.json()["type"]) == (409, "urn:niyanta:problem:name-taken")
    assert (await client.post("/v1/workloads", json=manifest("free"), headers=headers)).status_code == 202


async def test_an_idempotency_key_lasts_a_day(client: httpx.AsyncClient, store: RestStore) -> None:
    headers = {"Idempotency-Key": "k"}
    assert (await client.post("/v1/workloads", json=manifest(), headers=headers)).status_code == 202
    async with store._pool.connection() as connection:
        await connection.execute("UPDATE idempotency SET created_at = now() - interval '24 hours 1 second'")
    assert (await client.post("/v1/workloads", json=manifest(), headers=headers)).status_code == 202
    assert (await store.get_queue_depth()).total.pending == 2


@pytest.mark.parametrize("bad", ["", " ", "two words", "x" * 256])
async def test_an_invalid_idempotency_key_is_refused(client: httpx.AsyncClient, bad: str) -> None:
    answer = await client.post("/v1/workloads", json=manifest(), headers={"Idempotency-Key": bad})
    assert answer.status_code == 400


async def test_a_name_is_free_again_when_its_workload_has_finished(client: httpx.AsyncClient, store: RestStore) -> None:
    first = (await client.post("/v1/workloads", json=manifest("same"))).json()
    assert (await client.post("/v1/workloads", json=manifest("same"))).status_code == 409
    assert (await client.post(f"/v1/workloads/{first['id']}/cancel")).status_code == 200
    second = (await client.post("/v1/workloads", json=manifest("same"))).json()
    row = await store.get_workload(second["id"])
    assert row is not None
    await store.update_workload_status_batch([change(row, Event.FAIL)], epoch=None)
    assert (await client.post("/v1/workloads", json=manifest("same"))).status_code == 202


async def test_names_are_unique_per_customer_and_door(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore
) -> None:
    await store.take_in([intake(name="same", namespace="acme")], epoch=None)
    assert (await client.post("/v1/workloads", json=manifest("same"))).status_code == 202
    body = manifest("same", customer="other")
    body["metadata"]["namespace"] = "other"
    assert (await admin.post("/v1/workloads", json=body)).status_code == 202


async def test_each_item_of_a_batch_has_its_own_result(client: httpx.AsyncClient, store: RestStore) -> None:
    wrong = manifest("wrong", replicas=0)
    lines = ndjson(manifest("a"), wrong) + b"\n" + b"no json\n" + ndjson(manifest("a"), manifest("b"))
    answer = await client.post("/v1/workloads:batch", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 207, answer.text
    found = answer.json()
    assert (found["accepted"], found["refused"]) == (2, 3)
    results = [(item["line"], item["status"]) for item in found["items"]]
    assert results == [(0, 202), (1, 422), (3, 400), (4, 409), (5, 202)]
    assert found["items"][1]["problem"]["errors"][0]["field"] == "spec.replicas"
    assert found["items"][4]["workload"]["name"] == "b"
    assert (await store.get_queue_depth()).total.pending == 2


async def test_a_batch_is_repeated_as_a_whole(client: httpx.AsyncClient, store: RestStore) -> None:
    lines, headers = ndjson(*(manifest() for _ in range(20))), {"Idempotency-Key": "batch"}
    first = await client.post("/v1/workloads:batch", content=lines, headers=headers)
    again = await client.post("/v1/workloads:batch", content=lines, headers=headers)
    assert (first.status_code, again.json()) == (202, first.json())
    assert [item["workload"]["phase"] for item in again.json()["items"]] == ["Pending"] * 20
    assert (await store.get_queue_depth()).total.pending == 20
    rows = await pending_rows(store, 100)
    assert [row.id for row in rows] == [item["workload"]["id"] for item in first.json()["items"]], "in their order"


async def test_a_batch_has_limits(client: httpx.AsyncClient) -> None:
    many = await client.post("/v1/workloads:batch", content=b"{}\n" * 1001)
    assert (many.status_code, many.json()["type"]) == (413, "urn:niyanta:problem:too-large")
    assert (await client.post("/v1/workloads:batch", content=b"\n \n")).status_code == 400
    assert (await client.post("/v1/workloads:batch", content=b"{}\n" * 1000)).status_code == 207
    big = b'{"a": "' + b"x" * 300_000 + b'"}\n'
    items = (await client.post("/v1/workloads:batch", content=big)).json()["items"]
    assert [item["status"] for item in items] == [413]


async def test_bodies_are_limited_before_parsing(client: httpx.AsyncClient) -> None:
    async def status(body: bytes, **headers: str) -> int:
        return (await client.post("/v1/workloads", content=body, headers=headers)).status_code

    assert await status(b" " * 300_000) == 413
    assert await status(b"[" * 100_000) == 400
    assert await status(b'{"a":' * 40 + b"1" + b"}" * 40) == 400
    assert await status(b'{"a": "' + b"[{" * 1000 + b'"}') == 422, "brackets in strings don't count as depth"
    assert await status(b"{", **{"Content-Type": "application/yaml"}) == 415
    assert await status(b"\xff\xfe") == 400
    assert await status(b"null") == 400


async def test_a_submission_notifies_listeners(client: httpx.AsyncClient, store: RestStore) -> None:
    async with store._pool.connection() as connection:
        await connection.execute("LISTEN niyanta_changes")
        await client.post("/v1/workloads", json=manifest())
        async for note in connection.notifies(timeout=3, stop_after=1):
            assert note.channel == "niyanta_changes"
            break
        else:
            pytest.fail("no notification arrived")
        await connection.execute("UNLISTEN *")
