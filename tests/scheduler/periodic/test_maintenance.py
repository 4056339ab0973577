"""Maintenance: drain queries are answered between two cycles."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from niyanta.containment import Boundary
from niyanta.lifecycle import Phase
from niyanta.store.postgres.pool import Pool
from niyanta.store.queue_classes import WaitingClass
from niyanta.store.rows import WorkerRequest
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, contained_errors, until

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
    uid = cluster.submit("job", backoffLimit=0)
    await leader.is_running(uid)
    cluster.add_node("n2")
    await cluster.cordon("n1")
    assert await leader.evict("n1", "ScaleDown") == 1
    leader.kubelet.stop(uid)
    await leader.pods_of(uid, 1)
    row = await leader.reaches(uid, Phase.SCHEDULED, attempt=2)
    assert (row.workers, row.failures) == (("n2",), 0)


async def test_a_drain_query_that_raises_goes_to_the_pool_that_asks_and_the_others_are_answered(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedulable = cluster.is_schedulable

    def fail(node: str) -> bool:
        if node == "bad":
            raise ZeroDivisionError
        return schedulable(node)

    monkeypatch.setattr(cluster, "is_schedulable", fail)
    bad, good = await asyncio.gather(leader.is_free("bad"), leader.is_free("n1"), return_exceptions=True)
    assert isinstance(bad, ZeroDivisionError)
    assert good is False
    uid = cluster.submit("job")
    await leader.is_running(uid)


async def test_a_task_that_raises_leaves_the_others(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contained_errors(Boundary.TIMER)
    written = leader.store.write_leader_stats
    statistics: list[object] = []

    async def fail() -> list[WorkerRequest]:
        raise ZeroDivisionError

    async def write(*args: Any, **kwargs: Any) -> None:
        statistics.append(args)
        await written(*args, **kwargs)

    monkeypatch.setattr(leader.store, "get_worker_requests", fail)
    monkeypatch.setattr(leader.store, "write_leader_stats", write)
    await until(lambda: contained_errors(Boundary.TIMER) > before, "the error is contained")
    statistics.clear()
    await until(lambda: statistics, "the statistics are written")
    uid = cluster.submit("job")
    await leader.is_running(uid)


async def test_the_statistics_for_the_rest_door_count_what_is_outside_memory(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []

    async def write(stats: dict[str, Any], *, epoch: int | None) -> None:
        written.append(stats)

    uid = cluster.submit("job", cpu="1000")
    await until(lambda: leader.workloads.get(uid), "it waits in memory")
    assert leader.tracked(uid).row.phase is Phase.PENDING
    monkeypatch.setattr(leader.store, "write_leader_stats", write)

    def is_counted() -> bool:
        counts = {"pending": 4, "pending_rest": 4, "oldest_us": 7, "key": 0}
        leader.backlog.counted([WaitingClass("acme", "s", "team", 1, **counts)])  # again, as no row agrees with it
        return bool(written) and (written[-1]["pending"], written[-1]["oldest_us"]) == (5, 7)

    await until(is_counted, "all are counted")


async def test_the_leader_deletes_queue_classes_that_were_empty_for_long(leader: LeaderUnderTest, pool: Pool) -> None:
    async def left(table: str) -> set[str]:
        async with pool.connection() as connection:
            found = await connection.execute(
                f"SELECT queue_class FROM {table} WHERE queue_class ~ '^(old|new)'".encode()
            )
            return {name for (name,) in await found.fetchall()}

    async with pool.connection() as connection:
        await connection.execute(
            b"INSERT INTO class_states (customer_id, queue_class, since) SELECT 'acme', c, now()"
            b" FROM unnest('{old,new}'::text[]) AS c"
        )
        await connection.execute(b"INSERT INTO queue_classes (queue_class, compiled) VALUES ('old', ''), ('new', '')")
        await connection.execute(
            b"INSERT INTO queue_class_counts (customer_id, queue_class, emptied_at)"
            b" VALUES ('acme', 'old', now() - interval '61 minutes'), ('acme', 'new', now())"
        )
    for table in ("queue_class_counts", "class_states", "queue_classes"):

        async def only_new(table: str = table) -> bool:
            return await left(table) == {"new"}

        await until(only_new, f"the old class is gone from {table}")
