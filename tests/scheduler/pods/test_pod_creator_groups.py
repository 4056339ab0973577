"""Pods of a group are created side by side, and their failures are those of one attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from niyanta.lifecycle import Phase
from niyanta.scheduler.cluster_api import PodWriteError, WriteProblem
from niyanta.scheduler.pods import namespace_gate, pod_creator
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


async def test_pods_of_a_group_are_created_side_by_side(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    """Each round trip that is answered allows more: 64 pods take six round trips."""
    leader = make_leader(connections=64)
    await leader.recover()
    uid = cluster.submit("group", replicas=64, cpu="10m")
    await leader.take_in(uid)
    cluster.faults.hang("create_pod", times=None)
    await leader.place(uid, *["n1"] * 64)
    sent = 0
    for width in (5, 10, 16, 16, 16, 1):
        sent += width
        await until(lambda sent=sent: cluster.faults.calls["create_pod"] == sent, f"{sent} creates were sent")
        cluster.faults.clear("create_pod")
        cluster.faults.hang("create_pod", times=None)
    await leader.created(uid)
    assert len(cluster.live_pods(uid)) == 64


async def test_a_large_group_leaves_turns_to_others_of_its_namespace(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = make_leader(connections=8)
    await leader.recover()
    order: list[str] = []
    create = cluster.create_pod

    async def recorded(namespace: str, manifest: Mapping[str, Any]) -> None:
        await create(namespace, manifest)
        order.append(manifest["metadata"]["name"].split("-")[0])

    monkeypatch.setattr(cluster, "create_pod", recorded)
    group, single = cluster.submit("group", replicas=200, cpu="1m"), cluster.submit("single", cpu="1m")
    await leader.take_in(group, single)
    cluster.faults.hang("create_pod", times=None)
    await leader.place(group, *["n1"] * 200)
    await until(lambda: cluster.faults.under_way["create_pod"] == 4, "the namespace has its share")
    await leader.place(single, "n1")
    cluster.faults.clear("create_pod")
    await leader.created(single)
    await leader.created(group)
    assert len(order) == 201
    assert order.index("single") <= 2 * pod_creator.MOST_SIDE_BY_SIDE


async def test_a_refusal_stops_a_large_group_after_the_creates_under_way(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.faults.fail("create_pod", PodWriteError(WriteProblem.QUOTA, "no"))
    uid = await leader.placed("group", *["n1"] * 100, replicas=100, cpu="1m")
    assert cluster.faults.calls["create_pod"] <= namespace_gate.FIRST_IN_FLIGHT
    await leader.observe()
    assert (await leader.row(uid)).phase is Phase.PENDING
    assert (await leader.row(uid)).reason == WriteProblem.QUOTA.value


async def test_a_fault_within_a_group_puts_it_back_when_no_create_is_under_way(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.faults.fail("create_pod", ZeroDivisionError("oops"))
    hang = cluster.faults.hang("create_pod")
    uid = cluster.submit("group", replicas=6)
    await leader.take_in(uid)
    await leader.place(uid, *["n1"] * 6)
    await asyncio.wait_for(hang.reached.wait(), 30)
    assert leader.tracked(uid).applying
    hang.release()
    await leader.created(uid)
    await leader.observe()
    row = await leader.row(uid)
    assert (row.phase, row.reason) == (Phase.PENDING, "InternalError")


async def test_leadership_lost_within_a_group_ends_all_of_its_creates(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("group", replicas=40)
    await leader.take_in(uid)
    cluster.lease_lost = True
    await leader.place(uid, *["n1"] * 40)
    await asyncio.wait_for(leader.lost.wait(), 30)
    await until(lambda: not leader.tracked(uid).applying, "the creates end")
    assert not cluster.live_pods(uid)
    assert (await leader.row(uid)).phase is Phase.SCHEDULED
