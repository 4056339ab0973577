"""Pending reasons: the latest one of each workload is kept until it is written."""

from __future__ import annotations

from typing import cast

import pytest

from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, PoolFit
from niyanta.scheduler.cluster_api import ClusterReports
from niyanta.scheduler.demand.sizing_result import SizingResult
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.postgres.clock import Clock
from niyanta.store.state import StateManager
from tests.fakes.cluster import FakeCluster
from tests.scheduler.conftest import MakeLeader


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
