"""Drains requested by REST stay open until their worker is free, and each is on its own."""

from __future__ import annotations

import pytest

from niyanta.containment import Boundary
from niyanta.lifecycle import Phase
from niyanta.scheduler.periodic import maintenance
from niyanta.store.rows import WorkerRow
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


async def drain(leader: LeaderUnderTest, *workers: str) -> None:
    """A user requests drains by REST."""
    await leader.store.upsert_workers([WorkerRow(name, "pool-a") for name in workers])
    for name in workers:
        assert await leader.store.add_worker_request(name, action="drain", by="ops")


async def open_drains(leader: LeaderUnderTest) -> list[str]:
    return [request.worker for request in await leader.store.get_worker_requests()]


async def is_done(leader: LeaderUnderTest) -> bool:
    return not await open_drains(leader)


def deleted(cluster: FakeCluster, uid: str, name: str) -> bool:
    return any(pod.name == name and pod.metadata.deletion_timestamp for pod in cluster.live_pods(uid))


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
    before = cluster.faults.calls["cordon"]
    following = make_leader()
    await following.start()
    await until(lambda: cluster.faults.calls["cordon"] > before, "the next leader goes on with the drain")
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
