"""Workloads over REST: lists, explanations, events, cancel, suspend and resume."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from niyanta.lifecycle import Event, Phase
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import ClassState, PendingNote
from tests.server.make import manifest, ndjson
from tests.store.make import arrive, change, move

pytestmark = pytest.mark.store


@pytest.fixture
async def epoch(pool: Pool) -> int:
    epoch = await Leadership(pool, "leader", 60.0).try_acquire()
    assert epoch is not None
    return epoch


async def _all(client: httpx.AsyncClient, **params: Any) -> AsyncIterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        answer = await client.get("/v1/workloads", params={**params, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        for item in page["items"]:
            yield item
        cursor = page["next"]
        if cursor is None:
            return


async def _names(client: httpx.AsyncClient, **params: Any) -> list[str]:
    return [item["name"] async for item in _all(client, **params)]


async def test_pages_with_large_specs_end_early(client: httpx.AsyncClient, store: RestStore) -> None:
    items = [manifest(f"n{number}") for number in range(70)]
    for item in items:
        item["spec"]["template"]["metadata"] = {"annotations": {"text": "x" * 50_000}}
    assert (await client.post("/v1/workloads:batch", content=ndjson(*items))).status_code == 202
    page = (await client.get("/v1/workloads", params={"limit": 500, "withSpec": True})).json()
    assert 40 <= len(page["items"]) <= 60
    assert page["items"][0]["spec"]["template"]["metadata"]["annotations"]["text"] == "x" * 50_000
    whole = [f"n{number}" for number in reversed(range(70))]
    assert await _names(client, limit=500, withSpec=True) == whole
    plain = (await client.get("/v1/workloads", params={"limit": 500})).json()
    assert [item["name"] for item in plain["items"]] == whole
    assert plain["items"][0]["spec"] is None


async def test_lists_are_complete_and_newest_first(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    items = [manifest(f"n{number}", type="a" if number % 3 else "b") for number in range(25)]
    await client.post("/v1/workloads:batch", content=ndjson(*items))
    await arrive(store, epoch=epoch, name="by-kubectl", phase=Phase.RUNNING, type="a")
    await arrive(store, epoch=epoch, name="theirs", customer="other", type="a")
    own = ["by-kubectl", *(f"n{number}" for number in reversed(range(25)))]
    for limit in (1, 7, 26, 500):
        assert await _names(client, limit=limit) == own
    assert await _names(admin, limit=10) == ["theirs", *own]
    assert await _names(client, limit=4, type="b") == [f"n{n}" for n in reversed(range(0, 25, 3))]
    assert await _names(client, limit=4, status="Running") == ["by-kubectl"]
    assert await _names(client, limit=4, status=["Running", "Pending"]) == own
    assert await _names(admin, limit=4, status="Pending", customer="other") == ["theirs"]
    assert await _names(admin, limit=4, status="Pending") == ["theirs", *own[1:]]
    assert await _names(client, status="Failed") == []


async def test_lists_are_bounded_by_creation(client: httpx.AsyncClient, store: RestStore) -> None:
    await client.post("/v1/workloads:batch", content=ndjson(*(manifest(f"n{n}") for n in range(5))))
    items = [item async for item in _all(client)]
    middle = items[2]["createdAt"]
    assert await _names(client, createdAfter=middle) == ["n4", "n3", "n2"]
    assert await _names(client, createdBefore=middle) == ["n1", "n0"]
    assert await _names(client, createdAfter=middle, createdBefore=middle) == []
    for extreme in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2000-01-01", "1e20"):
        assert (await client.get("/v1/workloads", params={"createdAfter": extreme})).status_code in (200, 422)


async def test_a_name_finds_workloads_by_their_name_and_by_that_of_their_object(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    async def ids(who: httpx.AsyncClient, **params: Any) -> list[str]:
        return [item["id"] async for item in _all(who, **params)]

    for number in range(30):
        await client.post("/v1/workloads", json=manifest(f"noise-{number}"))
    first = (await client.post("/v1/workloads", json=manifest("nightly"))).json()
    await client.post(f"{first['href']}/cancel")
    second = (await client.post("/v1/workloads", json=manifest("nightly", type="render"))).json()
    by_kubectl = await arrive(store, epoch=epoch, name="nightly", type="x")
    theirs = await arrive(store, epoch=epoch, name="nightly", customer="other", type="x")
    object_name = f"nightly-{second['id'][:8]}"
    await store.set_object(second["id"], uid="3fa85f64-5717-4562-b3fc-2c963f66afa6", name=object_name, epoch=epoch)

    own = [by_kubectl.id, second["id"], first["id"]]
    for limit in (1, 2, 500):
        assert await ids(client, name="nightly", limit=limit) == own
    assert await ids(admin, name="nightly") == [theirs.id, *own]
    assert await ids(admin, name="nightly", customer="other") == [theirs.id]
    assert await ids(client, name="nightly", status="Cancelled") == [first["id"]]
    assert await ids(client, name="nightly", type="render") == [second["id"]]
    assert await ids(client, name=object_name) == [second["id"]]
    assert await ids(client, name=f"nightly-{first['id'][:8]}") == [], "it never became an object"
    assert await ids(client, name="night") == []
    assert (await client.get("/v1/workloads", params={"name": "a b"})).status_code == 422


@pytest.mark.parametrize("cursor", ["x", "!!", "W10", "WzEsMl0", "WyJhIiwiYiJd", "W251bGwsbnVsbF0", "WzFlOTksICJ4Il0"])
async def test_an_invalid_cursor_is_refused(client: httpx.AsyncClient, cursor: str) -> None:
    assert (await client.get("/v1/workloads", params={"cursor": cursor})).status_code == 400


async def test_pages_of_a_rare_type_may_be_short_but_are_complete(
    client: httpx.AsyncClient, store: RestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("niyanta.store.reads.reads.SCAN_ROWS", 4)
    items = [manifest(f"n{number}", type="rare" if number in (0, 9) else "usual") for number in range(12)]
    await client.post("/v1/workloads:batch", content=ndjson(*items))
    assert await _names(client, type="rare", limit=3) == ["n9", "n0"]


@pytest.mark.parametrize("more", [{}, {"status": "Pending"}, {"withSpec": True}])
async def test_a_list_of_one_namespace_is_complete(
    client: httpx.AsyncClient,
    store: RestStore,
    epoch: int,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
) -> None:
    monkeypatch.setattr("niyanta.store.reads.reads.SCAN_ROWS", 4)
    for number in range(9):
        await arrive(store, epoch=epoch, name=f"n{number}", namespace="far" if number in (0, 8) else "acme")
    assert await _names(client, namespace="far", limit=1, **more) == ["n8", "n0"]
    assert await _names(client, namespace="none", **more) == []


async def test_one_workload_is_read_with_its_spec(client: httpx.AsyncClient) -> None:
    made = (await client.post("/v1/workloads", json=manifest("one", priority=40))).json()
    found = (await client.get(f"/v1/workloads/{made['id']}")).json()
    assert (found["name"], found["phase"], found["door"], found["objectName"]) == ("one", "Pending", "rest", None)
    assert found["spec"]["priority"] == 40
    assert found["effectivePriority"] == 40 * 50
    assert (await client.get("/v1/workloads")).json()["items"][0]["spec"] is None
    assert (await client.get("/v1/workloads", params={"withSpec": True})).json()["items"][0]["spec"]["priority"] == 40
    for missing in ("x", "%00", "00000000-0000-0000-0000-000000000000"):
        assert (await client.get(f"/v1/workloads/{missing}")).status_code == 404


async def test_explain_without_a_leader_says_so(client: httpx.AsyncClient) -> None:
    lines = ndjson(*(manifest(f"n{n}", priority=90) for n in range(4)), manifest("last", priority=1))
    items = (await client.post("/v1/workloads:batch", content=lines)).json()["items"]
    id_ = items[4]["workload"]["id"]
    found = (await client.get(f"/v1/workloads/{id_}/explain")).json()
    assert found["position"] == {"ahead": 4, "exact": True}
    assert (found["estimatedStart"]["at"], found["estimatedStart"]["basis"]) == (
        None,
        "no leader has reported its placement rate yet",
    )


async def test_an_estimate_comes_from_the_measured_placement_rate(
    client: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    await store.write_leader_stats({"placed_per_minute": 10.0}, epoch=epoch)
    lines = ndjson(*(manifest(priority=90) for _ in range(4)), manifest("last", priority=1))
    id_ = (await client.post("/v1/workloads:batch", content=lines)).json()["items"][4]["workload"]["id"]
    (row,) = await store.get_workloads([id_])
    reasons = [["GpuModelMismatch", "A100", 310], ["RegionMismatch", "", 120], {"nearestMiss": {"worker": "w7"}}]
    reasons += [{"fitsPool": {"pool": "gpu-a100", "atMaximum": 4}}]
    await store.note_pending([PendingNote(id_, row.version, "NoWorkerFits", "0/430 workers", reasons)], epoch=epoch)
    found = (await client.get(f"/v1/workloads/{id_}/explain")).json()
    assert found["reasons"] == [
        {"reason": "GpuModelMismatch", "detail": "A100", "count": 310},
        {"reason": "RegionMismatch", "detail": "", "count": 120},
    ]
    assert found["nearestMiss"] == {"worker": "w7"}
    assert found["fitsPool"] == {"pool": "gpu-a100", "atMaximum": 4}
    assert found["closestPool"] is None
    estimate = found["estimatedStart"]
    assert estimate["seconds"] == 30.0
    assert "4 ahead" in estimate["basis"]
    assert "10 placements per minute" in estimate["basis"]
    assert "NoWorkerFits" in estimate["basis"]
    at = datetime.fromisoformat(estimate["at"])
    assert abs(at - datetime.now(UTC) - timedelta(seconds=30)) < timedelta(seconds=10)
    assert found["priorityFormula"] == "priority 1 x tier weight 50 + 5 per minute waited"


async def test_no_start_is_estimated_where_only_a_changed_worker_helps(
    client: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    await store.write_leader_stats({"placed_per_minute": 10.0}, epoch=epoch)
    created = (await client.post("/v1/workloads:batch", content=ndjson(manifest()))).json()["items"]
    id_ = created[0]["workload"]["id"]

    async def estimate(*reasons: Any) -> Any:
        (row,) = await store.get_workloads([id_])
        text = f"0/3 workers, {len(reasons)} reasons {row.version}"
        note = PendingNote(id_, row.version, "Unschedulable", text, list(reasons))
        await store.note_pending([note], epoch=epoch)
        return (await client.get(f"/v1/workloads/{id_}/explain")).json()["estimatedStart"]

    lasting = [["GpuModelMismatch", "A100", 2], ["Cordoned", "", 1]]
    found = await estimate(*lasting)
    assert (found["at"], found["seconds"]) == (None, None)
    assert found["basis"].startswith("not before a worker changes or a worker that fits is added")
    assert found["basis"].endswith("(GpuModelMismatch (A100), Cordoned)")
    assert (await estimate(*lasting, ["InsufficientResource", "cpu", 1]))["seconds"] is not None
    assert (await estimate(*lasting, {"fitsPool": {"pool": "a", "atMaximum": None}}))["seconds"] is not None
    full = await estimate(*lasting, {"fitsPool": {"pool": "a", "atMaximum": 1}})
    assert full["seconds"] is None
    assert full["basis"].endswith("; pool a could add one, but is at its maximum of 1 worker")


async def test_the_needed_change_is_named_where_workers_are_too_small(
    client: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    await store.write_leader_stats({"placed_per_minute": 10.0}, epoch=epoch)
    id_ = (await client.post("/v1/workloads", json=manifest())).json()["id"]
    small, needs = ["WorkerTooSmall", "cpu", 3], {"needs": ["in region eu-west", "with at least 64 cpu"]}
    closest = {"closestPool": {"pool": "a", "failed": ["WorkerTooSmall (cpu)"]}}

    async def estimate(*reasons: Any) -> Any:
        (row,) = await store.get_workloads([id_])
        note = PendingNote(id_, row.version, "Unschedulable", str(reasons), list(reasons))
        await store.note_pending([note], epoch=epoch)
        return (await client.get(f"/v1/workloads/{id_}/explain")).json()["estimatedStart"]

    found = await estimate(small, needs, closest)
    assert (found["at"], found["seconds"]) == (None, None)
    text = "not before a worker is added or changed: it needs one in region eu-west, with at least 64 cpu"
    assert found["basis"] == f"{text}; no pool is known to add such a worker"
    assert (await estimate(small, needs))["basis"] == text, "pools aren't known yet"
    assert (await estimate())["basis"] == "not before a worker is added: there are no workers"
    assert (await estimate(small, ["InsufficientResource", "cpu", 1]))["seconds"] is not None
    others = {"needs": ["with 4 cpu beside the pods that are not Niyanta's"]}
    assert (await estimate(["InsufficientResource", "cpu", 1], others, closest))["seconds"] is None
    assert (await estimate(small, needs, {"fitsPool": {"pool": "a", "atMaximum": None}}))["seconds"] is not None


async def test_a_workload_without_reasons_shows_those_of_its_class(
    client: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    await store.write_leader_stats({"placed_per_minute": 10.0}, epoch=epoch)
    mine = {"customer": "acme", "namespace": "acme", "queue_class": "ab" * 16}
    bare, noted, other, _ = [
        await arrive(store, epoch=epoch, **{**mine, "name": name, **more})
        for name, more in (
            ("bare", {}),
            ("noted", {}),
            ("other", {"queue_class": "cd" * 16}),
            ("held", {"phase": Phase.HELD}),
        )
    ]
    await store.note_pending([PendingNote(noted.id, noted.version, "QueueFull", "its own")], epoch=epoch)
    reasons = [["WorkerTooSmall", "cpu", 3], {"needs": ["with at least 64 cpu"]}]
    state = ClassState("acme", bare.queue_class, reasons, "Unschedulable", "0/3 workers", datetime.now(UTC))
    await store.write_class_states([state], epoch)

    shown = {item["name"]: item for item in (await client.get("/v1/workloads")).json()["items"]}
    with_spec = (await client.get("/v1/workloads", params={"withSpec": True})).json()["items"]
    assert {item["name"]: item["reason"] for item in with_spec} == {name: one["reason"] for name, one in shown.items()}
    texts = {name: (item["reason"], item["message"]) for name, item in shown.items()}
    assert texts["bare"] == ("Unschedulable", "0/3 workers")
    assert texts["noted"] == ("QueueFull", "its own")
    assert texts["other"] == ("", "")
    assert texts["held"][0] != "Unschedulable"
    read = (await client.get(f"/v1/workloads/{bare.id}")).json()
    assert (read["reason"], read["message"]) == texts["bare"]

    found = (await client.get(f"/v1/workloads/{bare.id}/explain")).json()
    assert found["reasons"] == [{"reason": "WorkerTooSmall", "detail": "cpu", "count": 3}]
    assert (found["reasonsOfClass"], found["waitingInClass"]) == (True, 2)
    assert found["estimatedStart"]["basis"].endswith("it needs one with at least 64 cpu")
    own = (await client.get(f"/v1/workloads/{noted.id}/explain")).json()
    assert (own["reasonsOfClass"], own["waitingInClass"], own["reason"]) == (False, 2, "QueueFull")
    await store.fold_counts(epoch)
    assert (await client.get(f"/v1/workloads/{other.id}/explain")).json()["waitingInClass"] == 1


async def test_a_workload_in_a_backoff_waits_for_that_and_not_for_its_class(
    client: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    row = await arrive(store, epoch=epoch, customer="acme", namespace="acme", queue_class="ab" * 16)
    row = await move(store, row, Event.PLACE, epoch=epoch)
    row = await move(store, row, Event.RETRY, epoch=epoch, not_before_seconds=600.0)
    state = ClassState("acme", row.queue_class, [], "Unschedulable", "0/3 workers", datetime.now(UTC))
    await store.write_class_states([state], epoch)
    assert (await client.get(f"/v1/workloads/{row.id}")).json()["reason"] == ""


async def test_positions_are_exact_up_to_a_bound(
    client: httpx.AsyncClient, store: RestStore, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("niyanta.store.reads.reads", "niyanta.server.routes.workloads"):
        monkeypatch.setattr(f"{module}.EXACT_POSITIONS", 3)
    items = (await client.post("/v1/workloads:batch", content=ndjson(*(manifest() for _ in range(6))))).json()["items"]
    answers = [await client.get(f"{item['workload']['href']}/explain") for item in items]
    seen = [answer.json()["position"] for answer in answers]
    assert [(place["ahead"], place["exact"]) for place in seen] == [
        (0, True), (1, True), (2, True), (3, False), (3, False), (3, False),
    ]  # fmt: skip


async def test_events_have_pages_and_attempts(client: httpx.AsyncClient, store: RestStore, epoch: int) -> None:
    made = (await client.post("/v1/workloads", json=manifest())).json()
    (row,) = await store.get_workloads([made["id"]])
    for event in (Event.PLACE, Event.START, Event.RETRY, Event.PLACE, Event.START, Event.SUCCEED):
        row = await move(store, row, event, epoch=epoch)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    attempts = 0
    while True:
        page = (await client.get(f"{made['href']}/events", params={"limit": 3, **cursor})).json()
        seen += [item["event"] for item in page["items"]]
        attempts += len(page["attempts"])
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == ["Accepted", "Place", "Start", "Retry", "Place", "Start", "Succeed"]
    assert attempts == 2


async def test_pods_and_attempts_have_the_pool_of_each_worker(
    client: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    made = (await client.post("/v1/workloads", json=manifest(replicas=2))).json()
    (row,) = await store.get_workloads([made["id"]])
    row = await move(store, row, Event.PLACE, epoch=epoch, workers=("w1", "w2"), pools=("a", "b"))
    row = await move(store, row, Event.RETRY, epoch=epoch)
    row = await move(store, row, Event.PLACE, epoch=epoch, workers=("w2", "w3"), pools=("b", "b"))
    row = await move(store, row, Event.RETRY, epoch=epoch)
    await move(store, row, Event.PLACE, epoch=epoch, workers=("w2", "w1"), pools=("b", "a"))
    (listed,) = (await client.get("/v1/workloads")).json()["items"]
    for item in (listed, (await client.get(made["href"])).json()):
        assert [(pod["nodeName"], pod["poolName"]) for pod in item["assignments"]] == [("w2", "b"), ("w1", "a")]
    page = (await client.get(f"{made['href']}/events")).json()
    assert [attempt["poolNames"] for attempt in page["attempts"]] == [["a", "b"], ["b", "b"], ["b", "a"]]


async def test_cancel_suspend_and_resume(client: httpx.AsyncClient, store: RestStore, epoch: int) -> None:
    href = (await client.post("/v1/workloads", json=manifest())).json()["href"]

    async def act(action: str) -> tuple[int, Any]:
        answer = await client.post(f"{href}/{action}")
        return answer.status_code, answer.json()

    assert (await act("resume"))[1]["phase"] == "Pending", "resuming a pending workload is not an error"
    status, found = await act("suspend")
    assert (status, found["phase"], found["spec"]["suspend"]) == (200, "Suspended", True)
    assert (await act("suspend"))[1]["phase"] == "Suspended"
    status, found = await act("resume")
    assert (status, found["phase"], found["spec"]["suspend"]) == (200, "Pending", False)
    assert (await act("cancel"))[1]["phase"] == "Cancelled"
    assert (await act("cancel"))[0] == 200
    status, found = await act("resume")
    assert (status, found["type"]) == (409, "urn:niyanta:problem:wrong-phase")
    assert await store.wrong_counters() == []
    by_kubectl = await arrive(store, epoch=epoch)
    answer = await client.post(f"/v1/workloads/{by_kubectl.id}/cancel")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:niyanta:problem:kubernetes-door")


async def test_a_change_by_rest_wins_over_a_leader_that_has_not_seen_it(
    client: httpx.AsyncClient, store: RestStore, epoch: int
) -> None:
    made = (await client.post("/v1/workloads", json=manifest())).json()
    (row,) = await store.get_workloads([made["id"]])
    cursor = await store.cursor()
    await client.post(f"{made['href']}/suspend")
    result = await store.update_workload_status_batch([change(row, Event.PLACE)], epoch=epoch)
    assert (result.applied, result.stale) == ([], [row.id])
    changed, _ = await store.changes_since(cursor, not_by=epoch)
    assert [(item.id, item.phase) for item in changed] == [(row.id, Phase.SUSPENDED)]
    (stored,) = await store.get_workloads([row.id])
    assert stored.spec["suspend"] is True
