"""Drains requested by REST stay open until their worker is free, evict only if asked to, and each is on its own."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.aio import in_slices
from niyanta.containment import Boundary
from niyanta.lifecycle import Phase
from niyanta.scheduler.periodic import maintenance, worker_drains, worker_requests
from niyanta.store.rows import WorkerAction, WorkerRow
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, contained_errors, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


@pytest.fixture
async def leader(make_leader: MakeLeader, monkeypatch: pytest.MonkeyPatch) -> LeaderUnderTest:
    """A leader that looks for drains often."""
    monkeypatch.setattr(maintenance, "WORKER_REQUESTS_EVERY_SECONDS", 0.05)
    leader = make_leader()
    await leader.start()
    return leader


async def drain(leader: LeaderUnderTest, *workers: str, evict_after: int | None = 0) -> None:
    """A user requests drains by REST, with eviction at once unless `evict_after` says otherwise."""
    await leader.store.upsert_workers([WorkerRow(name, "pool-a") for name in workers])
    for name in workers:
        assert await leader.store.add_worker_request(name, action=WorkerAction.DRAIN, by="ops", evict_after=evict_after)


async def message(leader: LeaderUnderTest) -> str:
    """Message of the only open request."""
    (request,) = await leader.store.get_worker_requests()
    return request.message


async def open_drains(leader: LeaderUnderTest) -> list[str]:
    return [request.worker for request in await leader.store.get_worker_requests()]


async def is_done(leader: LeaderUnderTest) -> bool:
    return not await open_drains(leader)


async def passes(leader: LeaderUnderTest, count: int = 3) -> None:
    """Wait until the leader has looked at the requests that often."""
    seen = 0

    def one() -> None:
        nonlocal seen
        seen += 1

    leader.outage.before["get_worker_requests"] = one
    await until(lambda: seen > count, "the leader looks at the requests")


def deleted(cluster: FakeCluster, uid: str, name: str) -> bool:
    return any(pod.name == name and pod.metadata.deletion_timestamp for pod in cluster.live_pods(uid))


async def test_a_drain_waits_for_the_work_unless_it_is_asked_to_evict(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    await drain(leader, "n1", evict_after=None)

    async def reported() -> bool:
        return await message(leader) == "cordoned; 1 workloads still run there"

    await until(reported, "the leader reports the drain")
    assert not cluster.is_schedulable("n1")
    await passes(leader)
    assert (await leader.row(uid)).phase is Phase.RUNNING
    assert cluster.faults.calls["cordon"] == 1
    leader.kubelet.succeed(uid)
    await until(lambda: is_done(leader), "the drain is done")
    assert (await leader.row(uid)).phase is Phase.SUCCEEDED


async def test_a_drain_that_is_asked_anew_with_an_eviction_evicts(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    await drain(leader, "n1", evict_after=None)
    await until(lambda: not cluster.is_schedulable("n1"), "the worker is cordoned")
    await drain(leader, "n1", evict_after=0)
    await leader.has_reason(uid, "WorkerDrained")
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the pod is deleted")
    leader.kubelet.stop(uid)
    await until(lambda: is_done(leader), "the drain is done")


async def test_a_drain_ends_when_another_client_uncordons_the_node(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    await drain(leader, "n1", evict_after=None)
    (request,) = await leader.store.get_worker_requests()

    async def begun() -> bool:
        (found,) = await leader.store.get_worker_requests()
        return found.begun_at is not None

    await until(begun, "the leader reports the drain")
    await cluster.uncordon("n1")
    await until(lambda: is_done(leader), "the drain has ended")
    ended = await leader.store.get_worker_request("n1", request.id)
    assert ended is not None
    assert (ended.outcome, ended.message) == ("Replaced", "another client uncordoned the node meanwhile")
    assert cluster.is_schedulable("n1")


async def test_a_drain_is_open_until_the_last_pod_has_ended(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    await drain(leader, "n1")
    await leader.has_reason(uid, "WorkerDrained")
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the pod is deleted")
    assert not cluster.is_schedulable("n1")
    assert await open_drains(leader) == ["n1"]
    leader.kubelet.stop(uid)
    await until(lambda: is_done(leader), "the drain is done")


async def test_a_workload_whose_pods_are_just_being_created_is_put_back_later(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    hang = cluster.faults.hang("create_pod")
    uid = cluster.submit("job")
    await until(hang.reached.is_set, "the create is under way")
    await drain(leader, "n1")
    await until(lambda: not cluster.is_schedulable("n1"), "the worker is cordoned")
    assert await open_drains(leader) == ["n1"]
    hang.release()
    await leader.has_reason(uid, "WorkerDrained")
    leader.kubelet.stop(uid)
    await until(lambda: is_done(leader), "the drain is done")


async def test_the_next_leader_waits_for_pods_that_the_last_one_left_stopping(
    leader: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    await drain(leader, "n1")
    await leader.has_reason(uid, "WorkerDrained")
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the pod is deleted")
    await leader.close()
    following = make_leader()
    await following.start()
    await passes(following)
    assert await open_drains(following) == ["n1"]
    following.kubelet.stop(uid)
    await until(lambda: is_done(following), "the drain is done")


async def test_a_forged_pod_does_not_hold_a_drain_open(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    labels = {"niyanta.io/workload-uid": uid, "niyanta.io/attempt": "1", "niyanta.io/index": "0"}
    owner = {"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "name": "x", "uid": "another", "controller": True}
    meta = {"name": "forged", "namespace": "other", "labels": labels, "ownerReferences": [owner]}
    await cluster.create_pod("other", {"metadata": meta, "spec": {"nodeName": "n1"}})
    assert {pod.name for pod in cluster.pods(uid)} > {"forged"}
    await drain(leader, "n1")
    await leader.has_reason(uid, "WorkerDrained")
    own = next(pod.name for pod in cluster.live_pods(uid) if pod.name != "forged")
    await until(lambda: deleted(cluster, uid, own), "its own pod is deleted")
    leader.kubelet.stop(uid)
    await until(lambda: is_done(leader), "the drain is done")


async def test_a_drain_that_raises_leaves_the_others(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    before = contained_errors(Boundary.DRAIN)
    cluster.add_node("n2")
    cluster.faults.fail("cordon", ZeroDivisionError("oops"))
    await drain(leader, "n1", "n2")
    await until(lambda: is_done(leader), "both drains are done")
    assert contained_errors(Boundary.DRAIN) == before + 1
    uid = cluster.submit("job")
    cluster.add_node("n3")
    await leader.reaches(uid, Phase.SCHEDULED)


async def test_the_drain_of_a_node_that_is_gone_is_done(leader: LeaderUnderTest) -> None:
    await drain(leader, "gone")
    await until(lambda: is_done(leader), "the drain is done")


async def test_drains_of_one_pass_look_through_all_pods_once(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal looks
        looks += 1
        return in_slices(*args, **more)

    monkeypatch.setattr(worker_drains, "in_slices", counted)
    monkeypatch.setattr(worker_requests, "PASS_SECONDS", 60.0)
    names = [f"n{number}" for number in range(2, 7)]
    for name in names:
        cluster.add_node(name)
    leader = make_leader()
    await drain(leader, *names)
    await leader.start()
    await until(lambda: is_done(leader), "the drains are done")
    assert looks == 1
