"""Wake-ups: due rows end attempts, return to the queue, expire, or are postponed."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.containment import Boundary
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.cluster_api import PodWriteError, WriteProblem
from niyanta.scheduler.periodic import wake_ups
from niyanta.scheduler.pods.outcome import Attempt, LifecycleDecision
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, contained_errors, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


@pytest.fixture
async def recovered(make_leader: MakeLeader) -> LeaderUnderTest:
    """A leader after recovery, without its loop."""
    leader = make_leader()
    await leader.recover()
    return leader


async def test_an_ended_backoff_returns_the_workload_to_the_queue(
    recovered: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await recovered.placed("job", "n1", backoffLimit=1)
    await recovered.decide(uid, Event.RETRY)
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the pod is deleted")
    recovered.kubelet.stop(uid)
    assert uid not in recovered.workloads.queue

    async def queued() -> bool:
        await recovered.make_due(uid)
        return uid in recovered.workloads.queue

    await until(queued, "the backoff is over")


async def test_a_run_beyond_its_timeout_fails(recovered: LeaderUnderTest) -> None:
    uid = await recovered.placed("job", "n1", timeoutSeconds=60, backoffLimit=0)
    recovered.kubelet.run(uid)
    await recovered.observe(uid)
    await recovered.make_due(uid)
    row = await recovered.row(uid)
    assert (row.phase, row.reason) == (Phase.FAILED, "Timeout")
    assert "timeoutSeconds 60" in row.message


async def test_an_attempt_whose_pods_start_too_late_has_failed(recovered: LeaderUnderTest) -> None:
    uid = await recovered.placed("job", "n1", backoffLimit=1)
    await recovered.make_due(uid)
    row = await recovered.row(uid)
    assert (row.phase, row.reason, row.failures) == (Phase.PENDING, "StartTimeout", 1)


async def test_a_placement_without_its_pods_is_postponed(recovered: LeaderUnderTest, cluster: FakeCluster) -> None:
    fault = cluster.faults.hang("create_pod")
    uid = cluster.submit("job")
    await recovered.take_in(uid)
    await recovered.place(uid, "n1")
    await recovered.make_due(uid)
    row = await recovered.row(uid)
    assert row.phase is Phase.SCHEDULED
    assert row.wake_at is not None
    assert not await recovered.store.get_due(10)
    fault.release()
    await recovered.created(uid)


async def test_a_row_that_is_not_in_memory_is_postponed(recovered: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    await recovered.take_in(uid)
    recovered.workloads.drop(uid)
    await recovered.make_due(uid)
    assert not await recovered.store.get_due(10)


async def test_the_object_of_a_finished_workload_is_deleted_after_its_time_to_live(
    recovered: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await recovered.placed("job", "n1", ttlSecondsAfterFinished=60)
    recovered.kubelet.succeed(uid)
    await recovered.observe(uid)
    await recovered.expire(uid)
    assert cluster.deleted_objects == ["job"]
    assert uid not in recovered.workloads
    assert (await recovered.row(uid)).phase is Phase.SUCCEEDED, "the row stays as history"


async def test_a_due_row_that_raises_leaves_the_others_and_comes_due_again(
    recovered: LeaderUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contained_errors(Boundary.TIMER)
    bad = await recovered.placed("bad", "n1", cpu="100m", timeoutSeconds=60, backoffLimit=7)
    good = await recovered.placed("good", "n1", cpu="100m", timeoutSeconds=60, backoffLimit=0)
    for uid in (bad, good):
        recovered.kubelet.run(uid)
    await recovered.observe(bad, good)
    failed_attempt = wake_ups.failed_attempt

    def fail(attempt: Attempt, *args: str) -> LifecycleDecision:
        if attempt.backoff_limit == 7:
            raise ZeroDivisionError
        return failed_attempt(attempt, *args)

    monkeypatch.setattr(wake_ups, "failed_attempt", fail)
    await recovered.make_due(bad)
    await recovered.make_due(good)
    assert contained_errors(Boundary.TIMER) == before + 1
    assert (await recovered.row(good)).phase is Phase.FAILED
    row = await recovered.row(bad)
    assert row.phase is Phase.RUNNING
    assert row.wake_at is not None
    monkeypatch.undo()
    await recovered.make_due(bad)
    assert (await recovered.row(bad)).reason == "Timeout"


async def finished(leader: LeaderUnderTest, *names: str, namespace: str = "default") -> list[str]:
    """Finished workloads whose time to live is over; their ids."""
    ids = [
        await leader.placed(name, "n1", cpu="100m", namespace=namespace, ttlSecondsAfterFinished=0) for name in names
    ]
    for uid in ids:
        leader.kubelet.succeed(uid)
    await leader.observe(*ids)
    return ids


async def test_an_object_whose_deletion_raises_leaves_the_others(
    recovered: LeaderUnderTest, cluster: FakeCluster
) -> None:
    before = contained_errors(Boundary.OBJECT_WRITE)
    ids = await finished(recovered, "one", "two")
    cluster.faults.fail("delete_workload", ZeroDivisionError("oops"))
    await recovered.expire(*ids)
    assert contained_errors(Boundary.OBJECT_WRITE) == before + 1
    assert len(cluster.deleted_objects) == 1
    await recovered.expire(*ids)
    assert sorted(cluster.deleted_objects) == ["one", "two"]


@pytest.mark.parametrize("problem", [WriteProblem.FORBIDDEN, WriteProblem.INVALID])
async def test_an_object_whose_deletion_is_refused_is_tried_again_later(
    recovered: LeaderUnderTest, cluster: FakeCluster, problem: WriteProblem
) -> None:
    (uid,) = await finished(recovered, "one")
    cluster.faults.fail("delete_workload", PodWriteError(problem, "denied by a webhook"))
    await recovered.expire(uid)
    assert not cluster.deleted_objects
    assert uid in recovered.workloads
    row = await recovered.row(uid)
    assert row.wake_at is not None
    assert not await recovered.store.get_due(10)
    await recovered.expire(uid)
    assert cluster.deleted_objects == ["one"]


async def test_deletions_that_hang_hold_up_no_due_row(recovered: LeaderUnderTest, cluster: FakeCluster) -> None:
    hung = await finished(recovered, "one", "two", "three")
    job = await recovered.placed("job", "n1", cpu="100m", timeoutSeconds=60, backoffLimit=0)
    recovered.kubelet.run(job)
    await recovered.observe(job)
    cluster.faults.hang("delete_workload", times=None)
    await recovered.make_due(*hung)
    await until(lambda: cluster.faults.under_way["delete_workload"] == len(hung), "the deletions hang")
    await recovered.make_due(job)
    assert (await recovered.row(job)).reason == "Timeout"
    await recovered.make_due(*hung)
    assert cluster.faults.calls["delete_workload"] == len(hung), "each row has one deletion at a time"
    cluster.faults.clear("delete_workload")
    await recovered.expire(*hung)
    assert sorted(cluster.deleted_objects) == ["one", "three", "two"]


async def test_deletions_of_one_namespace_hold_up_no_other(
    recovered: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()
    delete_workload = cluster.delete_workload

    async def slow(namespace: str, name: str, uid: str) -> None:
        if namespace == "slow":
            await release.wait()
        await delete_workload(namespace, name, uid)

    monkeypatch.setattr(cluster, "delete_workload", slow)
    held = await finished(recovered, *(f"slow-{number}" for number in range(12)), namespace="slow")
    (uid,) = await finished(recovered, "job")
    await recovered.make_due(*held)
    await recovered.make_due(uid)
    await until(lambda: cluster.deleted_objects == ["job"], "the other namespace's object is deleted")
    release.set()


async def test_a_deletion_that_finds_leadership_lost_ends_it(recovered: LeaderUnderTest, cluster: FakeCluster) -> None:
    (uid,) = await finished(recovered, "one")
    cluster.lease_lost = True
    await recovered.expire(uid)
    assert recovered.lost.is_set()
