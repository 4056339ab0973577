"""Maintenance: drain queries are answered between two cycles."""

from __future__ import annotations

import pytest

from niyanta.lifecycle import Phase
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest

pytestmark = pytest.mark.store


async def test_a_worker_that_takes_pods_is_never_free(leader: LeaderUnderTest) -> None:
    assert not await leader.is_free("n1")


async def test_a_cordoned_worker_is_free_when_nothing_is_placed_on_it(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    assert await cluster.cordon("n1")
    assert not await leader.is_free("n1")
    leader.kubelet.succeed(uid)
    await leader.reaches(uid, Phase.SUCCEEDED)
    assert await leader.is_free("n1")


async def test_evicted_workloads_are_placed_elsewhere_and_it_counts_as_no_retry(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job", maxRetries=0)
    await leader.is_running(uid)
    cluster.add_node("n2")
    await cluster.cordon("n1")
    assert await leader.evict("n1", "ScaleDown") == 1
    leader.kubelet.stop(uid)
    await leader.pods_of(uid, 1)
    row = await leader.reaches(uid, Phase.SCHEDULED, attempt=2)
    assert (row.workers, row.failures) == (("n2",), 0)
