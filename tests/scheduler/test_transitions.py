"""Transitions: decisions are committed in batches, rows that moved meanwhile are read again, and effects follow."""

from __future__ import annotations

import pytest

from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.store.errors import StaleEpochError, StoreUnavailableError
from niyanta.store.postgres.pool import Pool
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader
from tests.store.make import move

pytestmark = pytest.mark.store


@pytest.fixture
async def leader(make_leader: MakeLeader) -> LeaderUnderTest:
    """Driven by hand: its loop doesn't run."""
    leader = make_leader()
    await leader.recover()
    return leader


async def admitted(leader: LeaderUnderTest, *names: str, **spec: object) -> list[str]:
    """Workloads that were taken in; their ids."""
    uids = [leader.cluster.submit(name, **spec) for name in names]
    await leader.take_in(*uids)
    return uids


def decision(event: Event, reason: str = "Test", message: str = "") -> LifecycleDecision:
    return LifecycleDecision(event, reason, message)


async def test_a_long_list_is_committed_in_batches_and_the_loop_ticks_for_each(leader: LeaderUnderTest) -> None:
    uids = await admitted(leader, *(f"job-{number}" for number in range(501)))
    before = leader.ticks
    await leader.commit(*((leader.tracked(uid), decision(Event.SUSPEND)) for uid in uids))
    assert leader.ticks - before == 2
    assert {row.phase for row in await leader.rows(uids)} == {Phase.SUSPENDED}
    assert not any(uid in leader.workloads.queue for uid in uids)


async def test_a_row_that_moved_meanwhile_is_read_again_and_the_others_are_committed(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    moved, other = await admitted(leader, "moved", "other")
    await move(leader.store, leader.tracked(moved).row, Event.SUSPEND, epoch=leader.epoch)
    await leader.commit((leader.tracked(moved), decision(Event.HOLD)), (leader.tracked(other), decision(Event.HOLD)))
    assert [row.phase for row in await leader.rows([moved, other])] == [Phase.SUSPENDED, Phase.HELD]
    assert leader.tracked(moved).row.phase is Phase.SUSPENDED
    assert moved not in leader.workloads.queue
    assert cluster.statuses[moved][-1].phase is Phase.SUSPENDED


async def test_after_a_refresh_the_same_decision_can_be_committed(leader: LeaderUnderTest) -> None:
    (uid,) = await admitted(leader, "job")
    await leader.store.reassign(uid, customer="acme", tier_weight=50, epoch=leader.epoch)
    await leader.decide(uid, Event.SUSPEND)
    assert (await leader.row(uid)).phase is Phase.PENDING
    await leader.decide(uid, Event.SUSPEND)
    assert (await leader.row(uid)).phase is Phase.SUSPENDED


async def test_an_illegal_transition_is_left_out_and_does_not_stop_others(leader: LeaderUnderTest) -> None:
    wrong, right = await admitted(leader, "wrong", "right")
    await leader.commit(
        (leader.tracked(wrong), decision(Event.SUCCEED)), (leader.tracked(right), decision(Event.SUSPEND))
    )
    assert [row.phase for row in await leader.rows([wrong, right])] == [Phase.PENDING, Phase.SUSPENDED]
    assert wrong in leader.workloads.queue


async def test_a_placement_that_was_committed_without_an_answer_is_followed_by_a_refresh(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    (uid,) = await admitted(leader, "job")
    await move(leader.store, leader.tracked(uid).row, Event.PLACE, epoch=leader.epoch, workers=("n1",), attempt=1)
    await leader.refresh(uid)
    await leader.created(uid)
    assert (leader.tracked(uid).row.phase, leader.tracked(uid).row.attempt) == (Phase.SCHEDULED, 1)
    assert len(cluster.live_pods(uid)) == 1
    assert uid not in leader.workloads.queue


async def test_a_commit_while_postgres_is_away_changes_nothing_in_memory(leader: LeaderUnderTest) -> None:
    (uid,) = await admitted(leader, "job")
    leader.outage.away = True
    with pytest.raises(StoreUnavailableError):
        await leader.decide(uid, Event.SUSPEND)
    assert leader.tracked(uid).row.phase is Phase.PENDING
    assert uid in leader.workloads.queue


async def test_nothing_is_committed_under_an_old_epoch(leader: LeaderUnderTest, pool: Pool) -> None:
    (uid,) = await admitted(leader, "job")
    async with pool.connection() as connection:
        await connection.execute(b"UPDATE leadership SET epoch = epoch + 1")
    with pytest.raises(StaleEpochError):
        await leader.decide(uid, Event.SUSPEND)
    assert (await leader.row(uid)).phase is Phase.PENDING


async def test_a_placement_takes_capacity_before_its_pods_exist_and_an_ended_attempt_gives_it_back(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    hang = cluster.faults.hang("create_pod")
    (uid,) = await admitted(leader, "job")
    await leader.place(uid, "n1")
    await until(hang.reached.is_set, "the create is under way")
    assert cluster.charged(uid) == ["n1"]
    hang.release()
    await leader.created(uid)
    leader.kubelet.succeed(uid)
    assert cluster.charged(uid) == ["n1"], "the row still has it"
    await leader.observe(uid)
    assert cluster.charged(uid) == []


async def test_a_pod_that_still_stops_keeps_its_charge_and_the_next_attempt_waiting(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await leader.placed("job", "n1")
    leader.kubelet.run(uid)
    await leader.observe(uid)
    await leader.decide(uid, Event.REQUEUE)
    assert uid not in leader.workloads.queue
    assert cluster.charged(uid) == ["n1"]
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the pod is deleted")
    leader.kubelet.stop(uid)
    assert cluster.charged(uid) == []


async def test_a_finished_workload_leaves_memory_at_once_but_its_object_is_remembered(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    ended = await leader.placed("ended", "n1", ttlSecondsAfterFinished=3600)
    (cancelled,) = await admitted(leader, "cancelled")
    leader.kubelet.succeed(ended)
    await leader.observe(ended)
    leader.kubelet.stop(ended)
    await leader.observe(ended)
    await leader.decide(cancelled, Event.CANCEL)
    assert not {ended, cancelled} & {tracked.id for tracked in leader.workloads}
    assert leader.finished_objects.uids() == {ended, cancelled}
    row = await leader.row(ended)
    assert row.wake_at is None, "a finished row never comes due"


async def test_transitions_that_concern_users_write_statuses_and_events(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await leader.placed("job", "n1", backoffLimit=1)
    await leader.decide(uid, Event.RETRY, "PodFailed", "exit code 1")
    (held,) = await admitted(leader, "held")
    await leader.decide(held, Event.HOLD, "QueueFull", "wait")
    await leader.decide(held, Event.CANCEL)
    told = [(event.reason, event.warning) for event in cluster.events]
    assert told == [("Scheduled", False), ("Retrying", True), ("Held", True)]
    assert "exit code 1" in cluster.events[1].message
    assert [row.phase for row in cluster.statuses[held]][-1] is Phase.CANCELLED


@pytest.mark.parametrize(("failures", "seconds"), [(0, 2.0), (1, 4.0), (2, 5.0)])
async def test_each_retry_waits_longer_up_to_a_limit(make_leader: MakeLeader, failures: int, seconds: float) -> None:
    leader = make_leader(retry_backoff=2.0, retry_backoff_max=5.0)
    await leader.recover()
    (uid,) = await admitted(leader, "job", backoffLimit=5)
    for _ in range(failures + 1):
        await leader.place(uid, "n1")
        await leader.created(uid)
        earliest = await leader.store.clock() + seconds * 1e6
        await leader.decide(uid, Event.RETRY)
        latest = await leader.store.clock() + seconds * 1e6
    row = await leader.row(uid)
    assert row.not_before is not None
    assert earliest <= row.not_before.timestamp() * 1e6 + 1 <= latest + 1
    assert uid not in leader.workloads.queue
