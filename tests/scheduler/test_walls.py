"""Walls: work that cannot be placed hides no work that can, however much of it there is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.engine.queue.order import MINUTE_US
from niyanta.engine.queue.queue import Queue
from niyanta.engine.types import Expression, Op, PeerTerm, PendingWorkload, Requirements, Selector, Subject
from niyanta.lifecycle import Phase
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest
from tests.scheduler.conftest import MakeLeader

WALL_ROWS = 21_000

LARGE = Requirements((("cpu", 64_000), ("pods", 1)))
"""More than any worker has."""

SMALL = Requirements((("cpu", 100), ("pods", 1)))


def ahead(number: int, requirements: Requirements, *, queued_at: int, **labels: str) -> PendingWorkload:
    """A workload of the customer `greedy`, with the highest priority."""
    subject = Subject("crowd", "greedy", labels=tuple(labels.items()))
    return PendingWorkload(
        f"wall-{number:05}", 1, 1, subject, requirements, priority=100, tier_weight=100, queued_at=queued_at
    )


async def waiting(leader: LeaderUnderTest, cluster: FakeCluster) -> tuple[list[str], int]:
    """Jobs of the customer `acme` that fit the idle worker, and the time at which they were queued."""
    uids = [cluster.submit(f"job-{number}", cpu="100m") for number in range(5)]
    await leader.take_in(*uids)
    first = leader.workloads.queue.get(uids[0])
    if first is None:
        pytest.fail("the jobs are in the queue", pytrace=False)
    return uids, first.queued_at


async def placed(leader: LeaderUnderTest, uids: list[str], *, cycles: int) -> int:
    """Number of the workloads that are placed within so many cycles."""
    for _ in range(cycles):
        await leader.run_cycle()
    return [row.phase for row in await leader.rows(uids)].count(Phase.SCHEDULED)


@pytest.mark.store
async def test_many_unplaceable_workloads_hide_no_placeable_ones(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = make_leader()
    await leader.recover()
    uids, queued_at = await waiting(leader, cluster)
    for number in range(WALL_ROWS):
        leader.workloads.queue.push(ahead(number, LARGE, queued_at=queued_at))
    assert await placed(leader, uids, cycles=3) == len(uids)


@pytest.mark.store
async def test_the_backlog_of_a_customer_at_its_limit_hides_no_other_customer(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    cluster.set_customer("greedy", "crowd", maxConcurrent=1)
    leader = make_leader()
    await leader.recover()
    only = cluster.submit("only", namespace="crowd", cpu="100m")
    await leader.take_in(only)
    if await placed(leader, [only], cycles=1) != 1:
        pytest.fail("the customer reaches its limit", pytrace=False)
    uids, queued_at = await waiting(leader, cluster)
    for number in range(WALL_ROWS):
        leader.workloads.queue.push(ahead(number, SMALL, queued_at=queued_at))
    assert await placed(leader, uids, cycles=3) == len(uids)


@pytest.mark.store
async def test_thousands_of_different_terms_of_a_customer_take_the_time_of_no_other(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    """400 workloads with 16 NotIn terms each; every term has to be compared with every workload of the scope."""
    leader = make_leader(max_cycle_seconds=0.1)
    await leader.recover()
    uids, queued_at = await waiting(leader, cluster)
    for number in range(400):
        terms = tuple(
            PeerTerm(Selector(labels=(Expression(f"key-{part}", Op.NOT_IN, (f"value-{number}",)),)))
            for part in range(16)
        )
        requirements = Requirements(LARGE.requests, anti=terms)
        leader.workloads.queue.push(ahead(number, requirements, queued_at=queued_at, name=f"row-{number}"))
    assert await placed(leader, uids, cycles=10) == len(uids)


@pytest.mark.unit
def test_equal_workloads_of_a_customer_hide_no_other_from_the_expedited_lane() -> None:
    queue = Queue()
    requirements = Requirements(LARGE.requests)
    for number in range(6000):
        queue.push(replace(ahead(number, requirements, queued_at=number), queue_class="greedy"))
    queue.push(PendingWorkload("other", 1, 1, Subject("quiet", "other"), SMALL, queued_at=MINUTE_US))
    assert "other" in {workload.id for workload in queue.waited(MINUTE_US)}
    assert [workload.id for workload in queue.waited(MINUTE_US, most=2)] == ["wall-00000", "other"]
