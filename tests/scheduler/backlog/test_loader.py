"""Rows of the REST door that other processes write, and the backlog of which memory holds the first rows."""

from __future__ import annotations

import psycopg
import pytest

from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.backlog import loader, row_changes, stored_class
from niyanta.store.state import StateManager
from testing.processes.postgres import Postgres
from tests.fakes import objects
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


async def load_all(leader: LeaderUnderTest) -> None:
    """Follow all changes, and load until no class is due."""
    while await leader.follow_changes():
        pass
    for _ in range(50):
        await leader.load_backlog()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of the loader waits for its time, and rows that are heard of aren't loaded for that reason alone."""
    monkeypatch.setattr(stored_class, "MOST_ROWS_OF_CLASS", 1)
    for name in ("PASS_EVERY_SECONDS", "COUNT_EVERY_SECONDS", "UNLOAD_EVERY_SECONDS"):
        monkeypatch.setattr(loader, name, 0.0)


async def test_memory_holds_the_first_rows_of_a_class_and_more_as_they_are_placed(
    eager: None, recovered: LeaderUnderTest, submit_rest: SubmitRest
) -> None:
    low = await submit_rest(*(f"low-{number}" for number in range(6)), priority=0)
    high = await submit_rest(*(f"high-{number}" for number in range(3)), priority=100)
    await load_all(recovered)
    assert recovered.backlog.pending_by_customer() == {"acme": 9}
    assert high[0] in recovered.workloads.queue
    assert low[0] in recovered.workloads.queue, "the oldest, for the expedited lane"
    assert recovered.backlog.total < 9
    recovered.cluster.add_node("n1", cpu="64")
    await recovered.run_cycle()
    await load_all(recovered)
    assert recovered.backlog.total >= 4, "it doubles"


async def test_a_backlog_is_placed_completely_although_memory_holds_a_part(
    leader: LeaderUnderTest, cluster: FakeCluster, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_class, "MOST_ROWS_OF_CLASS", 1)
    monkeypatch.setattr(stored_class, "GROWN_ROWS_OF_CLASS", 2)
    cluster.add_node("n1", cpu="64")
    uids = await submit_rest(*(f"job-{number}" for number in range(12)))

    async def all_placed() -> bool:
        return all(row.phase is Phase.SCHEDULED for row in await leader.rows(uids))

    await until(all_placed, "all workloads are placed")


async def test_the_backlog_of_a_new_leader_is_loaded(
    eager: None, make_leader: MakeLeader, submit_rest: SubmitRest
) -> None:
    uids = await submit_rest(*(f"job-{number}" for number in range(20)))
    other = await submit_rest("other", class_id="b", priority=0)
    leader = make_leader()
    await leader.recover()
    await load_all(leader)
    assert uids[0] in leader.workloads.queue
    assert other[0] in leader.workloads.queue
    assert sum(rows.workloads for rows in leader.backlog.outside()) == 21 - leader.backlog.total


async def test_rows_without_a_class_get_one_and_are_loaded(
    eager: None, make_leader: MakeLeader, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of releases before the queue classes, one of which no reader understands."""
    monkeypatch.setattr(loader, "UNCLASSED_ROWS", 3)
    uids = await submit_rest(*(f"old-{number}" for number in range(7)), queue_class="")
    (broken,) = await submit_rest("broken", queue_class="", spec={"template": 5})
    leader = make_leader()
    await leader.recover()
    await load_all(leader)
    rows = await leader.rows(uids)
    assert len({row.queue_class for row in rows}) == 1
    assert rows[0].queue_class
    assert uids[0] in leader.workloads.queue
    assert leader.backlog.pending_by_customer() == {"acme": 7}
    assert (await leader.row(broken)).phase is Phase.HELD


async def test_rows_that_the_leader_releases_for_a_customer_are_loaded(
    eager: None, recovered: LeaderUnderTest, state: StateManager, submit_rest: SubmitRest
) -> None:
    uids = await submit_rest(*(f"job-{number}" for number in range(5)))
    for uid in uids:
        await move(state, await recovered.row(uid), Event.HOLD, epoch=None, reason="UnknownCustomer")
    await load_all(recovered)
    assert recovered.backlog.total == 0
    recovered.request_reviews()
    await recovered.review_slice()
    await recovered.review_slice()
    await load_all(recovered)
    assert any(uid in recovered.workloads.queue for uid in uids)


async def test_an_open_transaction_elsewhere_stops_nothing(
    leader: LeaderUnderTest,
    postgres: Postgres,
    cluster: FakeCluster,
    submit_rest: SubmitRest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_changes, "CHANGES_PAGE_ROWS", 100)
    cluster.add_node("n2", cpu="64")
    with psycopg.connect(postgres.dsn) as elsewhere:
        elsewhere.execute("SELECT pg_current_xact_id()")
        await submit_rest(*(f"many-{number}" for number in range(300)))
        (uid,) = await submit_rest("late", priority=100)
        await leader.is_running(uid)


async def test_a_round_reads_a_bounded_number_of_changes_and_still_loads(
    eager: None, recovered: LeaderUnderTest, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_changes, "CHANGES_PAGE_ROWS", 5)
    monkeypatch.setattr(row_changes, "PAGES_PER_ROUND", 2)
    await submit_rest(*(f"many-{number}" for number in range(40)))
    (late,) = await submit_rest("late", class_id="b", priority=100)
    await recovered.follow_changes()
    await recovered.load_backlog()
    assert late in recovered.workloads.queue, "the first of the queue doesn't wait until the changes are read"
    assert recovered.backlog.total < 15


async def test_one_customers_backlog_leaves_room_for_the_others(
    eager: None, recovered: LeaderUnderTest, submit_rest: SubmitRest
) -> None:
    recovered.backlog.room.most_rows = 20  # a quarter is kept for others
    recovered.cluster.set_customer("other", "*")
    for number in range(60):
        await submit_rest(f"greedy-{number}", class_id=f"greedy-{number}", priority=100)
    await load_all(recovered)
    quiet = await submit_rest(*(f"quiet-{number}" for number in range(3)), customer="other", priority=0)
    await load_all(recovered)
    assert quiet[0] in recovered.workloads.queue
    assert recovered.backlog.total <= 20
    assert recovered.backlog.pending_by_customer() == {"acme": 60, "other": 3}


async def test_a_class_behind_a_wall_of_another_class_is_reached(
    eager: None, recovered: LeaderUnderTest, submit_rest: SubmitRest
) -> None:
    recovered.backlog.room.most_rows = 8
    await submit_rest(*(f"wall-{number}" for number in range(30)), class_id="a", priority=100)
    await load_all(recovered)
    (behind,) = await submit_rest("behind", class_id="b", priority=0)
    await load_all(recovered)
    assert behind in recovered.workloads.queue


async def test_unplaceable_classes_beyond_the_room_take_turns(
    eager: None, recovered: LeaderUnderTest, submit_rest: SubmitRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "UNLOAD_ROWS", 3)
    recovered.backlog.room.most_rows = 6
    too_large = objects.restricted(objects.workload("", cpu="1k")["spec"])
    uids = []
    for number in range(12):
        uids += await submit_rest(f"wall-{number}", class_id=f"wall-{number}", spec=too_large)
    seen: set[str] = set()
    for _ in range(40):
        await recovered.follow_changes()
        await recovered.load_backlog()
        await recovered.run_cycle()
        seen |= {uid for uid in uids if uid in recovered.workloads.queue}
    assert seen == set(uids)
    assert recovered.backlog.total <= 6


async def test_a_row_that_cannot_be_read_is_held_and_its_neighbours_are_queued(
    recovered: LeaderUnderTest, submit_rest: SubmitRest
) -> None:
    (before,) = await submit_rest("before")
    (broken,) = await submit_rest("broken", spec={"template": 5})
    (after,) = await submit_rest("after")
    await recovered.follow_changes()
    await recovered.load_backlog()
    assert before in recovered.workloads.queue
    assert after in recovered.workloads.queue
    row = await recovered.row(broken)
    assert (row.phase, row.reason) == (Phase.HELD, "InternalError")
