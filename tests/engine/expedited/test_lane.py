"""The expedited lane gives long-waiting workloads a share of freed capacity, in turn, and breaks no other rule."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.expedited.lane import ExpeditedLane
from niyanta.engine.expedited.lane_state import IMPOSSIBLE_US, LaneState
from niyanta.engine.explain import lane_note, summary
from niyanta.engine.queue.order import MINUTE_US
from niyanta.engine.queue.queue import Queue
from niyanta.engine.schedule import Lane, Options, schedule
from niyanta.engine.snapshot.snapshot import WHOLE_WORKER
from niyanta.engine.types import (
    Charge,
    Matcher,
    PendingWorkload,
    Reason,
    Requirements,
    Subject,
)
from tests.engine.expedited.lanes import (
    LANE,
    LATE,
    asks,
    begun,
    cluster,
    follow,
    generous,
    half_drained,
    runs,
    waits,
    worker,
)
from tests.engine.reference import Cluster
from tests.engine.worlds import World, world

pytestmark = pytest.mark.unit


# --- turns -----------------------------------------------------------------------------------------------------------


def test_a_workload_enters_after_24_minutes_if_it_fits_a_worker_when_empty() -> None:
    snapshot = cluster(worker("a"), charges=(runs("r", "a", 4000),))
    old, young, giant = waits("old", 1000), waits("young", 1000, queued_at=37 * MINUTE_US), waits("giant", 9000)
    state = begun(snapshot, [old, young, giant])
    assert set(state.members) == {"old"}
    later = follow(snapshot, state, [old, young, giant], 61 * MINUTE_US).lane
    assert later is not None
    assert set(later.members) == {"old", "young"}


def test_a_class_that_fits_no_worker_is_looked_at_again_after_a_minute_or_when_workers_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = cluster(worker("a"), charges=(runs("r", "a", 4000),))
    giants = [replace(waits(f"giant-{number}", 9000), queue_class="giants") for number in range(3)]
    looked: list[str] = []
    is_possible = ExpeditedLane._is_possible

    def counted(lane: ExpeditedLane, workload: PendingWorkload) -> bool:
        looked.append(workload.id)
        return is_possible(lane, workload)

    monkeypatch.setattr(ExpeditedLane, "_is_possible", counted)
    state = begun(snapshot, giants)
    assert len(looked) == 1, "one stands for its class"

    def again(at: int) -> int:
        nonlocal state
        looked.clear()
        found = follow(snapshot, state, giants, at).lane
        assert found is not None
        state = found
        return len(looked)

    assert again(LATE + 1) == 0
    assert again(LATE + IMPOSSIBLE_US + 2) == 1
    snapshot.upsert_worker(replace(worker("large"), allocatable=(("cpu", 16_000), ("pods", 110))))
    assert again(LATE + IMPOSSIBLE_US + 3) > 0
    assert set(state.members) == {"giant-1", "giant-2"}, "the first one is placed"


def test_room_that_only_foreign_pods_take_does_not_count_as_empty() -> None:
    foreign = Charge("daemon", "a", (("cpu", 500), ("pods", 1)))
    assert not begun(cluster(worker("a"), charges=(foreign,)), [waits("whole", 4000)]).members


def test_a_new_leader_gives_no_turn_before_capacity_was_freed() -> None:
    assert follow(cluster(worker("a")), LaneState(), [waits("old", 1000)], LATE).placements == ()


def test_the_lane_goes_before_the_queue_when_capacity_was_freed() -> None:
    snapshot = cluster(worker("a"), charges=(runs("r", "a", 4000),))
    old, top = waits("old", 4000), waits("top", 4000, priority=100, tier_weight=100)
    state = begun(snapshot, [old])
    snapshot.release("r/1/0")
    plan = schedule(snapshot, [top, old], LATE + 1, lane=Lane(LANE, state, [old]))
    assert [(p.id, p.expedited) for p in plan.placements] == [("old", True)]
    assert [r.id for r in plan.rejections] == ["top"]
    assert plan.lane is not None
    assert not plan.lane.members
    assert plan.lane.accounts["p"].debt == 3 * WHOLE_WORKER // 4


def test_an_amount_beyond_the_share_is_repaid_before_the_next_turn() -> None:
    charges = tuple(runs(f"r{n}", f"w{n}", 4000) for n in range(5))
    snapshot = cluster(*(worker(f"w{n}") for n in range(5)), charges=charges)
    waiting = [waits(f"old{n}", 4000, queued_at=n) for n in range(5)]
    state = begun(snapshot, waiting)
    placed = []
    for n in range(5):
        snapshot.release(f"r{n}/1/0")
        plan = follow(snapshot, state, waiting, LATE + n)
        assert plan.lane is not None
        state = plan.lane
        for placement in plan.placements:
            waiting = [workload for workload in waiting if workload.id != placement.id]
            snapshot.charge(runs(placement.id, placement.workers[0], 4000))
        placed.append(len(plan.placements))
    # One of the first four freed workers, one of the next four.
    assert placed == [1, 0, 0, 0, 1]


def test_customers_take_turns_and_each_customers_oldest_workload_goes_first() -> None:
    rooms = [f"w{n:02}" for n in range(40)]
    snapshot = cluster(*(worker(name) for name in rooms), charges=tuple(runs(f"r{n}", n, 4000) for n in rooms))
    waiting = [waits(f"many{n}", 4000, "acme", queued_at=n) for n in range(5)]
    waiting += [waits(f"few{n}", 4000, "bolt", queued_at=100 + n) for n in range(3)]
    state = begun(snapshot, waiting)
    order = []
    for number, name in enumerate(rooms):
        snapshot.release(f"r{name}/1/0")
        plan = follow(snapshot, state, waiting, LATE + number)
        assert plan.lane is not None
        state = plan.lane
        for placement in plan.placements:
            order.append(placement.id)
            waiting = [workload for workload in waiting if workload.id != placement.id]
            snapshot.charge(runs(placement.id, placement.workers[0], 4000))
    assert order == ["many0", "few0", "many1", "few1", "many2", "few2", "many3", "many4"]


# --- reservations ----------------------------------------------------------------------------------------------------


def test_other_workloads_use_only_capacity_beside_a_reservation() -> None:
    snapshot, big, state = half_drained()
    queue = [waits("small", 500, "other"), waits("beside", 1000, "other")]
    plan = schedule(snapshot, queue, LATE + 2, lane=Lane(LANE, state, [big]))
    assert [p.id for p in plan.placements] == []
    held = ((Reason.RESOURCE, "cpu", 1), (Reason.RESERVED, "", 1))
    assert [(r.id, r.counts) for r in plan.rejections] == [("small", held), ("beside", held)]
    assert summary(plan.rejections[0]) == "0/2 workers: 1 insufficient cpu, 1 held for work that has waited longer"
    snapshot.release("a2/1/0")  # room for big and one core beside it
    plan = schedule(snapshot, queue, LATE + 3, lane=Lane(LANE, state, [big]))
    assert {(p.id, p.workers, p.expedited) for p in plan.placements} == {
        ("big", ("a",), True),
        ("small", ("a",), False),
    }


def test_a_reservation_stays_where_it_is_until_it_can_be_used() -> None:
    snapshot, big, state = half_drained()
    for minute in range(1, 40):
        plan = follow(snapshot, state, [big], LATE + minute * MINUTE_US)
        assert plan.lane is not None
        assert plan.lane.reservations == state.reservations
        state = plan.lane
    assert lane_note(state, "big") == "in the expedited lane since 01:00 UTC; reserved worker a"
    assert lane_note(state, "other") == ""


def test_room_that_is_free_but_held_is_reported_as_held() -> None:
    """All of a worker is free but the last core of it, which keeps the holder waiting."""
    snapshot = cluster(worker("a"), charges=(runs("a1", "a", 1000), runs("a2", "a", 3000)))
    big = waits("big", 4000)
    state = begun(snapshot, [big])
    snapshot.release("a2/1/0")
    queue = [waits("small", 1000, "other"), waits("large", 3500, "other"), waits("vast", 5000, "other")]
    plan = schedule(snapshot, queue, LATE + 1, lane=Lane(LANE, state, [big]))
    assert [(r.id, r.counts) for r in plan.rejections] == [
        ("small", ((Reason.RESERVED, "", 1),)),
        ("large", ((Reason.RESOURCE, "cpu", 1),)),
        ("vast", ((Reason.TOO_SMALL, "cpu", 1),)),
    ]


def test_a_slot_that_is_held_alone_is_reported_as_held() -> None:
    """A holder with host ports or peer terms gets its workers alone."""
    snapshot = cluster(worker("a"), charges=(runs("a1", "a", 2000), runs("a2", "a", 2000)))
    loner = waits("loner", 3000, anti=True)
    state = begun(snapshot, [loner])
    snapshot.release("a1/1/0")
    plan = schedule(snapshot, [waits("small", 0, "other")], LATE + 1, lane=Lane(LANE, state, [loner]))
    assert [(r.id, r.counts) for r in plan.rejections] == [("small", ((Reason.RESERVED, "", 1),))]


def test_work_that_was_queued_anew_leaves_the_lane_until_it_has_waited_again() -> None:
    snapshot, big, state = half_drained()
    again = replace(big, queued_at=LATE)
    plan = follow(snapshot, state, [again], LATE + 2)
    assert plan.lane is not None
    assert (dict(plan.lane.members), plan.lane.reservations) == ({}, ())
    assert lane_note(plan.lane, "big") == ""


def test_a_reservation_moves_when_its_worker_is_gone_and_ends_with_its_workload() -> None:
    snapshot, big, state = half_drained()
    snapshot.remove_worker("a")
    moved = follow(snapshot, state, [big], LATE + 2).lane
    assert moved is not None
    assert [r.workers for r in moved.reservations] == [("b",)]
    ended = follow(snapshot, moved, [], LATE + 3).lane
    assert ended is not None
    assert (ended.reservations, ended.members) == ((), {})


def test_a_group_gets_its_workers_reserved_together() -> None:
    snapshot = cluster(
        worker("a"), worker("b"), charges=tuple(runs(f"{w}{n}", w, 2000) for w in ("a", "b") for n in (1, 2))
    )
    group = waits("group", 4000, replicas=2)
    state = begun(snapshot, [group])
    snapshot.release("a1/1/0")
    plan = follow(snapshot, state, [group], LATE + 1)
    assert plan.lane is not None
    assert [r.workers for r in plan.lane.reservations] == [("a", "b")]
    for key in ("a2", "b1", "b2"):
        snapshot.release(f"{key}/1/0")
    done = follow(snapshot, plan.lane, [group], LATE + 2)
    assert [(p.id, sorted(p.workers)) for p in done.placements] == [("group", ["a", "b"])]


def test_carriers_of_anti_terms_stay_away_from_reserved_workers() -> None:
    snapshot, big, state = half_drained()
    snapshot.remove_worker("b")
    queue = [waits("loner", 0, "other", anti=True), waits("easy", 0, "other")]
    plan = schedule(snapshot, queue, LATE + 2, lane=Lane(LANE, state, [big]))
    assert [(p.id, p.workers) for p in plan.placements] == [("easy", ("a",))]
    assert [(r.id, r.counts) for r in plan.rejections] == [("loner", ((Reason.RESERVED, "", 1),))]


# --- rules that hold for every cluster -------------------------------------------------------------------------------

worlds = st.randoms(use_true_random=False).map(world)
checked = settings(max_examples=60, deadline=None)


@checked
@given(worlds)
def test_the_lane_places_nothing_that_any_check_forbids(made: World) -> None:
    snapshot = made.snapshot()
    lane = Lane(LANE, generous(snapshot), made.pending)
    plan = schedule(snapshot, made.pending, LATE, lane=lane)
    by_id = {workload.id: workload for workload in made.pending}
    reference = Cluster(list(made.workers), list(made.charges), charged_nodes=made.charged_nodes)
    for placement in plan.placements:
        workload = by_id[placement.id]
        starts = reference.starting(workload)
        assert len(placement.workers) == workload.replicas
        for name in placement.workers:
            assert reference.fits(workload, reference.by_name[name], starts)
            reference.put(workload, name)
    decided = sorted([p.id for p in plan.placements] + [r.id for r in plan.rejections])
    assert decided == sorted(by_id)
    assert plan.lane is not None
    assert len({r.pool for r in plan.lane.reservations}) == len(plan.lane.reservations)


@checked
@given(worlds, st.randoms(use_true_random=False))
def test_equal_input_gives_an_equal_plan_whatever_order_members_come_in(made: World, rng: Random) -> None:
    first = schedule(made.snapshot(), made.pending, LATE, lane=Lane(LANE, LaneState(), made.pending))
    assert first.lane is not None
    snapshot = made.snapshot()
    state = LaneState(first.lane.members, accounts=generous(snapshot).accounts)
    left = [w for w in made.pending if w.id in state.members]
    shuffled = list(left)
    rng.shuffle(shuffled)
    one = schedule(snapshot, [], LATE + 1, lane=Lane(LANE, state, left))
    two = schedule(made.snapshot(), [], LATE + 1, lane=Lane(LANE, state, shuffled))
    assert (one.placements, one.lane) == (two.placements, two.lane)


@checked
@given(worlds)
def test_an_empty_lane_changes_no_plan(made: World) -> None:
    plan = schedule(made.snapshot(), made.pending, LATE)
    with_lane = schedule(made.snapshot(), made.pending, LATE, lane=Lane())
    assert (plan.placements, plan.rejections) == (with_lane.placements, with_lane.rejections)


# --- limits and the queue --------------------------------------------------------------------------------------------


def test_a_customer_at_its_limit_gets_no_more_and_no_turn_either() -> None:
    snapshot = cluster(worker("a"))
    queue = [waits("one", 100), waits("two", 100), waits("free", 100, "bolt")]
    plan = schedule(snapshot, queue, LATE, options=Options(remaining={"acme": 1}))
    assert [p.id for p in plan.placements] == ["one", "free"]
    assert [(r.id, r.counts) for r in plan.rejections] == [("two", ((Reason.CONCURRENCY, "acme", 1),))]
    text = summary(plan.rejections[0], running={"acme": (5, 5)})
    assert text == "customer acme runs 5 of its 5 concurrent workloads"
    lane = Lane(LANE, generous(snapshot), queue)
    limited = schedule(snapshot, queue, LATE, options=Options(remaining={"acme": 0}), lane=lane)
    assert [p.id for p in limited.placements] == ["free"]


def test_workloads_that_waited_are_listed_in_turns_of_their_classes_and_none_hides_another() -> None:
    wall = asks(100)
    same = [
        PendingWorkload(f"wall{n}", 1, 1, Subject("ns", "acme"), wall, queued_at=n, queue_class="wall")
        for n in range(9)
    ]
    queue = Queue(workloads=[*same, waits("other", 1, queued_at=50), waits("young", 1, queued_at=99)])
    assert [w.id for w in queue.waited(50, per_class=2)] == ["wall0", "other", "wall1"]
    assert [w.id for w in queue.waited(50, most=1)] == ["wall0"]


def test_matchers_keep_a_member_to_its_own_pools_share() -> None:
    """Capacity freed in pool q gives no turn in pool p."""
    snapshot = cluster(worker("a"), worker("b", pool="q"), charges=(runs("r", "b", 4000),))
    only_p = PendingWorkload(
        "only-p", 1, 1, Subject("ns", "acme"), Requirements((("cpu", 1), ("pods", 1)), Matcher(pools=("p",)))
    )
    state = begun(snapshot, [only_p])
    snapshot.release("r/1/0")
    assert follow(snapshot, state, [only_p], LATE + 1).placements == ()
