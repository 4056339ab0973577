"""Objects that go missing in great number hold the workloads of their customer, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from niyanta.lifecycle import Phase
from niyanta.scheduler.periodic import maintenance
from niyanta.scheduler.recovery import missing_objects
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader, SubmitRest

pytestmark = pytest.mark.store


def metric(name: str, **labels: str) -> float | None:
    """A sample; None if there is none."""
    return REGISTRY.get_sample_value(name, labels)


async def deleted_meanwhile(old: LeaderUnderTest, uids: Iterable[str]) -> None:
    """Users delete objects while nobody leads; kubelets haven't ended the pods yet."""
    await old.close()
    for uid in uids:
        old.cluster.delete_object(uid)


async def test_a_mass_deletion_holds_the_rows_of_that_customer_alone(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    cluster.set_customer("acme", "team")
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
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    lost = [cluster.submit(f"lost-{number}", cpu="100m") for number in range(12)]
    one = cluster.submit("one", namespace="lab")
    other = cluster.submit("other", namespace="lab")
    await old.take_in(*lost, one, other)
    await deleted_meanwhile(old, [*lost, one])
    leader = make_leader()
    await leader.recover()
    assert (await leader.row(one)).phase is Phase.CANCELLED
    assert {row.phase for row in await leader.rows(lost)} == {Phase.PENDING}


async def test_held_rows_keep_their_placement_until_their_objects_are_back(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_objects, "FIRST_LIST_SECONDS", 0.01)
    monkeypatch.setattr(maintenance, "MISSING_OBJECTS_EVERY_SECONDS", 0.01)
    running = await old.placed("running", "n1", cpu="100m", backoffLimit=0)
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


async def test_held_rows_whose_pods_are_gone_take_no_capacity(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    cluster.set_customer("umbrella", "lab")
    lost = [await old.placed(f"lost-{number}", "n1", cpu="300m") for number in range(12)]
    await deleted_meanwhile(old, lost)
    for uid in lost[1:]:
        old.kubelet.lose(uid)
    leader = make_leader()
    await leader.start()
    uid = cluster.submit("job", namespace="lab", cpu="3")
    await leader.reaches(uid, Phase.SCHEDULED)
    assert {row.phase for row in await leader.rows(lost)} == {Phase.SCHEDULED}
    assert cluster.charged(lost[0]) == ["n1"], "its pod still runs"


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
    cluster.annotate_customer("acme", {missing_objects.CONFIRM: now.strftime("%Y-%m-%dT%H:%M:%SZ")})
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


async def test_a_namespace_that_is_gone_proves_the_deletions_and_its_pods_are_released(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uids = [await old.placed(f"job-{number}", "n1", cpu="100m") for number in range(12)]
    await deleted_meanwhile(old, uids)
    cluster.delete_customer("acme")
    cluster.gone_namespaces.add("team")
    leader = make_leader()
    await leader.start()
    for uid in uids:
        await leader.reaches(uid, Phase.CANCELLED)
    for uid in uids:
        leader.kubelet.stop(uid)
    await until(lambda: not any(cluster.live_pods(uid) for uid in uids), "the pods are gone")


async def test_a_namespace_deleted_while_its_rows_are_held_ends_them(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uids = [cluster.submit(f"job-{number}", cpu="100m") for number in range(12)]
    await old.take_in(*uids)
    await deleted_meanwhile(old, uids)
    leader = make_leader()
    await leader.recover()
    await leader.check_missing_objects()
    assert {row.phase for row in await leader.rows(uids)} == {Phase.PENDING}
    cluster.gone_namespaces.add("team")
    await leader.check_missing_objects()
    assert {row.phase for row in await leader.rows(uids)} == {Phase.CANCELLED}


async def test_the_absence_of_a_customer_confirms_the_deletions_after_a_time(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = [cluster.submit(f"job-{number}", cpu="100m") for number in range(12)]
    await old.take_in(*uids)
    await deleted_meanwhile(old, uids)
    leader = make_leader()
    await leader.recover()
    monkeypatch.setattr(missing_objects, "CUSTOMER_GONE_SECONDS", 0.0)
    await leader.check_missing_objects()
    assert {row.phase for row in await leader.rows(uids)} == {Phase.PENDING}, "its Customer exists"
    cluster.delete_customer("acme")
    monkeypatch.setattr(missing_objects, "CUSTOMER_GONE_SECONDS", 3600.0)
    await leader.check_missing_objects()
    assert {row.phase for row in await leader.rows(uids)} == {Phase.PENDING}, "it may be restored"
    monkeypatch.setattr(missing_objects, "CUSTOMER_GONE_SECONDS", 0.0)
    await leader.check_missing_objects()
    assert {row.phase for row in await leader.rows(uids)} == {Phase.CANCELLED}


async def released(leader: LeaderUnderTest, uid: str) -> bool:
    await leader.check_missing_objects()
    return not leader.tracked(uid).object_missing
