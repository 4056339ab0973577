"""The cycle: order of placement, limits of customers, batches, and the report on work that is left."""

from __future__ import annotations

import pytest

from niyanta.containment import Boundary
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import Reason
from niyanta.lifecycle import Phase
from niyanta.scheduler.placing.cycle import Cycle
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, contained_errors, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


async def recovered(make_leader: MakeLeader, **settings: object) -> LeaderUnderTest:
    """A leader after recovery, without its loop."""
    leader = make_leader(**settings)
    await leader.recover()
    return leader


async def phases(leader: LeaderUnderTest, uids: list[str]) -> list[Phase]:
    return [row.phase for row in await leader.rows(uids)]


async def test_the_higher_priority_gets_the_last_room(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = await recovered(make_leader)
    low, high = cluster.submit("low", cpu="3"), cluster.submit("high", cpu="3", priority=100)
    await leader.take_in(low, high)
    await leader.run_cycle()
    assert await phases(leader, [low, high]) == [Phase.PENDING, Phase.SCHEDULED]


async def test_a_customer_runs_at_most_its_limit(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    cluster.set_customer("acme", "*", maxConcurrent=1)
    leader = await recovered(make_leader)
    uids = [cluster.submit(f"job-{number}") for number in range(3)]
    await leader.take_in(*uids)
    await leader.run_cycle()
    assert (await phases(leader, uids)).count(Phase.SCHEDULED) == 1
    await leader.write_reasons()
    waiting = [row for row in await leader.rows(uids) if row.phase is Phase.PENDING]
    assert {row.reason for row in waiting} == {Reason.CONCURRENCY.value}


async def test_a_cycle_whose_time_is_over_asks_for_another_one(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = await recovered(make_leader, max_cycle_seconds=1e-9)
    uids = [cluster.submit(f"job-{number}", cpu="10m") for number in range(40)]
    await leader.take_in(*uids)
    assert await leader.run_cycle()
    assert 0 < (await phases(leader, uids)).count(Phase.SCHEDULED) < len(uids)
    assert not await leader.run_cycle()
    assert await phases(leader, uids) == [Phase.SCHEDULED] * len(uids)


async def test_placements_take_capacity_before_the_next_cycle(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = await recovered(make_leader)
    first, second = cluster.submit("first", cpu="3"), cluster.submit("second", cpu="3")
    await leader.take_in(first)
    await leader.run_cycle()
    await leader.take_in(second)
    await leader.run_cycle()
    assert await phases(leader, [first, second]) == [Phase.SCHEDULED, Phase.PENDING]


async def test_a_row_that_another_process_changed_is_left_out_of_the_plan(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job", cpu="8")
    await leader.has_reason(uid, "Unschedulable")
    cluster.delete_object(uid)
    cluster.add_node("n2", cpu="16")
    await leader.reaches(uid, Phase.CANCELLED)
    await until(lambda: uid not in leader.workloads, "the workload leaves memory")
    assert not cluster.live_pods(uid)


async def test_room_of_a_workload_that_may_no_longer_be_placed_goes_to_the_next_cycle(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    leader = await recovered(make_leader)
    first, second = cluster.submit("first", namespace="closed", cpu="4"), cluster.submit("second", cpu="4")
    await leader.take_in(first, second)
    cluster.enabled_namespaces["closed"] = False  # nothing tells the leader
    assert await leader.run_cycle()
    assert [(row.phase, row.reason) for row in await leader.rows([first, second])] == [
        (Phase.HELD, "NamespaceNotEnabled"),
        (Phase.PENDING, ""),
    ]
    assert not await leader.run_cycle()
    assert (await leader.row(second)).phase is Phase.SCHEDULED


async def test_a_change_of_the_cluster_that_raises_is_followed_by_the_whole_state(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await recovered(make_leader)
    uids = [cluster.submit(f"job-{number}", cpu="3") for number in range(2)]
    await leader.run_cycle()
    await leader.take_in(*uids)
    before = contained_errors(Boundary.DELTA)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "upsert_worker", lambda *_: 1 / 0)
        cluster.add_node("n2")
        assert await leader.run_cycle(), "the cluster is to be read again"
    assert contained_errors(Boundary.DELTA) > before
    assert set(await phases(leader, uids)) == {Phase.PENDING, Phase.SCHEDULED}, "only n2 is unknown"
    await leader.run_cycle()
    assert await phases(leader, uids) == [Phase.SCHEDULED] * 2


async def test_no_change_of_the_cluster_is_lost_when_a_cycle_fails_before_the_engine(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await recovered(make_leader)
    uid = cluster.submit("large", cpu="64")
    await leader.take_in(uid)
    await leader.run_cycle()
    cluster.add_node("large", cpu="64")
    with monkeypatch.context() as patched:
        patched.setattr(Cycle, "_lane_input", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await leader.run_cycle()
    await leader.run_cycle()
    assert await phases(leader, [uid]) == [Phase.SCHEDULED]
