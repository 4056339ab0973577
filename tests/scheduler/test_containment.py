"""Errors injected at each boundary of the leader: the workload at fault is parked, and a bystander is placed under the
same epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from niyanta.bounded_json import VIOLATION_KEY
from niyanta.containment import CONTAINED_ERRORS, Boundary
from niyanta.engine.placement.placer import Placer
from niyanta.engine.types import PendingWorkload
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.backlog.row_changes import RowChanges
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.eligibility import EligibilityCheck
from niyanta.scheduler.intake.reviews import Reviews
from niyanta.scheduler.periodic.timers import LeaderTimers
from niyanta.scheduler.placing.cycle import Cycle
from niyanta.scheduler.pods.observer import PodObserver
from niyanta.scheduler.transitions import Transitions
from niyanta.store.errors import StoreError
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


class InjectedError(Exception):
    """Raised by code under test that the test replaced. Its text must not be shown to users."""


def counted(boundary: Boundary) -> float:
    return float(CONTAINED_ERRORS.labels(boundary.value)._value.get())


async def bystander_is_placed(leader: LeaderUnderTest) -> None:
    uid = leader.cluster.submit("bystander", namespace="other", cpu="100m")
    assert (await leader.reaches(uid, Phase.SCHEDULED)).workers
    assert leader.task is not None
    assert not leader.task.done()


async def is_held(leader: LeaderUnderTest, uid: str) -> None:
    """A workload is Held with a message that names the error's type only."""
    row = await leader.reaches(uid, Phase.HELD)
    assert row.reason == "InternalError"
    assert "secret" not in row.message
    await until(lambda: ("Held", True) in [(e.reason, e.warning) for e in leader.cluster.events], "an Event tells it")


def raising(original: Callable[..., Any], wrong: Callable[..., bool]) -> Callable[..., Any]:
    """`original`, which raises for the arguments that `wrong` accepts."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        if wrong(*args, **kwargs):
            raise InjectedError("secret")
        return original(*args, **kwargs)

    return checked


async def test_an_object_that_raises_when_it_is_read_is_held_and_read_again_when_it_changes(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = counted(Boundary.OBJECT)
    with monkeypatch.context() as patch:
        wrong = raising(object_to_row.read_object, lambda obj, *_: obj["metadata"]["name"] == "bad")
        patch.setattr(object_to_row, "read_object", wrong)
        uid = cluster.submit("bad", replicas=2)
        await bystander_is_placed(leader)
        await is_held(leader, uid)
    assert counted(Boundary.OBJECT) > before
    assert not (await leader.row(uid)).spec
    cluster.edit(uid, priority=7)
    placed = await leader.reaches(uid, Phase.SCHEDULED)
    assert (placed.priority, len(placed.workers)) == (7, 2)


async def test_an_object_that_raised_is_read_again_by_the_next_leader(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_leader()
    await first.recover()
    with monkeypatch.context() as patch:
        patch.setattr(object_to_row, "read_object", raising(object_to_row.read_object, lambda *_: True))
        uid = cluster.submit("bad")
        await first.take_in(uid)
    assert (await first.row(uid)).phase is Phase.HELD
    second = make_leader()
    await second.start()
    await second.reaches(uid, Phase.SCHEDULED)


async def test_an_object_whose_row_postgres_refuses_is_held_alone(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    def refuse(intakes: Sequence[Any], **_: Any) -> None:
        if any(intake.spec and intake.name == "bad" for intake in intakes):
            raise StoreError("DataError: secret")

    leader.outage.before["take_in"] = refuse
    uids = [cluster.submit(name) for name in ("good", "bad")]
    await bystander_is_placed(leader)
    await is_held(leader, uids[1])
    await leader.reaches(uids[0], Phase.SCHEDULED)


async def test_an_object_out_of_bounds_fails_and_says_why(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = make_leader()
    uid = cluster.submit("deep")
    cluster.objects[uid] |= {VIOLATION_KEY: "at most 64 levels of lists and objects are allowed", "spec": {}}
    await leader.take_in(uid)
    row = await leader.row(uid)
    assert (row.phase, row.reason, row.spec) == (Phase.FAILED, "InvalidSpec", {})
    assert "64 levels" in row.message


async def test_a_workload_that_raises_when_it_is_queued_is_held(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = raising(Transitions.settle, lambda _, tracked: tracked.row.name == "bad" and not tracked.parked)
    monkeypatch.setattr(Transitions, "settle", wrong)
    uid = cluster.submit("bad")
    await bystander_is_placed(leader)
    await is_held(leader, uid)


async def test_a_workload_whose_placement_postgres_refuses_is_held(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    bad: set[str] = set()

    def refuse(changes: Sequence[Any], **_: Any) -> None:
        if any(change.id in bad and change.event is Event.PLACE for change in changes):
            raise StoreError("DataError: secret")

    leader.outage.before["update_workload_status_batch"] = refuse
    uid = cluster.submit("bad")
    bad.add(uid)
    await bystander_is_placed(leader)
    await is_held(leader, uid)


async def test_a_workload_that_raises_after_its_placement_goes_back_and_is_held(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transitions, "start", raising(Transitions.start, lambda _, tracked: tracked.row.name == "bad"))
    uid = cluster.submit("bad")
    await bystander_is_placed(leader)
    await is_held(leader, uid)
    assert not cluster.live_pods(uid)


async def test_a_workload_on_which_the_engine_raises_is_held(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: set[str] = set()
    decide = Placer._decide

    def faulty(placer: Placer, workload: PendingWorkload) -> None:
        if workload.id in bad:
            raise InjectedError("secret")
        decide(placer, workload)

    monkeypatch.setattr(Placer, "_decide", faulty)
    uid = cluster.submit("bad")
    bad.add(uid)
    await bystander_is_placed(leader)
    await is_held(leader, uid)


async def test_a_workload_that_raises_in_a_review_is_held_and_others_follow_the_customer(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = cluster.submit("bad", cpu="8"), cluster.submit("good", cpu="8")
    await leader.has_reason(bad, "Unschedulable")
    await leader.has_reason(good, "Unschedulable")
    eligible = EligibilityCheck.of
    monkeypatch.setattr(EligibilityCheck, "of", raising(eligible, lambda _, t: t.id == bad and not t.parked))
    cluster.delete_customer("acme")
    await leader.has_reason(good, "NoCustomer")
    await is_held(leader, bad)


async def test_a_reason_that_postgres_refuses_hides_no_other(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    bad: set[str] = set()

    def refuse(notes: Sequence[Any], **_: Any) -> None:
        if any(note.id in bad for note in notes):
            raise StoreError("DataError: secret")

    leader.outage.before["note_pending"] = refuse
    bad.add(cluster.submit("bad", cpu="8"))
    await leader.has_reason(cluster.submit("good", cpu="8"), "Unschedulable")
    await bystander_is_placed(leader)


async def test_pods_whose_observation_raises_hide_no_others(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = [cluster.submit(name) for name in ("bad", "good")]
    for uid in uids:
        await leader.pods_of(uid)
    observe = PodObserver.observe

    async def faulty(self: PodObserver, workload_ids: Sequence[str]) -> None:
        if uids[0] in workload_ids:
            raise InjectedError("secret")
        await observe(self, workload_ids)

    monkeypatch.setattr(PodObserver, "observe", faulty)
    for uid in uids:
        leader.kubelet.run(uid)
    await leader.reaches(uids[1], Phase.RUNNING)
    await bystander_is_placed(leader)


@pytest.mark.parametrize(("part", "method"), [(LeaderTimers, "run"), (RowChanges, "follow"), (Reviews, "run_slice")])
async def test_a_phase_that_always_raises_stops_no_other(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, part: type, method: str
) -> None:
    calls = 0

    async def faulty(_: Any) -> None:
        nonlocal calls
        calls += 1
        raise InjectedError("secret")

    await leader.has_reason(cluster.submit("waits", cpu="8"), "Unschedulable")
    before = counted(Boundary.PHASE)
    monkeypatch.setattr(part, method, faulty)
    cluster.set_customer("acme", "*", "team", tier="Premium")
    await bystander_is_placed(leader)
    await until(lambda: calls, "the phase was tried")
    assert counted(Boundary.PHASE) > before


async def test_a_cycle_that_raises_is_repeated(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, failures = Cycle.run, [InjectedError("secret"), InjectedError("secret")]

    async def faulty(self: Cycle) -> bool:
        if failures:
            raise failures.pop()
        return await run(self)

    monkeypatch.setattr(Cycle, "run", faulty)
    await bystander_is_placed(leader)


async def test_recovery_that_raises_is_repeated(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = make_leader()
    cluster.faults.fail("list_workloads", InjectedError("secret"))
    await leader.start()
    await bystander_is_placed(leader)
