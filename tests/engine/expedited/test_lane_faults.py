"""The lane's work in one cycle is bounded, and an error in the handling of one member concerns that member alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.engine.expedited import lane as expedited
from niyanta.engine.expedited.lane_state import LaneState
from niyanta.engine.placement.placer import Placer
from niyanta.engine.schedule import Lane, schedule
from niyanta.engine.snapshot.bitset import Bits
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    ZONE_TOPOLOGY,
    Expression,
    Gpu,
    Op,
    PeerTerm,
    PendingWorkload,
    Reason,
    Requirements,
    Selector,
    Subject,
    WorkerInfo,
)
from tests.engine.expedited.lanes import LANE, LATE, begun, cluster, follow, generous, half_drained, runs, waits, worker

pytestmark = pytest.mark.unit

# --- bounds ----------------------------------------------------------------------------------------------------------


def gangs(count: int, *, replicas: int) -> tuple[Snapshot, LaneState, list[PendingWorkload]]:
    """Gangs that would fit an empty cluster but not this one; each has requirements of its own."""
    snapshot = cluster(*(worker(f"w{n}") for n in range(8)), charges=(runs("r", "w0", 4000), runs("s", "w1", 4000)))
    waiting = [waits(f"gang{n:03}", 1001 + n, replicas=replicas, queued_at=n) for n in range(count)]
    state = begun(snapshot, waiting)
    assert len(state.members) == count
    snapshot.release("r/1/0")
    return snapshot, LaneState(state.members, accounts=generous(snapshot).accounts), waiting


def test_the_lane_ends_at_its_limit_and_the_next_cycle_goes_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    attempt = Placer.attempt

    def counted(self: Placer, workload: PendingWorkload, blocked: Bits) -> list[int]:
        tried.append(workload.id)
        return attempt(self, workload, blocked)

    monkeypatch.setattr(Placer, "attempt", counted)
    monkeypatch.setattr(expedited, "MAX_STEPS_PER_CYCLE", 4 * 8 * 24)
    snapshot, state, waiting = gangs(20, replicas=24)
    seen: list[set[str]] = []
    for cycle in range(3):
        tried.clear()
        plan = follow(snapshot, state, waiting, LATE + 1 + cycle)
        assert plan.lane is not None
        assert len(tried) <= 10
        state = plan.lane
        seen.append(set(tried))
    assert set.union(*seen) == set(state.members)


def test_stop_is_polled_before_each_try_of_the_lane() -> None:
    snapshot, state, waiting = gangs(20, replicas=24)
    polls = []

    def stop() -> bool:
        polls.append(1)
        return len(polls) > 5

    plan = schedule(snapshot, waiting, LATE + 1, lane=Lane(LANE, state, waiting), stop=stop)
    assert plan.undecided == 20
    assert len(polls) <= 8
    assert plan.lane is not None
    assert set(plan.lane.members) == set(state.members)
    assert plan.lane.ended_at is not None


def test_a_reservation_is_kept_by_a_cycle_that_has_no_time() -> None:
    snapshot, big, state = half_drained()
    plan = schedule(snapshot, [big], LATE + 2, lane=Lane(LANE, state, [big]), stop=lambda: True)
    assert plan.lane is not None
    assert (plan.lane.reservations, plan.undecided) == (state.reservations, 1)


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["_is_possible", "_give_turn", "_reserve", "_charge", "_serve", "_kept"])
def test_a_member_whose_handling_raises_is_the_only_one_that_is_lost(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cluster(
        *(worker(f"w{n}") for n in range(4)), charges=tuple(runs(f"r{n}", f"w{n}", 4000) for n in range(3))
    )
    good = waits("good", 3000, "bolt", queued_at=1)
    bad = waits("bad", 4000, replicas=2 if where in ("_serve", "_kept", "_reserve") else 1)
    state = LaneState(accounts=generous(snapshot).accounts)
    if where != "_is_possible":
        state = LaneState(begun(snapshot, [bad, good]).members, accounts=state.accounts)
    if where in ("_serve", "_kept"):
        reserving = follow(snapshot, state, [bad, good], LATE + 1).lane
        assert reserving is not None
        state = LaneState(state.members, reserving.reservations, reserving.accounts)
    original = getattr(expedited.ExpeditedLane, where)

    def broken(self: expedited.ExpeditedLane, *args: object) -> object:
        if any(getattr(arg, "id", "") == "bad" for arg in args) or (where == "_charge" and not self.placer.faults):
            raise ZeroDivisionError("no  luck\nhere")
        return original(self, *args)

    monkeypatch.setattr(expedited.ExpeditedLane, where, broken)
    plan = schedule(snapshot, [bad, good], LATE + 2, lane=Lane(LANE, state, [bad, good]))
    assert [(f.id, f.version, f.text) for f in plan.faults] == [("bad", 1, "ZeroDivisionError: no luck here")]
    assert [p.id for p in plan.placements] == ["good"]
    assert plan.rejections == ()
    assert plan.lane is not None
    assert (dict(plan.lane.members), plan.lane.reservations) == ({}, ())


def test_a_gpu_node_without_its_device_plugin_is_no_error_in_the_lane() -> None:
    starting = replace(worker("a"), gpu=Gpu("A100", 8))
    snapshot = cluster(starting)
    asked = Requirements((("cpu", 1), ("pods", 1)), gpu_count=1, wants_gpu=True)
    gpu_work = PendingWorkload("gpu", 1, 1, Subject("ns", "acme"), asked)
    plan = schedule(snapshot, [gpu_work], LATE, lane=Lane(LANE, generous(snapshot), [gpu_work]))
    assert plan.faults == ()
    assert plan.lane is not None
    assert dict(plan.lane.members) == {}
    assert [(r.id, r.counts) for r in plan.rejections] == [("gpu", ((Reason.TOO_SMALL, "nvidia.com/gpu", 1),))]


def test_a_group_near_itself_gets_its_workers_reserved_in_one_zone() -> None:
    def zoned(name: str, zone: str) -> WorkerInfo:
        return replace(worker(name), labels=((ZONE_TOPOLOGY, zone),))

    near = PeerTerm(Selector(labels=(Expression("app", Op.EXISTS),)), ZONE_TOPOLOGY)
    group = waits("group", 3000, anti=True, replicas=2)
    group = replace(group, requirements=replace(group.requirements, anti=(), near=(near,)))
    nodes = (zoned("a", "z1"), zoned("b", "z2"), zoned("c", "z2"), zoned("d", "z3"))
    snapshot = cluster(*nodes, charges=tuple(runs(f"r{name}", name, 4000) for name in ("b", "c")))
    three = replace(group, id="three", replicas=3)
    state = LaneState(begun(snapshot, [group, three]).members, accounts=generous(snapshot).accounts)
    assert set(state.members) == {"group"}, "no zone could ever hold three"
    plan = follow(snapshot, state, [group], LATE + 1)
    assert plan.lane is not None
    assert [r.workers for r in plan.lane.reservations] == [("b", "c")], "a and d are free, but apart"


def test_a_closed_pool_takes_no_member_of_another_customer() -> None:
    snapshot = cluster(replace(worker("a"), customers=frozenset({"bolt"})))
    mine, theirs = waits("mine", 1000), waits("theirs", 1000, "bolt")
    plan = schedule(snapshot, [], LATE, lane=Lane(LANE, generous(snapshot), [mine, theirs]))
    assert [p.id for p in plan.placements] == ["theirs"]
    assert plan.lane is not None
    assert dict(plan.lane.members) == {}
