"""The leader's loop from outside: users and pods move, rows and the cluster follow, and outages only pause it."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.lifecycle import Phase
from niyanta.scheduler.cluster_api import LeaseLostError, PodWriteError, WriteProblem
from niyanta.store.errors import StaleEpochError
from niyanta.store.postgres.pool import Pool
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until

pytestmark = pytest.mark.store


async def test_a_submitted_workload_is_placed_runs_and_succeeds(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    placed = await leader.reaches(uid, Phase.SCHEDULED)
    assert (placed.workers, placed.attempt, placed.customer) == (("n1",), 1, "acme")
    await leader.is_running(uid)
    leader.kubelet.succeed(uid)
    await leader.reaches(uid, Phase.SUCCEEDED)
    assert [row.phase for row in cluster.statuses[uid]][-3:] == [Phase.SCHEDULED, Phase.RUNNING, Phase.SUCCEEDED]
    assert "Scheduled" in [event.reason for event in cluster.events]
    await until(lambda: not cluster.live_pods(uid)[0].metadata.finalizers, "the pod is released")


async def test_a_group_gets_a_pod_for_each_replica_and_starts_when_all_run(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.add_node("n2", cpu="1")
    uid = cluster.submit("group", replicas=5)
    await leader.pods_of(uid, 5)
    for index in range(4):
        leader.kubelet.run(uid, index=index)
    await leader.observe(uid)
    assert (await leader.row(uid)).phase is Phase.SCHEDULED
    leader.kubelet.run(uid, index=4)
    await leader.reaches(uid, Phase.RUNNING)


async def test_a_workload_that_fits_nowhere_waits_with_a_reason_and_is_placed_when_a_node_comes(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("large", cpu="8")
    waiting = await leader.has_reason(uid, "Unschedulable")
    assert waiting.phase is Phase.PENDING
    assert "cpu" in waiting.message
    cluster.add_node("n2", cpu="16")
    assert (await leader.reaches(uid, Phase.SCHEDULED)).workers == ("n2",)


async def test_room_that_a_finished_workload_leaves_is_given_to_the_next(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    first = cluster.submit("first", cpu="3")
    await leader.is_running(first)
    second = cluster.submit("second", cpu="3")
    await leader.has_reason(second, "Unschedulable")
    leader.kubelet.succeed(first)
    await leader.reaches(second, Phase.SCHEDULED)


async def test_a_deleted_object_cancels_its_workload_and_removes_its_pods(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    cluster.delete_object(uid)
    await leader.reaches(uid, Phase.CANCELLED)
    leader.kubelet.stop(uid)
    await leader.pods_of(uid, 0)


async def test_work_that_came_while_postgres_was_away_is_done_when_it_is_back(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    leader.outage.away = True
    uid = cluster.submit("job")
    await until(lambda: leader.outage.refused > 1, "the loop meets the outage")
    assert not await leader.store.get_workloads([uid])
    leader.outage.away = False
    await leader.reaches(uid, Phase.SCHEDULED)


async def test_pods_that_ended_while_postgres_was_away_are_followed_when_it_is_back(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    leader.outage.away = True
    leader.kubelet.succeed(uid)
    await until(lambda: leader.outage.refused > 1, "the loop meets the outage")
    leader.outage.away = False
    await leader.reaches(uid, Phase.SUCCEEDED)


async def test_nothing_is_cancelled_while_the_api_server_does_not_answer(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    cluster.away = True
    cluster.delete_object(uid)
    await until(lambda: cluster.faults.calls["get_workload"] > 1, "the loop asks again")
    assert (await leader.row(uid)).phase is Phase.RUNNING
    cluster.away = False
    await leader.reaches(uid, Phase.CANCELLED)


async def test_pods_are_created_when_the_api_server_is_back(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    cluster.away = True
    uid = cluster.submit("job")
    await leader.reaches(uid, Phase.SCHEDULED)
    await until(lambda: cluster.faults.calls["create_pod"] > 1, "the create is repeated")
    cluster.away = False
    await leader.pods_of(uid)
    assert (await leader.row(uid)).attempt == 1


async def test_nothing_is_cancelled_when_the_whole_kind_is_gone(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    cluster.kind_gone = True
    obj = cluster.objects[uid]
    cluster.delete_object(uid)
    await until(lambda: cluster.faults.calls["get_workload"], "the loop asks for the object")
    assert (await leader.row(uid)).phase is Phase.RUNNING
    cluster.objects[uid], cluster.kind_gone = obj, False
    other = cluster.submit("other")
    await leader.reaches(other, Phase.SCHEDULED)
    assert (await leader.row(uid)).phase is Phase.RUNNING


async def test_a_newer_epoch_in_postgres_ends_the_loop(
    leader: LeaderUnderTest, cluster: FakeCluster, pool: Pool
) -> None:
    async with pool.connection() as connection:
        await connection.execute(b"UPDATE leadership SET epoch = epoch + 1")
    cluster.submit("job")
    task = leader.task
    assert task is not None
    await until(task.done, "the loop ends")
    assert isinstance(task.exception(), StaleEpochError)


async def test_a_lost_lease_found_by_a_request_of_the_loop_ends_it(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    cluster.faults.fail("get_workload", LeaseLostError("a newer leader exists"))
    cluster.delete_object(uid)
    task = leader.task
    assert task is not None
    await until(task.done, "the loop ends")
    assert isinstance(task.exception(), LeaseLostError)


async def test_pods_that_do_not_run_in_time_are_an_attempt_that_failed(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("slow", startTimeoutSeconds=1, backoffLimit=0)
    await leader.pods_of(uid)
    failed = await leader.reaches(uid, Phase.FAILED)
    assert failed.reason == "StartTimeout"


async def test_the_time_to_start_begins_when_the_pods_exist(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    hang = cluster.faults.hang("create_pod")
    uid = cluster.submit("slow", startTimeoutSeconds=1, backoffLimit=0)
    first = await leader.reaches(uid, Phase.SCHEDULED)

    async def put_off() -> bool:
        row = await leader.row(uid)
        return row.wake_at is not None and first.wake_at is not None and row.wake_at > first.wake_at

    await until(put_off, "the timeout is put off")
    assert (await leader.row(uid)).phase is Phase.SCHEDULED
    hang.release()
    await leader.is_running(uid)


async def test_a_workload_that_runs_too_long_fails_and_its_pods_go(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("long", timeoutSeconds=1, backoffLimit=0)
    await leader.is_running(uid)
    failed = await leader.reaches(uid, Phase.FAILED)
    assert failed.reason == "Timeout"
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the pod is deleted")


async def test_a_failed_attempt_is_retried_after_its_backoff_when_its_pods_are_over(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("flaky", backoffLimit=1)
    await leader.is_running(uid)
    leader.kubelet.fail(uid)
    second = await leader.reaches(uid, Phase.SCHEDULED, attempt=2)
    assert second.failures == 1
    await leader.pods_of(uid, 2)
    leader.kubelet.fail(uid)
    assert (await leader.reaches(uid, Phase.FAILED)).reason == "PodFailed"


async def test_the_object_of_a_finished_workload_expires(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("short", ttlSecondsAfterFinished=0)
    await leader.is_running(uid)
    leader.kubelet.succeed(uid)
    await until(lambda: cluster.deleted_objects == ["short"], "the object is deleted")
    assert (await leader.row(uid)).phase is Phase.SUCCEEDED
    await until(lambda: uid not in leader.workloads, "memory forgets it")


async def test_objects_that_cannot_be_deleted_stop_no_placement(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    cluster.faults.fail("delete_workload", PodWriteError(WriteProblem.UNAVAILABLE, "a webhook failed"), times=None)
    short = cluster.submit("short", ttlSecondsAfterFinished=0)
    await leader.is_running(short)
    leader.kubelet.succeed(short)
    await until(lambda: cluster.faults.calls["delete_workload"], "the deletion fails")
    bystander = cluster.submit("bystander", namespace="other")
    await leader.reaches(bystander, Phase.SCHEDULED)


async def test_the_loop_ticks_while_it_waits_for_an_answer(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    hang = cluster.faults.hang("get_workload")
    cluster.delete_object(uid)
    await asyncio.wait_for(hang.reached.wait(), 30)
    before = leader.ticks
    await until(lambda: leader.ticks > before, "the loop ticks")
    hang.release()
    await leader.reaches(uid, Phase.CANCELLED)
