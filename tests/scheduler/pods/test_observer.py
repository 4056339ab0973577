"""The observer: the states of pods and nodes become the outcome of an attempt."""

from __future__ import annotations

import pytest

from niyanta.cluster.api.objects import NodeTaint
from niyanta.containment import Boundary
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.cluster_api import PodView
from niyanta.scheduler.pods.worker_breakers import REJECTIONS
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, contained_errors, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


@pytest.fixture
async def leader(make_leader: MakeLeader) -> LeaderUnderTest:
    """Driven by hand: its loop doesn't run. A lost node's grace is over at once."""
    leader = make_leader()
    await leader.recover()
    return leader


async def running(leader: LeaderUnderTest, **spec: object) -> str:
    """A workload that runs on n1; its id."""
    uid = await leader.placed("job", "n1", **spec)
    leader.kubelet.run(uid)
    await leader.observe(uid)
    assert (await leader.row(uid)).phase is Phase.RUNNING
    return uid


async def outcome(leader: LeaderUnderTest, uid: str) -> tuple[Phase, str]:
    """Phase and reason after the pods were looked at."""
    await leader.observe(uid)
    row = await leader.row(uid)
    return row.phase, row.reason


async def test_a_pod_that_ends_before_it_was_seen_running_succeeds_all_the_same(leader: LeaderUnderTest) -> None:
    uid = await leader.placed("job", "n1")
    leader.kubelet.succeed(uid)
    assert await outcome(leader, uid) == (Phase.SUCCEEDED, "Completed")


async def test_one_failed_pod_fails_the_whole_attempt_and_the_others_are_removed(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await leader.placed("group", "n1", "n1", replicas=2, backoffLimit=1)
    leader.kubelet.run(uid)
    leader.kubelet.fail(uid, index=1, exit_code=7)
    phase, reason = await outcome(leader, uid)
    assert (phase, reason) == (Phase.PENDING, "PodFailed")
    assert "exited with code 7" in (await leader.row(uid)).message
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the pod that runs is deleted")
    await until(lambda: not cluster.live_pods(uid)[1].metadata.finalizers, "the failed pod is released")
    assert cluster.live_pods(uid)[1].metadata.deletion_timestamp is None, "it stays for its logs"


async def test_a_pod_that_disappears_is_lost(leader: LeaderUnderTest) -> None:
    uid = await running(leader, backoffLimit=0)
    leader.kubelet.lose(uid)
    assert await outcome(leader, uid) == (Phase.FAILED, "PodLost")


async def test_a_pod_that_somebody_deletes_while_it_runs_is_lost_when_it_is_over(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await running(leader, backoffLimit=0)
    cluster.begin_deletion(cluster.live_pods(uid)[0], grace_seconds=30)
    assert (await outcome(leader, uid))[0] is Phase.RUNNING
    leader.kubelet.stop(uid)
    assert (await outcome(leader, uid))[0] is Phase.FAILED


async def test_a_kubelets_rejection_puts_the_workload_back_without_its_worker(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await leader.placed("job", "n1", backoffLimit=0)
    leader.kubelet.reject(uid)
    assert await outcome(leader, uid) == (Phase.PENDING, "RejectedByKubelet")
    row = await leader.row(uid)
    assert (set(row.excluded), row.failures, row.rejections) == ({"n1"}, 0, 1)


async def test_after_a_rejection_another_worker_is_chosen(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = make_leader()
    await leader.start()
    uid = cluster.submit("job")
    await leader.pods_of(uid)
    cluster.add_node("n2")
    leader.kubelet.reject(uid)
    assert (await leader.reaches(uid, Phase.SCHEDULED, attempt=2)).workers == ("n2",)


async def test_too_many_rejections_count_as_a_failure(make_leader: MakeLeader) -> None:
    leader = make_leader(kubelet_rejections_max=0)
    await leader.recover()
    uid = await leader.placed("job", "n1", backoffLimit=0)
    leader.kubelet.reject(uid)
    assert await outcome(leader, uid) == (Phase.FAILED, "RejectedByKubelet")


async def test_by_default_a_workload_waits_for_its_lost_node_and_says_so(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    leader = make_leader()
    await leader.start()
    uid = cluster.submit("job")
    await leader.is_running(uid)
    cluster.add_node("n1", ready=False)
    row = await leader.has_reason(uid, "WaitingForNodeFence")
    assert (row.phase, row.attempt) == (Phase.RUNNING, 1)
    assert "n1 is NotReady" in row.message
    cluster.add_node("n1")
    row = await leader.has_reason(uid, "NodeReturned")
    assert (row.phase, row.attempt) == (Phase.RUNNING, 1)


async def test_with_replace_a_lost_nodes_pods_are_replaced_after_the_grace(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await running(leader, nodeLossPolicy="Replace", backoffLimit=1)
    cluster.add_node("n1", ready=False)
    assert await outcome(leader, uid) == (Phase.PENDING, "NodeLost")
    await until(lambda: not cluster.live_pods(uid), "its pod is removed by force")


async def test_with_replace_nothing_happens_before_the_grace_is_over(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    leader = make_leader(node_loss_grace=3600.0)
    await leader.recover()
    uid = await running(leader, nodeLossPolicy="Replace", backoffLimit=1)
    cluster.add_node("n1", ready=False)
    assert (await outcome(leader, uid))[0] is Phase.RUNNING
    assert not cluster.pods(uid)[0].deleting


@pytest.mark.parametrize("policy", ["Wait", "Replace"])
async def test_a_node_with_the_out_of_service_taint_is_lost_whatever_the_policy(
    leader: LeaderUnderTest, cluster: FakeCluster, policy: str
) -> None:
    uid = await running(leader, nodeLossPolicy=policy, backoffLimit=1)
    taint = NodeTaint("node.kubernetes.io/out-of-service", "nodeshutdown", "NoExecute")
    cluster.add_node("n1", ready=False, taints=(taint,))
    assert await outcome(leader, uid) == (Phase.PENDING, "NodeLost")
    await until(lambda: not cluster.live_pods(uid), "its pod is removed by force")


async def test_a_deleted_node_is_lost(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = await running(leader, backoffLimit=1)
    cluster.remove_node("n1")
    assert await outcome(leader, uid) == (Phase.PENDING, "NodeLost")
    await until(lambda: not cluster.live_pods(uid), "its pod is removed by force")


async def test_while_pods_are_being_created_nothing_is_decided(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("group", replicas=2, backoffLimit=1)
    await leader.take_in(uid)
    await cluster_hang_after_first(leader, uid)
    leader.kubelet.fail(uid)
    assert (await outcome(leader, uid))[0] is Phase.SCHEDULED
    cluster.faults.clear("create_pod")
    await leader.created(uid)
    assert (await outcome(leader, uid))[0] is Phase.PENDING


async def cluster_hang_after_first(leader: LeaderUnderTest, uid: str) -> None:
    """Place a group of two, and keep its second create under way."""
    faults = leader.cluster.faults
    first = faults.hang("create_pod")
    second = faults.hang("create_pod")
    await leader.place(uid, "n1", "n1")
    first.release()
    await until(second.reached.is_set, "the second create is under way")


async def test_pods_of_a_workload_that_is_over_and_forgotten_are_released(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await running(leader)
    cluster.faults.fail("release_pod", RuntimeError("lost"), times=None)
    leader.kubelet.succeed(uid)
    await leader.observe(uid)
    await leader.close()
    cluster.faults.clear("release_pod")
    leader.workloads.drop(uid)
    await leader.observe(uid)
    await until(lambda: not cluster.live_pods(uid)[0].metadata.finalizers, "the pod is released")


async def test_an_eviction_beats_an_outcome_that_was_not_committed(leader: LeaderUnderTest) -> None:
    uid = await running(leader, backoffLimit=0)
    await leader.decide(uid, Event.REQUEUE, "WorkerDrained")
    leader.kubelet.fail(uid)
    assert await outcome(leader, uid) == (Phase.PENDING, "WorkerDrained")


async def test_a_workload_whose_observation_raises_leaves_the_others(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contained_errors(Boundary.POD)
    bad, good = [await leader.placed(name, "n1", cpu="100m") for name in ("bad", "good")]
    pods = cluster.pods

    def fail(workload_id: str, owner_uid: str | None = None, *, namespace: str | None = None) -> list[PodView]:
        if workload_id == bad:
            raise ZeroDivisionError
        return pods(workload_id, owner_uid, namespace=namespace)

    monkeypatch.setattr(cluster, "pods", fail)
    for uid in (bad, good):
        leader.kubelet.run(uid)
    await leader.observe(bad, good)
    assert contained_errors(Boundary.POD) > before
    assert [row.phase for row in await leader.rows([bad, good])] == [Phase.SCHEDULED, Phase.RUNNING]


async def test_an_evicted_workload_runs_again_without_a_retry_up_to_a_maximum(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("niyanta.scheduler.pods.outcome.MOST_DISRUPTIONS", 1)
    uid = await running(leader, backoffLimit=0)
    leader.kubelet.disrupt(uid)
    assert await outcome(leader, uid) == (Phase.PENDING, "PodDisrupted")
    row = await leader.row(uid)
    assert (row.failures, row.rejections, row.excluded) == (0, 0, {})
    await leader.place(uid, "n1")
    await leader.created(uid)
    leader.kubelet.disrupt(uid)
    assert await outcome(leader, uid) == (Phase.FAILED, "PodDisrupted")


async def test_a_worker_that_rejects_all_pods_gets_no_work(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = make_leader()
    await leader.start()
    for number in range(REJECTIONS):
        uid = cluster.submit(f"job-{number}", cpu="100m")
        await leader.pods_of(uid)
        leader.kubelet.reject(uid)
        await leader.has_reason(uid, "RejectedByKubelet")
    waiting = cluster.submit("job", cpu="100m")
    await leader.has_reason(waiting, "Unschedulable")
    cluster.add_node("n2")
    assert (await leader.reaches(waiting, Phase.SCHEDULED)).workers == ("n2",)


@pytest.mark.parametrize("reason", ["SysctlForbidden", "AppArmor", "PodOSNotSupported", "NodeAffinity"])
async def test_rejections_that_depend_on_the_pod_alone_close_no_worker(
    leader: LeaderUnderTest, cluster: FakeCluster, reason: str
) -> None:
    for number in range(REJECTIONS):
        uid = await leader.placed(f"job-{number}", "n1", cpu="100m")
        leader.kubelet.reject(uid, reason=reason)
        await leader.observe(uid)
    bystander = cluster.submit("bystander", cpu="100m")
    await leader.take_in(bystander)
    await leader.run_cycle()
    assert (await leader.row(bystander)).workers == ("n1",)


async def test_a_worker_that_rejects_pods_of_one_customer_takes_those_of_others(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.set_customer("bolt", "bolt")
    for number in range(REJECTIONS):
        uid = await leader.placed(f"job-{number}", "n1", cpu="100m")
        leader.kubelet.reject(uid)
        await leader.observe(uid)
    own = cluster.submit("own", cpu="100m")
    bystander = cluster.submit("bystander", namespace="bolt", cpu="100m")
    await leader.take_in(own, bystander)
    await leader.run_cycle()
    assert (await leader.row(bystander)).workers == ("n1",)
    assert (await leader.row(own)).phase is Phase.PENDING
