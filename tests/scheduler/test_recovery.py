"""Recovery: the next leader brings rows, objects and pods into agreement after any interruption of the last one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.periodic import maintenance
from niyanta.scheduler.recovery import missing_objects
from niyanta.store.postgres.pool import Pool
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader, SubmitRest

pytestmark = pytest.mark.store


def metric(name: str, **labels: str) -> float | None:
    """A sample; None if there is none."""
    return REGISTRY.get_sample_value(name, labels)


@pytest.fixture
async def old(make_leader: MakeLeader) -> LeaderUnderTest:
    """The leader before, which a test drives by hand and closes."""
    leader = make_leader()
    await leader.recover()
    return leader


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
    uid = await old.placed("job", "n1", maxRetries=1)
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
    uid = await old.placed("job", "n1", maxRetries=1)
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


# --- missing objects --------------------------------------------------------------------------------------------------


async def deleted_meanwhile(old: LeaderUnderTest, uids: Iterable[str]) -> None:
    """Users delete objects while nobody leads; kubelets haven't ended the pods yet."""
    await old.close()
    for uid in uids:
        old.cluster.delete_object(uid)


async def test_a_mass_deletion_holds_the_rows_of_that_customer_alone(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    cluster.set_customer("umbrella", "lab")
    lost = [cluster.submit(f"lost-{number}", cpu="100m") for number in range(12)]
    kept = [cluster.submit(f"kept-{number}", cpu="100m", namespace="lab") for number in range(30)]
    one = cluster.submit("one", namespace="lab")
    await old.take_in(*lost, *kept, one)
    await deleted_meanwhile(old, [*lost, one])
    leader = make_leader()
    await leader.start()
    for uid in kept:
        await leader.reaches(uid, Phase.SCHEDULED)
    assert (await leader.row(one)).phase is Phase.CANCELLED, "a few deletions of a customer are believed"
    await leader.has_reason(lost[0], "ObjectMissing")
    assert {row.phase for row in await leader.rows(lost)} == {Phase.PENDING}
    assert not any(uid in leader.workloads.queue for uid in lost)
    assert metric("niyanta_held_missing_objects", customer="acme") == 12
    bystander = cluster.submit("bystander", cpu="100m")
    await leader.reaches(bystander, Phase.SCHEDULED)


async def test_namespaces_of_a_customer_of_all_namespaces_are_judged_one_by_one(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [cluster.submit(f"lost-{number}", cpu="100m") for number in range(12)]
    one = cluster.submit("one", namespace="lab")
    other = cluster.submit("other", namespace="lab")
    await old.take_in(*lost, one, other)
    await deleted_meanwhile(old, [*lost, one])
    resolve = cluster.resolve_customer
    monkeypatch.setattr(cluster, "resolve_customer", lambda *args: replace(resolve(*args), wildcard=True))
    leader = make_leader()
    await leader.recover()
    assert (await leader.row(one)).phase is Phase.CANCELLED
    assert {row.phase for row in await leader.rows(lost)} == {Phase.PENDING}


async def test_held_rows_keep_their_placement_until_their_objects_are_back(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_objects, "FIRST_LIST_SECONDS", 0.01)
    monkeypatch.setattr(maintenance, "MISSING_OBJECTS_EVERY_SECONDS", 0.01)
    running = await old.placed("running", "n1", cpu="100m", maxRetries=0)
    old.kubelet.run(running)
    await old.observe(running)
    waiting = [cluster.submit(f"job-{number}", cpu="100m") for number in range(12)]
    await old.take_in(*waiting)
    await old.close()
    kept, cluster.objects = cluster.objects, {}
    leader = make_leader()
    await leader.start()
    leader.kubelet.lose(running)
    await leader.has_reason(running, "ObjectMissing")
    assert (await leader.row(running)).phase is Phase.RUNNING, "its outcome isn't decided while its object is missing"
    cluster.objects = kept
    for uid in waiting:
        await leader.reaches(uid, Phase.SCHEDULED)
    assert (await leader.reaches(running, Phase.FAILED)).reason == "PodLost"
    assert metric("niyanta_held_missing_objects", customer="acme") is None


async def test_without_any_object_rest_submissions_are_placed(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, submit_rest: SubmitRest
) -> None:
    uids = [cluster.submit(f"job-{number}", cpu="100m") for number in range(12)]
    await old.take_in(*uids)
    await old.close()
    cluster.objects.clear()
    leader = make_leader()
    await leader.start()
    (rest,) = await submit_rest("rest")
    await leader.reaches(rest, Phase.SCHEDULED)
    assert {row.phase for row in await leader.rows(uids)} == {Phase.PENDING}


async def test_a_kind_that_is_gone_cancels_nothing_and_ends_no_leadership(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uid = await old.placed("job", "n1")
    await old.close()
    kept, cluster.objects = cluster.objects, {}
    cluster.kind_gone = True
    leader = make_leader()
    await leader.recover()
    assert (await leader.row(uid)).phase is Phase.SCHEDULED
    assert leader.tracked(uid).object_missing
    cluster.objects, cluster.kind_gone = kept, False
    await until(lambda: released(leader, uid), "the workload is released")


async def test_deletions_reported_with_the_kind_gone_are_held_by_the_running_leader(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    cluster.kind_gone = True
    cluster.delete_object(uid)
    await leader.has_reason(uid, "ObjectMissing")
    cluster.kind_gone = False
    assert (await leader.row(uid)).phase is Phase.RUNNING
    other = cluster.submit("other")
    await leader.is_running(other)


async def test_an_administrator_confirms_the_deletions(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uids = [cluster.submit(f"job-{number}", cpu="100m") for number in range(12)]
    await old.take_in(*uids)
    await deleted_meanwhile(old, uids)
    leader = make_leader()
    await leader.recover()
    now = datetime.now(tz=UTC)
    cluster.annotate_customer("acme", {missing_objects.CONFIRM: (now - timedelta(hours=1)).isoformat()})
    await leader.check_missing_objects()
    assert {row.phase for row in await leader.rows(uids)} == {Phase.PENDING}, "a confirmation of an earlier loss"
    cluster.annotate_customer("acme", {missing_objects.CONFIRM: now.isoformat()})
    await leader.check_missing_objects()
    assert {row.phase for row in await leader.rows(uids)} == {Phase.CANCELLED}
    assert metric("niyanta_held_missing_objects", customer="acme") is None


async def test_an_object_made_again_under_the_same_name_shows_that_the_first_was_deleted(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uids = [cluster.submit(f"job-{number}", cpu="100m") for number in range(12)]
    await old.take_in(*uids)
    await deleted_meanwhile(old, uids)
    again = [cluster.submit(f"job-{number}", cpu="100m") for number in range(12)]
    leader = make_leader()
    await leader.recover()
    assert {row.phase for row in await leader.rows(uids)} == {Phase.CANCELLED}
    assert {row.phase for row in await leader.rows(again)} == {Phase.PENDING}


async def released(leader: LeaderUnderTest, uid: str) -> bool:
    await leader.check_missing_objects()
    return not leader.tracked(uid).object_missing


# --- adoption: the database is older than the cluster ----------------------------------------------------------------


async def restored(pool: Pool) -> None:
    """Postgres as it was before the rows were written."""
    async with pool.connection() as connection:
        for table in ("workload_events", "attempts", "workloads", "queue_counters"):
            await connection.execute(f"DELETE FROM {table}".encode())


async def test_rows_follow_running_pods_and_nothing_is_deleted(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    uid = await old.placed("group", "n1", "n1", replicas=2)
    old.kubelet.run(uid)
    await old.observe(uid)
    pods = [pod.uid for pod in cluster.live_pods(uid)]
    await old.close()
    await restored(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(uid)
    assert (row.phase, row.attempt, row.workers) == (Phase.RUNNING, 1, ("n1", "n1"))
    assert [pod.uid for pod in cluster.live_pods(uid)] == pods
    assert not any(pod.deleting for pod in cluster.pods(uid))
    assert uid not in leader.workloads.queue


async def test_an_adopted_placement_takes_its_capacity(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    uid = await old.placed("first", "n1", cpu="3")
    old.kubelet.run(uid)
    await old.close()
    await restored(pool)
    leader = make_leader(adopting=True)
    await leader.start()
    second = cluster.submit("second", cpu="3")
    await leader.has_reason(second, "Unschedulable")
    assert (await leader.row(uid)).phase is Phase.RUNNING


async def test_a_workload_that_succeeded_after_the_backup_is_not_run_again(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    uid = await old.placed("job", "n1")
    old.kubelet.succeed(uid)
    await old.close()
    await restored(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(uid)
    assert (row.phase, row.attempt) == (Phase.SUCCEEDED, 1)


async def test_an_incomplete_group_is_not_adopted_and_waits_for_its_pods(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    uid = await old.placed("group", "n1", "n1", replicas=2)
    old.kubelet.run(uid)
    await old.close()
    await restored(pool)
    first = cluster.pods(uid)[0]
    await cluster.release_pod(first)
    await cluster.delete_pod(first, force=True)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(uid)
    assert row.phase is Phase.PENDING
    assert uid not in leader.workloads.queue
