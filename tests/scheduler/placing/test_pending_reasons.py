"""Pending reasons: the latest one of each workload is kept until it is written."""

from __future__ import annotations

from typing import Any, cast

import pytest

from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, PoolFit
from niyanta.scheduler.cluster_api import ClusterReports
from niyanta.scheduler.demand.sizing_result import SizingResult
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.postgres.clock import Clock
from niyanta.store.state import StateManager
from tests.fakes import objects
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest
from tests.scheduler.conftest import MakeLeader, SubmitRest

TIMERS = "niyanta.scheduler.placing.pending_reasons."
CLASS = "ab" * 16


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing waits for its time."""
    for name in ("AWAIT_SIZING_SECONDS", "LOOK_EVERY_SECONDS", "REPEAT_AFTER_SECONDS", "SETTLED_AFTER_SECONDS"):
        monkeypatch.setattr(TIMERS + name, 0.0)
    return monkeypatch


def _spec(**more: Any) -> dict[str, Any]:
    return objects.restricted(objects.workload("", **more)["spec"])


async def _explain(leader: LeaderUnderTest) -> None:
    for _ in range(2):  # a row without a class gets one first
        await leader.follow_changes()
        await leader.load_backlog()
    await leader.run_cycle()
    leader.reasons.collect()
    await leader.write_reasons()


async def _states(leader: LeaderUnderTest, *ids: str) -> dict[str, str]:
    """Class -> message of its state, of the classes of these rows."""
    keys = {(row.customer, row.queue_class) for row in await leader.rows(ids)}
    return {name: found.message for (_, name), found in (await leader.store.get_class_states(keys)).items()}


@pytest.mark.store
async def test_the_state_of_a_refused_class_is_written_and_follows_its_reasons(
    make_leader: MakeLeader, submit_rest: SubmitRest, cluster: FakeCluster, at_once: pytest.MonkeyPatch
) -> None:
    leader = make_leader()
    await leader.recover()
    ids = await submit_rest("a", "b", queue_class=CLASS, spec=_spec(cpu="64"))
    other = await submit_rest("c", queue_class="cd" * 16, spec=_spec(cpu="32"))
    fits = await submit_rest("d", queue_class="ef" * 16, spec=_spec(cpu="1"))
    without = await submit_rest("e", queue_class="", spec=_spec(cpu="16"))
    await _explain(leader)
    (first, second) = await leader.rows(ids)
    assert first.queue_class == second.queue_class
    states = await _states(leader, *ids, *other, *fits)
    assert sorted(states.values()) == ["0/1 workers: 1 have less than 32 cpu", "0/1 workers: 1 have less than 64 cpu"]
    assert (await leader.rows(without))[0].reason == "Unschedulable"
    key = "acme", first.queue_class
    found = (await leader.store.get_class_states([key]))[key]
    assert found.reasons[:2] == [["WorkerTooSmall", "cpu", 1], {"needs": ["with at least 64 cpu"]}]
    assert found.reason == "Unschedulable"
    cluster.add_node("n2", cpu="64", ready=False)
    leader.workloads.queue.wake_all()
    await _explain(leader)
    assert "1 not ready" in (await _states(leader, *ids))[first.queue_class]
    later = (await leader.store.get_class_states([key]))[key]
    assert later.since > found.since


@pytest.mark.store
async def test_the_needed_worker_is_noted_once_sizing_knows_that_no_empty_one_holds_the_pod(
    make_leader: MakeLeader, cluster: FakeCluster, at_once: pytest.MonkeyPatch
) -> None:
    leader = make_leader()
    await leader.recover()
    await leader.placed("other", "n1", cpu="1")
    uid = cluster.submit("job", cpu="4")
    await leader.take_in(uid)
    needed = "with 4 cpu beside the pods that are not Niyanta's"
    for fit, expected in ((FitKind.FULL, []), (FitKind.NOWHERE, [needed])):
        leader.sized(SizingResult({uid: PoolFit(fit, "pool-a" if fit is FitKind.FULL else "")}))
        await leader.run_cycle()
        leader.reasons.collect()
        await leader.write_reasons()
        reasons = await leader.store.get_reasons(uid)
        assert reasons[0] == ["InsufficientResource", "cpu", 1]
        assert [item["needs"] for item in reasons if "needs" in item] == ([expected] if expected else [])


@pytest.mark.store
async def test_a_flapping_node_writes_no_state(
    make_leader: MakeLeader, submit_rest: SubmitRest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWAIT_SIZING_SECONDS", "LOOK_EVERY_SECONDS"):
        monkeypatch.setattr(TIMERS + name, 0.0)
    leader = make_leader()
    await leader.recover()
    ids = await submit_rest("a", queue_class=CLASS, spec=_spec(cpu="64"))
    await _explain(leader)
    first = await _states(leader, *ids)
    assert len(first) == 1
    written: list[Any] = []
    leader.outage.before["write_class_states"] = lambda states, epoch: written.append(states)
    for step in range(6):
        cluster.add_node("flap", cpu="8", ready=step % 2 == 0)  # another reason, which doesn't settle
        leader.workloads.queue.wake_all()
        await _explain(leader)
    assert await _states(leader, *ids) == first
    assert written == []


@pytest.mark.store
async def test_changed_counts_alone_write_no_state(
    make_leader: MakeLeader, submit_rest: SubmitRest, cluster: FakeCluster, at_once: pytest.MonkeyPatch
) -> None:
    leader = make_leader()
    await leader.recover()
    ids = await submit_rest("a", queue_class=CLASS, spec=_spec(cpu="64"))
    await _explain(leader)
    first = await _states(leader, *ids)
    cluster.add_node("n2", cpu="4")
    leader.workloads.queue.wake_all()
    ids += await submit_rest("b", queue_class=CLASS, spec=_spec(cpu="64"))
    await _explain(leader)
    assert await _states(leader, *ids) == first
    assert {row.message for row in await leader.rows(ids[1:])} == {"0/2 workers: 2 have less than 64 cpu"}


@pytest.mark.store
async def test_the_state_of_a_class_that_waits_no_longer_is_deleted(
    make_leader: MakeLeader, submit_rest: SubmitRest, cluster: FakeCluster, at_once: pytest.MonkeyPatch
) -> None:
    at_once.setattr("niyanta.scheduler.placing.class_states.DELETE_AFTER_SECONDS", 0.0)
    leader = make_leader()
    await leader.recover()
    ids = await submit_rest("a", queue_class=CLASS, spec=_spec(cpu="8"))
    await _explain(leader)
    assert len(await _states(leader, *ids)) == 1
    cluster.add_node("n2", cpu="8")
    await _explain(leader)
    (row,) = await leader.rows(ids)
    assert row.workers == ("n2",)
    leader.reasons.collect()
    await leader.write_reasons()
    assert await _states(leader, *ids) == {}


@pytest.mark.store
async def test_a_class_that_is_refused_again_soon_keeps_its_state(
    make_leader: MakeLeader, submit_rest: SubmitRest, cluster: FakeCluster, at_once: pytest.MonkeyPatch
) -> None:
    """Its workloads in memory were placed, and the next ones are loaded."""
    leader = make_leader()
    await leader.recover()
    ids = await submit_rest("a", queue_class=CLASS, spec=_spec(cpu="8"))
    await _explain(leader)
    cluster.add_node("n2", cpu="8")
    await _explain(leader)
    leader.reasons.collect()
    ids += await submit_rest("b", queue_class=CLASS, spec=_spec(cpu="8"))
    at_once.setattr("niyanta.scheduler.placing.class_states.DELETE_AFTER_SECONDS", 0.0)
    await leader.follow_changes()
    await leader.run_cycle()
    leader.reasons.collect()
    await leader.write_reasons()
    assert set((await _states(leader, *ids)).values()) == {"0/2 workers: 1 have less than 8 cpu, 1 insufficient cpu"}


@pytest.mark.store
async def test_a_new_leader_writes_only_states_that_hold_no_longer(
    make_leader: MakeLeader, submit_rest: SubmitRest, cluster: FakeCluster, at_once: pytest.MonkeyPatch
) -> None:
    leader = make_leader()
    await leader.recover()
    ids = await submit_rest("a", queue_class=CLASS, spec=_spec(cpu="64"))
    ids += await submit_rest("b", queue_class="cd" * 16, spec=_spec(cpu="8"))
    await _explain(leader)
    before = await _states(leader, *ids)
    await leader.close()
    cluster.add_node("n2", cpu="4")  # a count
    successor = make_leader()
    await successor.recover()
    written: list[Any] = []
    successor.outage.before["write_class_states"] = lambda states, epoch: written.extend(states)
    await _explain(successor)
    assert await _states(successor, *ids) == before
    assert written == []
    cluster.add_node("n3", cpu="8", ready=False)
    successor.workloads.queue.wake_all()
    await _explain(successor)
    assert len(written) == 2


@pytest.mark.store
async def test_states_are_written_in_bounded_parts_and_survive_an_outage(
    make_leader: MakeLeader, submit_rest: SubmitRest, at_once: pytest.MonkeyPatch
) -> None:
    at_once.setattr("niyanta.scheduler.placing.class_states.STATES_PER_WRITE", 2)
    leader = make_leader()
    await leader.recover()
    ids = [
        *await submit_rest("a", queue_class="a" * 32, spec=_spec(cpu="61")),
        *await submit_rest("b", queue_class="b" * 32, spec=_spec(cpu="62")),
        *await submit_rest("c", queue_class="c" * 32, spec=_spec(cpu="63")),
    ]
    await leader.follow_changes()
    await leader.run_cycle()
    leader.reasons.collect()
    leader.outage.away = True
    with pytest.raises(StoreUnavailableError):
        await leader.write_reasons()
    leader.outage.away = False
    seen = []
    while leader.reasons.has_unwritten:
        await leader.write_reasons()
        seen.append(len(await _states(leader, *ids)))
    assert seen == [2, 3]


@pytest.mark.unit
async def test_the_latest_reason_of_a_workload_counts() -> None:
    state = SchedulerState.of_leadership(1, Settings(dsn="x"), clock=cast(Clock, None))
    reasons = PendingReasons(state, store=cast(StateManager, None), cluster=cast(ClusterReports, None))
    reasons.add("u", "R", "one")
    reasons.add("u", "R", "two")
    assert [reason.message for reason in reasons.unwritten] == ["two"]
    await reasons.write()
    assert not reasons.unwritten


@pytest.mark.store
async def test_a_flapping_node_writes_nothing_for_the_work_that_waits(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kinds of reasons change with each flap, and the class is refused anew each time."""
    leader = make_leader()
    await leader.recover()
    uids = [cluster.submit(f"job-{number}", cpu="64") for number in range(30)]
    await leader.take_in(*uids)
    await leader.run_cycle()
    monkeypatch.setattr("niyanta.scheduler.placing.pending_reasons.AWAIT_SIZING_SECONDS", 0.0)
    reasons = leader.reasons
    reasons.collect()
    assert len(reasons.unwritten) == len(uids)
    await leader.write_reasons()
    versions = {row.id: (row.reason, row.message) for row in await leader.rows(uids)}
    assert {reason for reason, _ in versions.values()} == {"Unschedulable"}
    for step in range(6):
        cluster.add_node("flap", cpu="8", ready=step % 2 == 0)
        leader.workloads.queue.wake_all()
        await leader.run_cycle()
        reasons.collect()
        assert reasons.unwritten == []
    assert {row.id: (row.reason, row.message) for row in await leader.rows(uids)} == versions


@pytest.mark.store
async def test_a_workload_that_joins_a_refused_class_is_explained(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("niyanta.scheduler.placing.pending_reasons.AWAIT_SIZING_SECONDS", 0.0)
    monkeypatch.setattr("niyanta.scheduler.placing.pending_reasons.LOOK_EVERY_SECONDS", 0.0)
    leader = make_leader()
    await leader.recover()
    first = cluster.submit("first", cpu="64")
    await leader.take_in(first)
    await leader.run_cycle()
    second = cluster.submit("second", cpu="64")
    await leader.take_in(second)
    assert not await leader.run_cycle()  # nothing is decided: the class is parked
    leader.reasons.collect()
    await leader.write_reasons()
    assert {row.reason for row in await leader.rows([first, second])} == {"Unschedulable"}


@pytest.mark.store
async def test_a_workload_says_so_when_it_fits_another_pool_than_the_first_of_its_class(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOOK_EVERY_SECONDS", "REPEAT_AFTER_SECONDS", "SETTLED_AFTER_SECONDS"):
        monkeypatch.setattr(f"niyanta.scheduler.placing.pending_reasons.{name}", 0.0)
    leader = make_leader()
    await leader.recover()
    uids = [cluster.submit(name, cpu="64") for name in ("first", "second")]
    await leader.take_in(*uids)
    pools = EmptyPool("pool-a"), EmptyPool("pool-b")
    first, second = uids
    for pool, fit in (("pool-b", FitKind.NEW), ("pool-a", FitKind.FULL)):
        fits = {first: PoolFit(FitKind.NEW, "pool-a"), second: PoolFit(fit, pool)}
        leader.sized(SizingResult(fits, pools=pools))
        await leader.run_cycle()
        leader.reasons.collect()
        await leader.write_reasons()
        rows = {row.id: row.message for row in await leader.rows(uids)}
        assert "pool-a" in rows[first]
        assert pool in rows[second]
