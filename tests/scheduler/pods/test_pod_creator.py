"""Creates of pods: repeated until the answer is definite, and each definite refusal has its consequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from niyanta.cluster.state.worker_info import PoolInfo
from niyanta.lifecycle import Event, Phase
from niyanta.resources.compile.pod import pod_name
from niyanta.scheduler.cluster_api import PodWriteError, WriteProblem
from niyanta.scheduler.pods import namespace_gate, pod_creator
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store

FIRST_PODS = namespace_gate.FIRST_IN_FLIGHT + 1
"""Creates of pods that are sent at first: the answer about the object allows one more."""

UNAVAILABLE = PodWriteError(WriteProblem.UNAVAILABLE, "overloaded")


@pytest.fixture
async def leader(make_leader: MakeLeader) -> LeaderUnderTest:
    """Driven by hand: its loop doesn't run."""
    leader = make_leader()
    await leader.recover()
    return leader


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_DELAY_SECONDS", "LONGEST_DELAY_SECONDS"):
        monkeypatch.setattr(pod_creator, name, 0.01)


async def test_pods_are_bound_to_their_workers_and_carry_attempt_epoch_and_finalizer(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.add_node("n2")
    uid = await leader.placed("group", "n1", "n2", replicas=2)
    first, second = cluster.live_pods(uid)
    assert (first.spec.node_name, second.spec.node_name) == ("n1", "n2")
    assert first.labels["niyanta.io/attempt"] == "1"
    assert first.labels["niyanta.io/epoch"] == str(leader.epoch)
    assert first.metadata.finalizers == ("niyanta.io/outcome",)
    assert first.metadata.owner_references[0].uid == uid


async def test_each_pod_of_a_group_has_the_label_of_its_own_workers_pool(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    for name in ("first", "other"):
        cluster.add_node(f"n-{name}", labels={"pool": name})
    cluster.set_pools(*(PoolInfo(name, match_labels=(("pool", name),)) for name in ("first", "other")))
    uid = cluster.submit("group", replicas=2, cpu="3")
    await leader.take_in(uid)
    await leader.run_cycle()
    await leader.created(uid)
    pods = cluster.live_pods(uid)
    assert sorted((pod.spec.node_name, pod.labels["niyanta.io/pool"]) for pod in pods) == [
        ("n-first", "first"),
        ("n-other", "other"),
    ]
    row = await leader.row(uid)
    assert sorted(row.pools) == ["first", "other"]
    assert row.pool == row.pools[0]


async def test_a_create_without_a_definite_answer_is_repeated(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    cluster.faults.fail("create_pod", UNAVAILABLE, times=3)
    uid = await leader.placed("job", "n1")
    assert cluster.faults.calls["create_pod"] == 4
    assert len(cluster.live_pods(uid)) == 1
    await leader.observe()
    assert (await leader.row(uid)).phase is Phase.SCHEDULED


async def test_a_create_whose_answer_was_lost_makes_no_second_pod(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.faults.fail("create_pod", UNAVAILABLE, carried_out=True)
    uid = await leader.placed("job", "n1")
    assert cluster.faults.calls["create_pod"] == 2
    assert len(cluster.live_pods(uid)) == 1


@pytest.mark.parametrize("problem", [WriteProblem.QUOTA, WriteProblem.FORBIDDEN, WriteProblem.NAMESPACE])
async def test_a_refusal_that_is_not_the_workloads_fault_puts_it_back_and_counts_no_retry(
    leader: LeaderUnderTest, cluster: FakeCluster, problem: WriteProblem
) -> None:
    cluster.faults.fail("create_pod", PodWriteError(problem, "no"))
    uid = await leader.placed("job", "n1", backoffLimit=0)
    await leader.observe()
    row = await leader.row(uid)
    assert (row.phase, row.reason, row.failures, row.rejections) == (Phase.PENDING, problem.value, 0, 0)
    assert row.not_before is not None
    assert uid not in leader.workloads.queue, "it waits for its backoff"


async def test_refusals_in_a_row_wait_longer_each_time(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    cluster.faults.fail("create_pod", PodWriteError(WriteProblem.QUOTA, "no"), times=None)
    uid = cluster.submit("job")
    await leader.take_in(uid)
    for seconds in (1.0, 2.0, 4.0):
        await leader.place(uid, "n1")
        await leader.created(uid)
        earliest = await leader.store.clock() + seconds * 1e6
        await leader.observe()
        latest = await leader.store.clock() + seconds * 1e6
        row = await leader.row(uid)
        assert row.not_before is not None
        assert earliest <= row.not_before.timestamp() * 1e6 + 1 <= latest + 1


async def test_a_pod_that_can_never_be_created_fails_its_workload(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.faults.fail("create_pod", PodWriteError(WriteProblem.INVALID, "spec.containers[0].image: no"))
    uid = await leader.placed("job", "n1")
    await leader.observe()
    row = await leader.row(uid)
    assert (row.phase, row.reason) == (Phase.FAILED, "PodRefused")
    assert "spec.containers[0].image" in row.message


async def test_a_pod_of_that_name_that_is_another_workloads_puts_it_back(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.take_in(uid)
    labels = {"niyanta.io/attempt": "1", "niyanta.io/index": "0"}
    meta = {"name": pod_name("job", uid, attempt=1, index=0), "namespace": "team", "labels": labels}
    foreign = {"metadata": {**meta, "ownerReferences": [{"uid": "another"}]}, "spec": {"nodeName": "n1"}}
    await cluster.create_pod("team", foreign)
    await leader.place(uid, "n1")
    await leader.created(uid)
    await leader.observe()
    row = await leader.row(uid)
    assert (row.phase, row.reason, row.failures) == (Phase.PENDING, "PodNameTaken", 0)


async def test_a_refused_pod_of_a_group_removes_the_pods_that_were_made(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("group", replicas=3)
    await leader.take_in(uid)
    hang = cluster.faults.hang("create_pod")
    cluster.faults.fail("create_pod", PodWriteError(WriteProblem.QUOTA, "no"))
    await leader.place(uid, "n1", "n1", "n1")
    hang.release()
    await leader.created(uid)
    assert len(cluster.live_pods(uid)) == 1
    await leader.observe()
    await until(lambda: cluster.live_pods(uid)[0].metadata.deletion_timestamp, "the first pod is deleted")
    assert (await leader.row(uid)).phase is Phase.PENDING


async def test_a_newer_leader_ends_leadership_and_leaves_the_row_alone(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.lease_lost = True
    uid = await leader.placed("job", "n1")
    assert leader.lost.is_set()
    row = await leader.row(uid)
    assert (row.phase, row.attempt) == (Phase.SCHEDULED, 1)


async def test_a_workload_cancelled_midway_gets_no_further_pods_and_loses_those_it_has(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("group", replicas=8)
    await leader.take_in(uid)
    first = FIRST_PODS
    cluster.faults.hang("create_pod", times=None)
    await leader.place(uid, *["n1"] * 8)
    await until(lambda: cluster.faults.under_way["create_pod"] == first, "the first creates are under way")
    tracked = leader.tracked(uid)
    await leader.decide(uid, Event.CANCEL)
    cluster.faults.clear("create_pod")
    await until(lambda: not tracked.applying, "the creates end")
    assert cluster.faults.calls["create_pod"] == first
    await leader.observe(uid)
    await until(lambda: all(pod.metadata.deletion_timestamp for pod in cluster.live_pods(uid)), "its pods are deleted")


async def test_a_fault_of_the_creator_itself_puts_the_workload_back(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.faults.fail("create_pod", ZeroDivisionError("oops"))
    uid = await leader.placed("job", "n1")
    await leader.observe()
    row = await leader.row(uid)
    assert (row.phase, row.reason) == (Phase.PENDING, "InternalError")


async def test_creates_of_one_namespace_take_half_of_the_connections(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    leader = make_leader(connections=4)
    await leader.recover()
    cluster.faults.hang("create_pod", times=None)
    uids = [cluster.submit(f"job-{number}", cpu="100m") for number in range(5)]
    await leader.take_in(*uids)
    for uid in uids:
        await leader.place(uid, "n1")
    await until(lambda: cluster.faults.under_way["create_pod"] == 2, "two creates are under way")
    cluster.faults.clear("create_pod")
    for uid in uids:
        await leader.created(uid)
    assert cluster.faults.most_under_way["create_pod"] == 2
    assert len(cluster.pod_names()) == 5


def failing_in(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, namespace: str) -> None:
    """Every create in one namespace fails as by a webhook that doesn't answer."""
    create = cluster.create_pod

    async def fail(where: str, manifest: Mapping[str, Any]) -> None:
        if where == namespace:
            cluster.faults.calls[f"create_pod in {where}"] += 1
            raise UNAVAILABLE
        await create(where, manifest)

    monkeypatch.setattr(cluster, "create_pod", fail)


async def test_a_namespace_whose_creates_fail_leaves_all_others_unaffected(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = make_leader(connections=8, request_timeout=0.01)
    await leader.recover()
    failing_in(cluster, monkeypatch, "bad")
    bad = [cluster.submit(f"bad-{number}", cpu="10m", namespace="bad") for number in range(60)]
    good = [cluster.submit(f"good-{number}", cpu="10m") for number in range(20)]
    await leader.take_in(*bad, *good)
    for uid in bad:
        await leader.place(uid, "n1")
    await until(lambda: cluster.faults.calls["create_pod in bad"] >= namespace_gate.FAILURES, "creates fail")
    for uid in good:
        await leader.place(uid, "n1")
    for uid in good:
        await leader.created(uid)
    assert all(cluster.live_pods(uid) for uid in good)
    assert leader.open_breakers() == 1
    assert cluster.faults.calls["create_pod in bad"] < 60, "its breaker lets only probes through"


async def test_creates_go_on_when_a_probe_succeeds(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_PROBE_SECONDS", "LONGEST_PROBE_SECONDS"):
        monkeypatch.setattr(namespace_gate, name, 0.01)
    cluster.faults.fail("create_pod", UNAVAILABLE, times=namespace_gate.FAILURES + 2)
    uids = [cluster.submit(f"job-{number}", cpu="10m") for number in range(10)]
    await leader.take_in(*uids)
    for uid in uids:
        await leader.place(uid, "n1")
    for uid in uids:
        await leader.created(uid)
    assert all(cluster.live_pods(uid) for uid in uids)
    assert leader.open_breakers() == 0


async def test_a_create_that_fails_often_puts_the_workload_back_and_counts_no_retry(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_PROBE_SECONDS", "LONGEST_PROBE_SECONDS"):
        monkeypatch.setattr(namespace_gate, name, 0.01)
    leader = make_leader(request_timeout=0.01)
    await leader.recover()
    cluster.faults.fail("create_pod", UNAVAILABLE, times=None)
    uid = await leader.placed("job", "n1", backoffLimit=0)
    assert cluster.faults.calls["create_pod"] == pod_creator.MOST_TRIES
    await leader.observe()
    row = await leader.row(uid)
    assert (row.phase, row.reason, row.failures, row.rejections) == (Phase.PENDING, "ApiServerUnavailable", 0, 0)


async def test_creates_behind_a_breaker_that_stays_open_go_back_to_the_queue(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace_gate, "GIVE_UP_SECONDS", 0.05)
    leader = make_leader(request_timeout=0.01)
    await leader.recover()
    failing_in(cluster, monkeypatch, "bad")
    uids = [cluster.submit(f"bad-{number}", cpu="10m", namespace="bad") for number in range(30)]
    await leader.take_in(*uids)
    for uid in uids:
        await leader.place(uid, "n1")
    for uid in uids:
        await leader.created(uid)
    await leader.observe()
    assert {(row.phase, row.failures) for row in await leader.rows(uids)} == {(Phase.PENDING, 0)}


async def test_a_workload_that_is_cancelled_while_its_creates_fail_is_not_tried_again(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    leader = make_leader(request_timeout=0.01)
    await leader.recover()
    cluster.faults.fail("create_pod", UNAVAILABLE, times=None)
    uid = cluster.submit("job")
    await leader.take_in(uid)
    await leader.place(uid, "n1")
    await until(lambda: cluster.faults.calls["create_pod"] > 1, "the create is repeated")
    tracked = leader.tracked(uid)
    await leader.decide(uid, Event.CANCEL)
    await until(lambda: not tracked.applying, "the creates end")
    assert not cluster.live_pods(uid)


async def test_a_workload_that_may_no_longer_run_gets_no_pods(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    await leader.take_in(uid)
    cluster.enabled_namespaces["team"] = False
    await leader.place(uid, "n1")
    await leader.created(uid)
    await leader.observe()
    assert cluster.faults.calls["create_pod"] == 0
    row = await leader.row(uid)
    assert (row.phase, row.reason) == (Phase.PENDING, "NamespaceNotEnabled")
    assert "kubectl label namespace team niyanta.io/enabled=true" in row.message
