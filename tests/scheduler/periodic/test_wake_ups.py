"""Wake-ups: due rows end attempts, return to the queue, or are postponed."""

from __future__ import annotations

import pytest

from niyanta.containment import Boundary
from niyanta.lifecycle import Event, Phase
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


async def test_the_wake_up_of_a_finished_row_is_cleared(recovered: LeaderUnderTest) -> None:
    uid = await recovered.placed("job", "n1")
    recovered.kubelet.succeed(uid)
    await recovered.observe(uid)
    await recovered.make_due(uid)
    row = await recovered.row(uid)
    assert (row.phase, row.wake_at) == (Phase.SUCCEEDED, None)
