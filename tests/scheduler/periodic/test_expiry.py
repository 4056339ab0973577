"""Expiry: finished objects are deleted by their UID, at a bounded rate, and no namespace holds up another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from niyanta.containment import Boundary
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.cluster_api import PodWriteError, WriteProblem
from niyanta.scheduler.periodic import expiry
from niyanta.settings import Settings
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.record import RestStore
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, contained_errors, until
from tests.scheduler.conftest import MakeLeader, SubmitRest

pytestmark = pytest.mark.store


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(expiry, "LONGEST_PAUSE_SECONDS", 0.02)


@pytest.fixture
async def recovered(make_leader: MakeLeader) -> LeaderUnderTest:
    """A leader after recovery, without its loop."""
    leader = make_leader()
    await leader.recover()
    return leader


async def finished(leader: LeaderUnderTest, *names: str, namespace: str = "default", ttl: int | None = 0) -> list[str]:
    """Finished workloads, at first with a time to live that is over; their ids."""
    life = {} if ttl is None else {"ttlSecondsAfterFinished": ttl}
    ids = [await leader.placed(name, "n1", cpu="100m", namespace=namespace, **life) for name in names]
    for uid in ids:
        leader.kubelet.succeed(uid)
    await leader.observe(*ids)
    return ids


async def deleted(leader: LeaderUnderTest, *names: str) -> None:
    """Wait until exactly these objects are deleted."""

    async def there() -> bool:
        await leader.expire()
        return sorted(leader.cluster.deleted_objects) == sorted(names)

    await until(there, f"{names} are deleted")


async def begun(leader: LeaderUnderTest, condition: Callable[[], object], what: str) -> None:
    """Begin deletions until `condition` is true."""

    def there() -> object:
        leader.begin_deletions()
        return condition()

    await until(there, what)


def count(cause: str) -> float:
    return REGISTRY.get_sample_value("niyanta_finished_objects_deleted_total", {"cause": cause}) or 0.0


async def test_the_object_of_a_finished_workload_is_deleted_after_its_time_to_live(
    recovered: LeaderUnderTest,
) -> None:
    before = count("ttl")
    (uid,) = await finished(recovered, "job")
    await finished(recovered, "kept", ttl=None)
    await finished(recovered, "later", ttl=3600)
    await deleted(recovered, "job")
    await recovered.take_gone(uid)
    row = await recovered.row(uid)
    assert row.phase is Phase.SUCCEEDED, "the row stays as history"
    assert count("ttl") == before + 1


async def test_objects_beyond_the_limit_of_a_namespace_are_deleted_oldest_first(make_leader: MakeLeader) -> None:
    leader = make_leader(finished_objects_per_namespace=2)
    await leader.recover()
    before = count("namespace_limit")
    for number in range(4):
        await finished(leader, f"job-{number}", ttl=None)
    await finished(leader, "bystander", namespace="other", ttl=None)
    await deleted(leader, "job-0", "job-1")
    assert count("namespace_limit") == before + 2


async def test_the_rate_of_deletions_is_bounded(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = make_leader(finished_object_deletions_per_second=0.001)
    await leader.recover()
    await finished(leader, "one", "two", "three")
    leader.allow_deletions(1.0)
    await leader.expire()
    await leader.expire()
    assert len(cluster.deleted_objects) == 1, "no further one for 1,000 seconds"


async def test_a_new_leader_counts_the_time_to_live_from_the_end(
    recovered: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    ids = await finished(recovered, "one", "two", ttl=3600)
    await finished(recovered, "kept", ttl=None)
    cluster.edit(ids[0], ttlSecondsAfterFinished=0)
    next_leader = make_leader()
    await next_leader.recover()
    assert len(next_leader.finished_objects) == 3
    assert not list(next_leader.workloads), "finished workloads take no room in memory"
    await deleted(next_leader, "one")


async def test_a_time_to_live_may_be_set_after_the_end(recovered: LeaderUnderTest, cluster: FakeCluster) -> None:
    (uid,) = await finished(recovered, "job", ttl=None)
    cluster.edit(uid, ttlSecondsAfterFinished=0)
    await recovered.take_in(uid)
    await deleted(recovered, "job")


async def test_an_object_whose_deletion_raises_leaves_the_others(
    recovered: LeaderUnderTest, cluster: FakeCluster
) -> None:
    before = contained_errors(Boundary.OBJECT_WRITE)
    await finished(recovered, "one", "two")
    cluster.faults.fail("delete_workload", ZeroDivisionError("oops"))
    await deleted(recovered, "one", "two")
    assert contained_errors(Boundary.OBJECT_WRITE) == before + 1


@pytest.mark.parametrize("problem", [WriteProblem.FORBIDDEN, WriteProblem.INVALID, WriteProblem.UNAVAILABLE])
async def test_an_object_whose_deletion_is_refused_is_tried_again_later(
    recovered: LeaderUnderTest, cluster: FakeCluster, problem: WriteProblem
) -> None:
    (uid,) = await finished(recovered, "one")
    cluster.faults.fail("delete_workload", PodWriteError(problem, "denied by a webhook"))
    await begun(recovered, lambda: cluster.faults.calls["delete_workload"], "it is tried")
    assert uid in recovered.finished_objects
    await deleted(recovered, "one")
    assert uid not in recovered.finished_objects


async def test_after_a_failure_a_namespace_is_tried_with_one_object_at_a_time(
    recovered: LeaderUnderTest, cluster: FakeCluster
) -> None:
    await finished(recovered, *(f"job-{number}" for number in range(6)))
    cluster.faults.fail("delete_workload", PodWriteError(WriteProblem.FORBIDDEN, "denied"), times=None)
    await begun(recovered, lambda: cluster.faults.calls["delete_workload"], "it is tried")
    await recovered.expire()
    cluster.faults.clear("delete_workload")
    hang = cluster.faults.hang("delete_workload", times=None)
    await begun(recovered, hang.reached.is_set, "it is tried again")
    recovered.begin_deletions()
    assert cluster.faults.under_way["delete_workload"] == 1
    cluster.faults.clear("delete_workload")
    await deleted(recovered, *(f"job-{number}" for number in range(6)))


async def test_deletions_that_hang_hold_up_no_due_row(recovered: LeaderUnderTest, cluster: FakeCluster) -> None:
    hung = await finished(recovered, "one", "two", "three")
    job = await recovered.placed("job", "n1", cpu="100m", timeoutSeconds=60, backoffLimit=0)
    recovered.kubelet.run(job)
    await recovered.observe(job)
    cluster.faults.hang("delete_workload", times=None)
    under_way = cluster.faults.under_way
    await begun(recovered, lambda: under_way["delete_workload"] == len(hung), "the deletions hang")
    await recovered.make_due(job)
    assert (await recovered.row(job)).reason == "Timeout"
    recovered.begin_deletions()
    assert cluster.faults.calls["delete_workload"] == len(hung), "each object has one deletion at a time"
    cluster.faults.clear("delete_workload")
    await deleted(recovered, "one", "three", "two")


async def test_deletions_of_one_namespace_hold_up_no_other(
    recovered: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()
    delete_workload = cluster.delete_workload

    async def slow(namespace: str, name: str, uid: str) -> None:
        if namespace == "slow":
            await release.wait()
        await delete_workload(namespace, name, uid)

    monkeypatch.setattr(cluster, "delete_workload", slow)
    await finished(recovered, *(f"slow-{number}" for number in range(12)), namespace="slow")
    await finished(recovered, "job")
    await begun(
        recovered,
        lambda: cluster.deleted_objects == ["job"],
        "the other namespace's object is deleted",
    )
    release.set()


async def test_a_namespace_whose_deletions_are_refused_uses_up_no_rate(
    make_leader: MakeLeader, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "FIRST_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(expiry, "LONGEST_PAUSE_SECONDS", 60.0)
    leader = make_leader(finished_object_deletions_per_second=40.0)
    await leader.recover()
    delete_workload = cluster.delete_workload
    refused = 0

    async def refuse(namespace: str, name: str, uid: str) -> None:
        nonlocal refused
        if namespace == "refusing":
            refused += 1
            raise PodWriteError(WriteProblem.FORBIDDEN, "denied by a webhook")
        await delete_workload(namespace, name, uid)

    monkeypatch.setattr(cluster, "delete_workload", refuse)
    await finished(leader, *(f"no-{number}" for number in range(8)), namespace="refusing")
    await begun(leader, lambda: refused, "deletions are refused")
    await leader.expire()
    tried = refused
    names = [f"job-{number}" for number in range(8)]
    await finished(leader, *names)
    await deleted(leader, *names)
    assert refused == tried


async def test_a_deletion_that_finds_leadership_lost_ends_it(recovered: LeaderUnderTest, cluster: FakeCluster) -> None:
    await finished(recovered, "one")
    cluster.lease_lost = True
    await begun(recovered, recovered.lost.is_set, "leadership is lost")


async def test_an_object_that_its_user_deletes_is_forgotten(recovered: LeaderUnderTest, cluster: FakeCluster) -> None:
    (uid,) = await finished(recovered, "job", ttl=None)
    cluster.delete_object(uid)
    await recovered.take_gone(uid)
    assert len(recovered.finished_objects) == 0
    assert (await recovered.row(uid)).phase is Phase.SUCCEEDED


async def test_a_workload_cancelled_by_the_deletion_of_its_object_leaves_none(
    recovered: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = await recovered.placed("job", "n1")
    cluster.delete_object(uid)
    await recovered.take_gone(uid)
    assert (await recovered.row(uid)).phase is Phase.CANCELLED
    assert len(recovered.finished_objects) == 0


async def test_the_object_of_a_rest_submission_has_the_time_to_live_of_the_setting(
    make_leader: MakeLeader, submit_rest: SubmitRest, cluster: FakeCluster
) -> None:
    leader = make_leader(rest_object_ttl_seconds=0)
    await leader.start()
    (id_,) = await submit_rest("job")
    await leader.reaches(id_, Phase.SCHEDULED)
    await leader.pods_of(id_)
    row = await leader.row(id_)
    leader.kubelet.run(id_)
    leader.kubelet.succeed(id_)
    await until(lambda: cluster.deleted_objects == [row.object_name], "its object is deleted")
    assert (await leader.row(id_)).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("suspended_before", [False, True])
async def test_the_object_of_a_rest_submission_that_was_cancelled_by_rest_goes_too(
    make_leader: MakeLeader,
    submit_rest: SubmitRest,
    cluster: FakeCluster,
    settings: Settings,
    pool: Pool,
    *,
    suspended_before: bool,
) -> None:
    record = RestStore(pool, settings)
    leader = make_leader(rest_object_ttl_seconds=0)
    await leader.start()
    (id_,) = await submit_rest("job")
    await leader.is_running(id_)
    name = (await leader.row(id_)).object_name
    if suspended_before:
        await record.move(id_, Event.SUSPEND)

        def left() -> bool:
            leader.kubelet.stop(id_)
            return id_ not in leader.workloads

        await until(left, "a suspended row leaves memory")
    await record.move(id_, Event.CANCEL)
    leader.work_queue.put_hint()
    await until(lambda: cluster.deleted_objects == [name], "its object is deleted")
    assert (await leader.row(id_)).phase is Phase.CANCELLED
