"""Refill: rows of the REST door that other processes write, and the window on a large backlog."""

from __future__ import annotations

import psycopg
import pytest

from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.intake import refill
from niyanta.store.state import StateManager
from testing.processes.postgres import Postgres
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
    monkeypatch.setattr(refill, "RESERVE_ROWS", 0)
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
    monkeypatch.setattr(refill, "RESERVE_ROWS", 0)
    monkeypatch.setattr(refill, "REFILL_BELOW_ROWS", 2)
    monkeypatch.setattr(refill, "REFILL_EVERY_SECONDS", 0.0)
    cluster.add_node("n1", cpu="64")
    uids = await submit_rest(*(f"job-{number}" for number in range(12)))

    async def all_placed() -> bool:
        return all(row.phase is Phase.SCHEDULED for row in await leader.rows(uids))

    await until(all_placed, "all workloads are placed")


async def test_an_open_transaction_elsewhere_stops_nothing(
    leader: LeaderUnderTest,
    postgres: Postgres,
    cluster: FakeCluster,
    submit_rest: SubmitRest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refill, "CHANGES_PAGE_ROWS", 100)
    cluster.add_node("n2", cpu="64")
    with psycopg.connect(postgres.dsn) as elsewhere:
        elsewhere.execute("SELECT pg_current_xact_id()")
        await submit_rest(*(f"many-{number}" for number in range(300)))
        (uid,) = await submit_rest("late", priority=100)
        await leader.is_running(uid)


async def test_a_round_reads_a_bounded_number_of_changes_and_still_refills(
    recovered: LeaderUnderTest, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "CHANGES_PAGE_ROWS", 5)
    monkeypatch.setattr(refill, "PAGES_PER_ROUND", 2)
    monkeypatch.setattr(refill, "REFILL_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(refill, "WINDOW_ROWS", 10)
    monkeypatch.setattr(refill, "CUSTOMER_ROWS", 5)
    monkeypatch.setattr(refill, "REFILL_ROWS_PER_CUSTOMER", 2)
    monkeypatch.setattr(refill, "REFILL_OLDEST_ROWS", 0)
    monkeypatch.setattr(refill, "FIRST_ROWS", 1)
    await submit_rest(*(f"many-{number}" for number in range(40)))
    (late,) = await submit_rest("late", priority=100)
    await recovered.follow_changes()
    assert late in recovered.workloads.queue, "the first of the queue doesn't wait until the changes are read"
    assert recovered.workloads.waiting_rest() < 15


async def test_one_customers_backlog_leaves_room_for_the_others(
    recovered: LeaderUnderTest, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "REFILL_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(refill, "WINDOW_ROWS", 20)
    monkeypatch.setattr(refill, "CUSTOMER_ROWS", 10)
    monkeypatch.setattr(refill, "REFILL_BELOW_ROWS", 5)
    monkeypatch.setattr(refill, "REFILL_ROWS_PER_CUSTOMER", 3)
    monkeypatch.setattr(refill, "FIRST_ROWS", 0)
    monkeypatch.setattr(refill, "REFILL_OLDEST_ROWS", 0)
    recovered.cluster.set_customer("other", "*")
    await submit_rest(*(f"greedy-{number}" for number in range(60)), priority=100)
    await recovered.follow_changes()
    quiet = await submit_rest(*(f"quiet-{number}" for number in range(3)), customer="other", priority=0)
    await recovered.follow_changes()
    assert all(uid in recovered.workloads.queue for uid in quiet)
    assert 10 <= recovered.workloads.waiting_rest() <= 16


async def test_a_class_behind_a_wall_of_another_class_is_reached(
    recovered: LeaderUnderTest, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "REFILL_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(refill, "WINDOW_ROWS", 20)
    monkeypatch.setattr(refill, "CUSTOMER_ROWS", 8)
    monkeypatch.setattr(refill, "REFILL_BELOW_ROWS", 5)
    monkeypatch.setattr(refill, "REFILL_ROWS_PER_CUSTOMER", 1)
    monkeypatch.setattr(refill, "REFILL_ROWS_PER_CLASS", 1)
    monkeypatch.setattr(refill, "FIRST_ROWS", 0)
    monkeypatch.setattr(refill, "REFILL_OLDEST_ROWS", 0)
    await submit_rest(*(f"wall-{number}" for number in range(30)), class_id="a", priority=100)
    await recovered.follow_changes()
    (behind,) = await submit_rest("behind", class_id="b", priority=0)
    await recovered.follow_changes()
    assert behind in recovered.workloads.queue


async def test_a_row_that_cannot_be_read_is_held_and_its_neighbours_are_queued(
    recovered: LeaderUnderTest, submit_rest: SubmitRest
) -> None:
    (before,) = await submit_rest("before")
    (broken,) = await submit_rest("broken", spec={"template": 5})
    (after,) = await submit_rest("after")
    await recovered.follow_changes()
    assert before in recovered.workloads.queue
    assert after in recovered.workloads.queue
    row = await recovered.row(broken)
    assert (row.phase, row.reason) == (Phase.HELD, "InternalError")
