"""Batches of several groups: committed in order, repeated as a whole, and continued after a break."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest

from niyanta.server.dependencies import Dependencies
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import SubmissionOutcome, SubmissionRequest
from tests.server.make import manifest, ndjson
from tests.store.make import pending_rows

pytestmark = pytest.mark.store


async def test_a_batch_of_several_groups_keeps_its_order_and_is_repeated_as_a_whole(
    client: httpx.AsyncClient, store: RestStore
) -> None:
    lines, headers = ndjson(*(manifest(f"b-{n}") for n in range(600))), {"Idempotency-Key": "batch"}
    first = await client.post("/v1/workloads:batch", content=lines, headers=headers)
    assert (first.status_code, first.json()["accepted"]) == (202, 600)
    assert [item["line"] for item in first.json()["items"]] == list(range(600))
    rows = await pending_rows(store, 1000)
    assert [row.id for row in rows] == [item["workload"]["id"] for item in first.json()["items"]]
    again = await client.post("/v1/workloads:batch", content=lines, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await store.get_queue_depth()).total.pending == 600


@pytest.mark.parametrize("other", [500, 501, 509, 511])
async def test_a_batch_with_another_body_does_not_get_the_key(
    client: httpx.AsyncClient, store: RestStore, other: int
) -> None:
    headers = {"Idempotency-Key": "batch"}
    items = [manifest(f"b-{n}") for n in range(511)]
    assert (await client.post("/v1/workloads:batch", content=ndjson(*items[:510]), headers=headers)).status_code == 202
    answer = await client.post("/v1/workloads:batch", content=ndjson(*items[:other]), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:niyanta:problem:idempotency-key-reused")
    assert (await store.get_queue_depth()).total.pending == 510


async def test_a_batch_that_broke_off_goes_on_with_the_same_key(
    client: httpx.AsyncClient, store: RestStore, dependencies: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, calls = dependencies.batcher._store.submit, 0

    async def breaking(requests: Sequence[SubmissionRequest]) -> list[SubmissionOutcome]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailableError("away")
        return await submit(requests)

    monkeypatch.setattr(dependencies.batcher._store, "submit", breaking)
    lines, headers = ndjson(*(manifest(f"b-{n}") for n in range(600))), {"Idempotency-Key": "batch"}
    broken = await client.post("/v1/workloads:batch", content=lines, headers=headers)
    assert broken.status_code == 503
    assert "500 of the items before were accepted" in broken.json()["detail"]
    assert (await store.get_queue_depth()).total.pending == 500
    whole = await client.post("/v1/workloads:batch", content=lines, headers=headers)
    assert (whole.status_code, whole.json()["accepted"]) == (202, 600)
    assert (await store.get_queue_depth()).total.pending == 600


async def test_a_batch_holds_little_memory_at_a_time(
    client: httpx.AsyncClient, store: RestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from niyanta.server.limits import budgets

    most = 0
    seen = budgets.HELD_BYTES.set

    def watching(value: float) -> None:
        nonlocal most
        most = max(most, int(value))
        seen(value)

    monkeypatch.setattr(budgets.HELD_BYTES, "set", watching)
    filler = {"annotations": {"text": "x" * 30_000}}
    items = [manifest(f"b-{n}") for n in range(300)]
    for item in items:
        item["spec"]["template"]["metadata"] = filler
    lines = ndjson(*items)
    answer = await client.post("/v1/workloads:batch", content=lines)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 300)
    assert most < 3.5 * 1024 * 1024 < len(lines) / 2
