"""Admission: rows and memory follow users' objects, Customers and LimitRanges."""

from __future__ import annotations

import pytest

from niyanta.lifecycle import Phase
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


@pytest.fixture
async def leader(make_leader: MakeLeader) -> LeaderUnderTest:
    """Driven by hand: its loop doesn't run."""
    leader = make_leader()
    await leader.recover()
    return leader


async def test_a_workload_without_a_customer_is_held_and_released_when_it_comes(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.delete_customer("acme")
    uid = cluster.submit("job")
    await leader.take_in(uid)
    assert (await leader.row(uid)).phase is Phase.HELD
    assert [(event.reason, event.warning) for event in cluster.events] == [("Held", True)]
    cluster.set_customer("beta", "team", tier="Premium")
    await leader.review_customers()
    row = await leader.row(uid)
    assert (row.phase, row.customer, row.tier_weight) == (Phase.PENDING, "beta", 50)
    assert uid in leader.workloads.queue


async def test_a_waiting_workload_is_held_when_its_customer_goes(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job")
    await leader.take_in(uid)
    cluster.delete_customer("acme")
    await leader.review_customers()
    assert (await leader.row(uid)).phase is Phase.HELD
    assert uid not in leader.workloads.queue


async def test_a_new_tier_counts_for_everything_that_waits(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uids = [cluster.submit(f"job-{number}") for number in range(3)]
    await leader.take_in(*uids)
    cluster.set_customer("acme", "*", tier="Enterprise")
    await leader.review_customers()
    assert {row.tier_weight for row in await leader.rows(uids)} == {100}
    assert {leader.tracked(uid).row.tier_weight for uid in uids} == {100}


async def test_a_priority_above_the_customers_maximum_is_held_until_either_changes(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.set_customer("acme", "*", maxPriority=50)
    uid = cluster.submit("job", priority=60)
    await leader.take_in(uid)
    row = await leader.row(uid)
    assert (row.phase, row.reason, row.customer) == (Phase.HELD, "PriorityAboveMaximum", "acme")
    assert row.message.startswith("spec.priority: 60 is above maxPriority 50 of Customer acme;")
    cluster.edit(uid, priority=50)
    await leader.take_in(uid)
    assert (await leader.row(uid)).phase is Phase.PENDING
    cluster.edit(uid, priority=51)
    await leader.take_in(uid)
    assert (await leader.row(uid)).reason == "PriorityAboveMaximum"
    assert uid not in leader.workloads.queue
    cluster.set_customer("acme", "*", maxPriority=51)
    await leader.review_customers()
    assert (await leader.row(uid)).phase is Phase.PENDING
    assert uid in leader.workloads.queue


async def test_workloads_beyond_the_queue_depth_are_held_and_released_as_room_appears(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    cluster.set_customer("acme", "*", maxQueueDepth=1)
    leader = make_leader()
    await leader.start()
    first = cluster.submit("first", cpu="8")
    await leader.has_reason(first, "Unschedulable")
    second = cluster.submit("second")
    await leader.has_reason(second, "QueueFull")
    cluster.delete_object(first)
    await leader.reaches(second, Phase.SCHEDULED)


async def test_a_suspended_workload_leaves_its_worker_and_a_resumed_one_is_placed_again(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    leader = make_leader()
    await leader.start()
    uid = cluster.submit("job")
    await leader.is_running(uid)
    cluster.edit(uid, suspend=True)
    await leader.reaches(uid, Phase.SUSPENDED)
    await until(lambda: cluster.pods(uid)[0].deleting, "its pod is deleted")
    leader.kubelet.stop(uid)
    cluster.edit(uid, suspend=False)
    assert (await leader.reaches(uid, Phase.SCHEDULED)).attempt == 2


async def test_a_limit_range_changes_what_waiting_workloads_ask_for(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job", cpu=None)
    other = cluster.submit("other", cpu=None, namespace="elsewhere")
    await leader.take_in(uid, other)
    assert "cpu" not in leader.requirements(uid)
    cluster.set_default_request("team", cpu="2")
    await leader.review_defaults("team")
    assert leader.requirements(uid)["cpu"] == 2000
    assert "cpu" not in leader.requirements(other)


async def test_an_object_that_was_reported_gone_but_exists_keeps_its_workload(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.take_in(uid)
    await leader.take_gone(uid)
    assert (await leader.row(uid)).phase is Phase.PENDING


async def test_a_spec_that_cannot_work_fails_and_says_why(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job", cpu="1x")
    await leader.take_in(uid)
    row = await leader.row(uid)
    assert (row.phase, row.reason) == (Phase.FAILED, "InvalidSpec")
    assert "cpu" in row.message
