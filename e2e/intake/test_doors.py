"""kubectl and REST are two doors to one queue and one database."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from niyanta.lifecycle import Event
from niyanta.settings import Settings
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rows import RowChange
from niyanta.store.state import StateManager
from testing.environment import Environment
from testing.processes.rest_door import RestDoor, phase_of, restricted
from testing.scenarios.workloads import GROUP, OperatorDatabase, Workloads, customer_manifest, node_names
from testing.waiting import until

pytestmark = pytest.mark.e2e

MakeNodes = Callable[..., list[str]]


@pytest.fixture
def door(env: Environment, workloads: Workloads, unique: str) -> Iterator[RestDoor]:
    database = OperatorDatabase(env.dsn)
    until(
        lambda: database.query("SELECT 1 FROM customers WHERE name = %(name)s AND NOT deleted", name=unique),
        what="the leader has stored the Customer",
        timeout=60,
    )
    made = RestDoor(env, unique)
    yield made
    made.close()


def test_a_manifest_is_placed_alike_through_both_doors(door: RestDoor, workloads: Workloads, nodes: MakeNodes) -> None:
    nodes(2, labels={"disk": "hdd"})
    (wanted,) = nodes(1, labels={"disk": "ssd"})
    hard = {"workerTags": {"disk": "ssd"}}
    by_kubectl = restricted(workloads.manifest("one", hard=hard))
    by_rest = restricted(workloads.manifest("two", hard=hard))
    workloads.apply_all(by_kubectl)
    id_ = door.submit(by_rest)
    first = workloads.wait("one", "Running")
    second = door.wait(id_, "Running")
    assert node_names(first) == [wanted]
    name = f"two-{id_.replace('-', '')[:8]}"
    object_ = until(lambda: workloads.find(name), what="the submission became an object")
    status = workloads.wait(name, "Running")
    assert node_names(status) == [wanted]
    assert second["assignments"] == status["assignments"]
    assert second["id"] == id_
    owners = {ref["uid"] for pod in workloads.pods(id_) for ref in pod["metadata"]["ownerReferences"]}
    assert object_ is not None
    assert owners == {object_["metadata"]["uid"]}


def test_the_object_of_a_rest_submission_expires_and_its_record_stays(
    door: RestDoor, workloads: Workloads, nodes: MakeNodes
) -> None:
    nodes()
    manifest = restricted(workloads.manifest("short", life={"run_for": "1s"}, ttlSecondsAfterFinished=1))
    id_ = door.submit(manifest)
    door.wait(id_, "Succeeded")
    name = f"short-{id_.replace('-', '')[:8]}"
    until(lambda: workloads.find(name) is None, what="the object expired", timeout=60)
    assert phase_of(door.get(f"/v1/workloads/{id_}")) == "Succeeded"
    kinds = [event["event"] for event in door.get(f"/v1/workloads/{id_}/events")["items"]]
    assert {"Place", "Start", "Succeed"} <= set(kinds)


def test_cancelling_by_rest_stops_the_pods_and_deleting_the_object_cancels(
    door: RestDoor, workloads: Workloads, nodes: MakeNodes
) -> None:
    nodes()
    first, second = (door.submit(restricted(workloads.manifest(name))) for name in ("stop-me", "delete-me"))
    door.wait(first, "Running")
    door.wait(second, "Running")
    assert door.client.post(f"/v1/workloads/{first}/cancel").status_code == 200
    workloads.wait_no_pods(first)
    workloads.delete(f"delete-me-{second.replace('-', '')[:8]}")
    door.wait(second, "Cancelled")
    workloads.wait_no_pods(second)


def test_suspend_and_resume_by_rest(door: RestDoor, workloads: Workloads, nodes: MakeNodes) -> None:
    nodes()
    id_ = door.submit(restricted(workloads.manifest("pausing")))
    door.wait(id_, "Running")
    assert door.client.post(f"/v1/workloads/{id_}/suspend").status_code == 200
    workloads.wait_no_pods(id_)
    assert phase_of(door.get(f"/v1/workloads/{id_}")) == "Suspended"
    assert door.client.post(f"/v1/workloads/{id_}/resume").status_code == 200
    door.wait(id_, "Running")


def test_explain_has_reasons_nearest_miss_position_and_estimated_start(
    door: RestDoor, env: Environment, workloads: Workloads, nodes: MakeNodes
) -> None:
    nodes(1, labels={"disk": "hdd"}, cpu="2")
    (near,) = nodes(1, labels={"disk": "ssd"}, cpu="2")
    manifest = workloads.manifest("stuck", cpu="4", hard={"workerTags": {"disk": "ssd"}})
    id_ = door.submit(restricted(manifest))

    def explained() -> dict[str, Any] | None:
        found = door.get(f"/v1/workloads/{id_}/explain")
        return found if found.get("nearestMiss") else None

    found = until(explained, what="the leader has stored the reasons", timeout=60)
    assert found is not None
    assert found["nearestMiss"] == {"worker": near, "failed": ["WorkerTooSmall (cpu)"]}
    counts = {reason["reason"]: reason["count"] for reason in found["reasons"]}
    assert counts["TagMismatch"] == counts["WorkerTooSmall"] == 1
    assert found["position"]["ahead"] == 0
    # No worker can ever hold it, so there is a condition instead of a time.
    assert (found["estimatedStart"]["at"], found["estimatedStart"]["seconds"]) == (None, None)
    for words in ("not before a worker is added or changed: ", "with the requested tags, with at least 4 cpu"):
        assert words in found["estimatedStart"]["basis"]
    as_user = {"NIYANTA_API_URL": f"http://127.0.0.1:{door.port}", "NIYANTA_API_KEY": door.key}
    shown = env.niyanta("explain", id_, extra_env=as_user)
    assert "not known (not before a worker is added or changed: " in shown
    assert "in about" not in shown
    nodes(1, labels={"disk": "ssd"}, cpu="8")
    door.wait(id_, "Running")


def test_premium_goes_before_free_through_both_doors(
    door: RestDoor, env: Environment, workloads: Workloads, nodes: MakeNodes, namespace: str, unique: str
) -> None:
    """On one slot, Free workloads of both doors queue first, and Premium workloads of both doors overtake them."""
    premium = f"{unique}-gold"
    workloads.cluster.api.post(f"{GROUP}/customers", customer_manifest(premium, namespace, tier="Premium"))
    workloads.cluster.api.patch(f"{GROUP}/customers/{unique}", {"spec": {"tier": "Free"}})
    until(lambda: len(_tiers(env, unique, premium)) == 2, what="the leader has stored the tiers", timeout=60)
    gold = RestDoor(env, premium)
    try:
        life = {"run_for": "1s"}
        free_spec = {"customer": unique, "life": life, "cpu": "1"}
        gold_spec = {"customer": premium, "life": life, "cpu": "1"}
        free_ids = workloads.apply_all(restricted(workloads.manifest("free-kubectl", **free_spec)))
        free_ids.append(door.submit(restricted(workloads.manifest("free-rest", **free_spec))))
        gold_ids = workloads.apply_all(restricted(workloads.manifest("gold-kubectl", **gold_spec)))
        gold_ids.append(gold.submit(restricted(workloads.manifest("gold-rest", **gold_spec))))
        for uid in (*free_ids, *gold_ids):
            workloads.database.wait_status(uid, "PENDING")
        nodes(1, cpu="1")
        for uid in (*free_ids, *gold_ids):
            workloads.database.wait_status(uid, "SUCCEEDED", timeout=90)
    finally:
        gold.close()
        workloads.cluster.api.delete(f"{GROUP}/customers/{premium}")
    rows = {uid: workloads.database.row(uid) for uid in (*free_ids, *gold_ids)}
    started = {uid: row["scheduled_at"] for uid, row in rows.items() if row is not None}
    assert max(started[uid] for uid in gold_ids) < min(started[uid] for uid in free_ids)


def test_only_dispatched_rest_submissions_become_objects(
    env: Environment, door: RestDoor, workloads: Workloads, nodes: MakeNodes
) -> None:
    """50,000 submissions for two slots are two objects; when one is cancelled, the next is dispatched."""
    total, size = 50_000, 1000
    nodes(1, cpu="2", pods=10)
    began = time.monotonic()
    for start in range(0, total, size):
        answer = door.batch(
            restricted(workloads.manifest(f"b{number}", cpu="1")) for number in range(start, start + size)
        )
        assert answer.status_code == 202, answer.text[:300]
    print(f"{total} submissions in {time.monotonic() - began:.1f} s")
    until(lambda: len(workloads.live_pods()) == 2, what="two run", timeout=120)
    until(lambda: door.get("/v1/customer/stats"), what="statistics")
    objects = workloads.all()
    assert len(objects) == 2, [o["metadata"]["name"] for o in objects][:5]
    row = workloads.database.query(
        "SELECT count(*) AS n FROM workload_state WHERE status = 'PENDING' AND door = 'rest'"
    )
    assert row[0]["n"] >= total - 2
    first = objects[0]["metadata"]["labels"]["niyanta.io/rest-id"]
    door.client.post(f"/v1/workloads/{first}/cancel").raise_for_status()
    until(
        lambda: {o["metadata"]["labels"]["niyanta.io/rest-id"] for o in workloads.all()} - {first},
        what="the next one is dispatched",
    )
    asyncio.run(_cancel_all(env.dsn, workloads))


def test_a_killed_api_process_loses_and_duplicates_no_submission(
    door: RestDoor, workloads: Workloads, nodes: MakeNodes
) -> None:
    """The process is killed between batches with idempotency keys; every batch is sent again with its key."""
    batches = [(uuid.uuid4().hex, [restricted(workloads.manifest(f"k{b}-{n}")) for n in range(200)]) for b in range(8)]
    accepted: dict[str, list[str]] = {}
    killed = threading.Event()

    def kill_soon() -> None:
        until(lambda: len(accepted) >= 2, what="some were accepted", timeout=60)
        door.process.sigkill()
        killed.set()

    killer = threading.Thread(target=kill_soon)
    killer.start()
    for key, manifests in batches:
        with contextlib.suppress(httpx.TransportError):
            accepted[key] = _ids(door.batch(manifests, key=key))
    killer.join()
    assert killed.is_set()
    door.restart()
    for key, manifests in batches:
        again = _ids(door.batch(manifests, key=key))
        assert again == accepted.get(key, again), "the same key gave other ids"
        accepted[key] = again
    everything = [id_ for ids in accepted.values() for id_ in ids]
    assert len(everything) == len(set(everything)) == 1600
    found = workloads.database.query(
        "SELECT count(*) AS n FROM workloads WHERE door = 'rest' AND namespace = %(ns)s", ns=workloads.namespace
    )
    assert found[0]["n"] == 1600


def _ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 202, answer.text[:300]
    return [item["workload"]["id"] for item in answer.json()["items"]]


async def _cancel_all(dsn: str, workloads: Workloads) -> None:
    """Cancels all pending workloads, for the tests that share this database."""
    ids = workloads.database.query(
        "SELECT w.id::text AS id, s.version FROM workloads w JOIN workload_state s USING (id)"
        " WHERE w.namespace = %(ns)s AND s.status = 'PENDING'",
        ns=workloads.namespace,
    )
    settings = Settings(dsn=dsn, identity="test")
    async with await open_pool(settings) as pool:
        state = StateManager(pool, settings)
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            await state.update_workload_status_batch(
                [RowChange(id=row["id"], version=row["version"], event=Event.CANCEL, reason="Test") for row in part],
                epoch=None,
            )


def _tiers(env: Environment, *names: str) -> list[dict[str, Any]]:
    wanted = "SELECT name FROM customers WHERE name = ANY(%(names)s) AND tier IN ('Free', 'Premium') AND NOT deleted"
    return OperatorDatabase(env.dsn).query(wanted, names=list(names))
