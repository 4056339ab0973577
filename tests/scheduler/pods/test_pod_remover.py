"""Removal of pods: each action is started once, repeated until it is confirmed, and few are under way at once."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.lifecycle import Event
from niyanta.scheduler.cluster_api import PodView
from niyanta.scheduler.pods import pod_remover
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


@pytest.fixture
async def leader(make_leader: MakeLeader) -> LeaderUnderTest:
    """Driven by hand: its loop doesn't run."""
    leader = make_leader()
    await leader.recover()
    return leader


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_DELAY_SECONDS", "LONGEST_DELAY_SECONDS"):
        monkeypatch.setattr(pod_remover, name, 0.01)


async def test_looking_again_asks_for_no_second_deletion(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = await leader.placed("job", "n1")
    cluster.faults.hang("delete_pod")
    await leader.decide(uid, Event.REQUEUE)
    for _ in range(3):
        await leader.observe(uid)
    await until(lambda: cluster.faults.calls["delete_pod"], "the deletion is under way")
    cluster.faults.clear("delete_pod")
    await until(lambda: cluster.pods(uid)[0].deleting, "the pod is deleted")
    await leader.observe(uid)
    assert cluster.faults.calls["delete_pod"] == 1


async def test_a_failed_deletion_is_repeated(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = await leader.placed("job", "n1")
    cluster.faults.fail("delete_pod", RuntimeError("no answer"), times=3)
    await leader.decide(uid, Event.REQUEUE)
    await until(lambda: cluster.pods(uid)[0].deleting, "the pod is deleted")
    assert cluster.faults.calls["delete_pod"] == 4


async def test_a_failed_release_is_repeated(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = await leader.placed("job", "n1")
    leader.kubelet.succeed(uid)
    cluster.faults.fail("release_pod", RuntimeError("no answer"), times=2)
    await leader.observe(uid)
    await until(lambda: not cluster.pods(uid)[0].has_finalizer, "the pod is released")
    assert not cluster.faults.calls["delete_pod"], "a finished pod stays for its logs"


async def test_a_lost_lease_ends_leadership_and_is_not_repeated(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = await leader.placed("job", "n1")
    cluster.lease_lost = True
    await leader.decide(uid, Event.REQUEUE)
    await until(leader.lost.is_set, "leadership ends")
    assert not cluster.pods(uid)[0].deleting


async def test_at_most_so_many_removals_are_under_way(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    width = pod_remover.CONCURRENCY
    uids = [
        await leader.placed(f"job-{number}", "n1", cpu="1m", namespace=f"team-{number % 9}")
        for number in range(width + 3)
    ]
    for operation in ("delete_pod", "release_pod"):
        cluster.faults.hang(operation, times=None)
    for uid in uids:
        await leader.decide(uid, Event.REQUEUE)
    under_way = cluster.faults.under_way
    # A namespace that has some under way leaves the last turns to others.
    await until(lambda: under_way["delete_pod"] + under_way["release_pod"] >= width - 3, "the limit is near")
    await leader.observe(*uids)
    assert under_way["delete_pod"] + under_way["release_pod"] <= width
    for operation in ("delete_pod", "release_pod"):
        cluster.faults.clear(operation)
    await until(lambda: all(cluster.pods(uid)[0].deleting for uid in uids), "all pods are deleted")


async def test_removals_that_fail_in_one_namespace_leave_the_others(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = cluster.delete_pod

    async def fail(pod: PodView, *, force: bool = False) -> None:
        if pod.namespace == "bad":
            cluster.faults.calls["delete_pod in bad"] += 1
            await asyncio.sleep(3600)  # a webhook that doesn't answer
        await delete(pod, force=force)

    monkeypatch.setattr(cluster, "delete_pod", fail)
    bad = [await leader.placed(f"bad-{number}", "n1", cpu="10m", namespace="bad") for number in range(30)]
    good = [await leader.placed(f"good-{number}", "n1", cpu="10m") for number in range(5)]
    for uid in (*bad, *good):
        await leader.decide(uid, Event.REQUEUE)
    await until(lambda: all(cluster.pods(uid)[0].deleting for uid in good), "the good pods are deleted")
    assert cluster.faults.calls["delete_pod in bad"] <= pod_remover.CONCURRENCY // 2
