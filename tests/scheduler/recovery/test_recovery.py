"""Recovery: the next leader brings rows, objects and pods into agreement after any interruption of the last one."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.containment import Boundary
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.intake import object_to_row
from niyanta.store.rows import WorkloadRow
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, contained_errors, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


async def test_objects_that_no_leader_saw_become_rows(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    leader = make_leader()
    await leader.recover()
    row = await leader.row(uid)
    assert (row.phase, row.customer) == (Phase.PENDING, "acme")
    assert uid in leader.workloads.queue


async def test_a_committed_placement_without_pods_gets_them_under_the_same_attempt(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    hang = cluster.faults.hang("create_pod")
    uid = cluster.submit("job")
    await old.take_in(uid)
    await old.place(uid, "n1")
    await until(hang.reached.is_set, "the create is under way")
    await old.close()
    assert not cluster.live_pods(uid)
    leader = make_leader()
    await leader.recover()
    (name,) = await leader.pods_of(uid)
    assert name.endswith("-1-0")
    row = await leader.row(uid)
    assert (row.phase, row.attempt, row.failures) == (Phase.SCHEDULED, 1, 0)


async def test_only_the_missing_pods_of_a_group_are_created(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uid = await old.placed("group", "n1", "n1", "n1", replicas=3)
    await old.close()
    cluster.begin_deletion(cluster.live_pods(uid)[1], grace_seconds=0)
    kept = [pod.uid for pod in cluster.live_pods(uid)]
    await old.cluster.release_pod(cluster.pods(uid)[1])
    assert len(cluster.live_pods(uid)) == 2
    leader = make_leader()
    await leader.recover()
    await leader.pods_of(uid, 3)
    assert [pod.uid for pod in cluster.live_pods(uid)][::2] == kept[::2]
    assert (await leader.row(uid)).attempt == 1


async def test_a_running_workload_whose_pod_vanished_meanwhile_is_tried_again(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uid = await old.placed("job", "n1", backoffLimit=1)
    old.kubelet.run(uid)
    await old.observe(uid)
    await old.close()
    old.kubelet.lose(uid)
    leader = make_leader()
    await leader.recover()
    row = await leader.row(uid)
    assert (row.phase, row.failures, row.reason) == (Phase.PENDING, 1, "PodLost")


async def test_a_workload_that_ended_meanwhile_is_followed(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uid = await old.placed("job", "n1")
    await old.close()
    old.kubelet.succeed(uid)
    leader = make_leader()
    await leader.recover()
    assert (await leader.row(uid)).phase is Phase.SUCCEEDED


async def test_placements_of_the_last_leader_take_their_capacity(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    first = await old.placed("first", "n1", cpu="3")
    await old.close()
    leader = make_leader()
    await leader.start()
    second = cluster.submit("second", cpu="3")
    await leader.has_reason(second, "Unschedulable")
    assert (await leader.row(first)).phase is Phase.SCHEDULED


async def test_pods_of_no_attempt_are_removed(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    cluster.faults.fail("delete_pod", RuntimeError("lost"), times=None)
    uid = await old.placed("job", "n1")
    cluster.delete_object(uid)
    await old.take_gone(uid)
    await old.close()
    cluster.faults.clear("delete_pod")
    assert cluster.live_pods(uid)
    leader = make_leader()
    await leader.recover()
    leader.kubelet.stop(uid)
    await leader.pods_of(uid, 0)


async def test_pods_of_an_earlier_attempt_are_removed_before_the_next_is_placed(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uid = await old.placed("job", "n1", backoffLimit=1)
    old.kubelet.run(uid)
    await old.observe(uid)
    cluster.faults.fail("delete_pod", RuntimeError("lost"), times=None)
    await old.decide(uid, Event.RETRY)
    await old.close()
    cluster.faults.clear("delete_pod")
    leader = make_leader()
    await leader.start()
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the old pod is deleted")
    assert (await leader.row(uid)).phase is Phase.PENDING
    leader.kubelet.stop(uid)
    assert (await leader.reaches(uid, Phase.SCHEDULED)).attempt == 2


async def test_an_object_that_is_gone_cancels_its_workload_after_a_fresh_read(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uid = await old.placed("job", "n1")
    await old.close()
    cluster.delete_object(uid)
    before = cluster.faults.calls["get_workload"]
    leader = make_leader()
    await leader.recover()
    assert (await leader.row(uid)).phase is Phase.CANCELLED
    assert cluster.faults.calls["get_workload"] == before + 1


async def test_a_workload_that_the_list_lacks_but_a_fresh_read_finds_stays(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = await old.placed("job", "n1")
    await old.close()

    async def empty() -> list[dict[str, object]]:
        return []

    monkeypatch.setattr(cluster, "list_workloads", empty)
    leader = make_leader()
    await leader.recover()
    assert (await leader.row(uid)).phase is Phase.SCHEDULED
    assert cluster.live_pods(uid)


async def test_recovery_waits_for_postgres_and_the_api_server(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    cluster.away = True
    leader = make_leader()
    leader.outage.away = True
    leader.start_recovery()
    await until(lambda: leader.outage.refused > 0, "recovery meets the outage of Postgres")
    leader.outage.away = False
    await until(lambda: cluster.faults.calls["list_workloads"] > 0, "recovery meets the outage of the API server")
    assert not leader.recovered.is_set()
    cluster.away = False
    await leader.reaches(uid, Phase.SCHEDULED)


async def test_a_row_that_raises_leaves_the_others(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = [await old.placed(name, "n1", cpu="100m") for name in ("bad", "good")]
    old.kubelet.run(good)
    await old.close()
    read_row = object_to_row.read_row

    def fail(row: WorkloadRow, *args: Any, **kwargs: Any) -> Any:
        if row.id == bad:
            raise ZeroDivisionError
        return read_row(row, *args, **kwargs)

    monkeypatch.setattr(object_to_row, "read_row", fail)
    before = contained_errors(Boundary.ROW)
    leader = make_leader()
    await leader.recover()
    assert contained_errors(Boundary.ROW) > before
    assert (await leader.row(good)).phase is Phase.RUNNING
    assert cluster.live_pods(bad), "its pods are left alone"
