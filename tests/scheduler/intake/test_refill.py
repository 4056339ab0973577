"""Refill: rows of the REST door that other processes write, and the window on a large backlog."""

from __future__ import annotations

import pytest

from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.intake import refill
from niyanta.store.state import StateManager
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader, SubmitRest
from tests.store.make import move

pytestmark = pytest.mark.store


@pytest.fixture
async def recovered(make_leader: MakeLeader) -> LeaderUnderTest:
    """A leader after recovery, without its loop."""
    leader = make_leader()
    await leader.recover()
    return leader


async def test_a_rest_submission_is_placed_and_gets_an_object(
    leader: LeaderUnderTest, cluster: FakeCluster, submit_rest: SubmitRest
) -> None:
    (uid,) = await submit_rest("job")
    await leader.is_running(uid)
    row = await leader.row(uid)
    assert row.object_uid in cluster.objects


async def test_changes_of_other_processes_are_followed(
    recovered: LeaderUnderTest, state: StateManager, submit_rest: SubmitRest
) -> None:
    (uid,) = await submit_rest("job")
    await recovered.follow_changes()
    assert uid in recovered.workloads.queue
    await move(state, await recovered.row(uid), Event.CANCEL, epoch=None)
    await recovered.follow_changes()
    assert uid not in recovered.workloads


async def test_rows_of_the_leader_itself_are_no_news(recovered: LeaderUnderTest, submit_rest: SubmitRest) -> None:
    (uid,) = await submit_rest("job")
    assert await recovered.follow_changes()
    await recovered.decide(uid, Event.FAIL)
    assert not await recovered.follow_changes()


async def test_memory_holds_a_window_that_is_refilled_from_the_front_of_the_queue(
    recovered: LeaderUnderTest, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "WINDOW_ROWS", 4)
    monkeypatch.setattr(refill, "REFILL_BELOW_ROWS", 2)
    monkeypatch.setattr(refill, "REFILL_EVERY_SECONDS", 0.0)
    low = await submit_rest(*(f"low-{number}" for number in range(6)), priority=0)
    high = await submit_rest(*(f"high-{number}" for number in range(3)), priority=100)
    await recovered.follow_changes()
    assert recovered.workloads.waiting_rest() == 4
    for uid in [w.id for w in recovered.workloads if w.row.phase is Phase.PENDING]:
        await recovered.decide(uid, Event.FAIL)
    await recovered.follow_changes()
    left = {workload_id for workload_id in (*low, *high) if workload_id in recovered.workloads.queue}
    pending = [uid for uid in (*high, *low) if (await recovered.row(uid)).phase is Phase.PENDING]
    assert left
    assert set(pending[:2]) <= left, "the first of the queue are in memory"


async def test_a_backlog_is_placed_completely_although_memory_holds_a_part(
    leader: LeaderUnderTest, cluster: FakeCluster, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "WINDOW_ROWS", 4)
    monkeypatch.setattr(refill, "REFILL_BELOW_ROWS", 2)
    monkeypatch.setattr(refill, "REFILL_EVERY_SECONDS", 0.0)
    cluster.add_node("n1", cpu="64")
    uids = await submit_rest(*(f"job-{number}" for number in range(12)))

    async def all_placed() -> bool:
        return all(row.phase is Phase.SCHEDULED for row in await leader.rows(uids))

    await until(all_placed, "all workloads are placed")
