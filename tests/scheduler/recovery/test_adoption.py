"""Adoption: the database is older than the cluster. Rows follow pods and objects, and nothing that runs is removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from niyanta.lifecycle import Door, Phase
from niyanta.resources.labels import REST_ID
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.pods.observer import PodObserver
from niyanta.scheduler.pods.rest_object import rest_id
from niyanta.scheduler.recovery.adoption import submitted_name
from niyanta.store.postgres.pool import Pool
from niyanta.store.rows import WorkloadRow
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest
from tests.scheduler.conftest import MakeLeader, SubmitRest

pytestmark = pytest.mark.store


TABLES = ("workloads", "workload_state", "attempts", "workload_events", "queue_counters", "rest_names")


async def backed_up(pool: Pool) -> None:
    """Make a backup of the rows."""
    async with pool.connection() as connection:
        for table in TABLES:
            await connection.execute(f"CREATE TABLE backup_{table} AS TABLE {table}".encode())


async def emptied(pool: Pool) -> None:
    """Restore a backup from before the first row."""
    async with pool.connection() as connection:
        for table in reversed(TABLES):
            await connection.execute(f"DELETE FROM {table}".encode())


async def restored(pool: Pool) -> None:
    """Restore the backup."""
    await emptied(pool)
    async with pool.connection() as connection:
        for table in TABLES:
            await connection.execute(f"INSERT INTO {table} SELECT * FROM backup_{table}".encode())
            await connection.execute(f"DROP TABLE backup_{table}".encode())


async def test_rows_follow_running_pods_and_nothing_is_deleted(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    uid = await old.placed("group", "n1", "n1", replicas=2)
    old.kubelet.run(uid)
    await old.observe(uid)
    pods = [pod.uid for pod in cluster.live_pods(uid)]
    await old.close()
    await emptied(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(uid)
    assert (row.phase, row.attempt, row.workers) == (Phase.RUNNING, 1, ("n1", "n1"))
    assert [pod.uid for pod in cluster.live_pods(uid)] == pods
    assert not any(pod.deleting for pod in cluster.pods(uid))
    assert uid not in leader.workloads.queue


async def test_an_adopted_group_has_the_pools_of_its_pods(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    cluster.add_node("n2")
    uid = cluster.submit("group", replicas=3)
    await old.take_in(uid)
    await old.place(uid, "n1", "n2", "n2", pools=("pool-a", "pool-b", "pool-c"))
    await old.created(uid)
    old.kubelet.run(uid)
    await old.close()
    await emptied(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(uid)
    assert (row.phase, row.workers, row.pool) == (Phase.RUNNING, ("n1", "n2", "n2"), "pool-a")
    assert row.pools == ("pool-a", "pool-b", "pool-c")


async def test_an_adopted_placement_takes_its_capacity(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    uid = await old.placed("first", "n1", cpu="3")
    old.kubelet.run(uid)
    await old.close()
    await emptied(pool)
    leader = make_leader(adopting=True)
    await leader.start()
    second = cluster.submit("second", cpu="3")
    await leader.has_reason(second, "Unschedulable")
    assert (await leader.row(uid)).phase is Phase.RUNNING


async def test_a_row_whose_adoption_fails_ends_no_recovery(
    old: LeaderUnderTest,
    make_leader: MakeLeader,
    cluster: FakeCluster,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad, good = [await old.placed(name, "n1", cpu="1") for name in ("bad", "good")]
    for uid in (bad, good):
        old.kubelet.run(uid)
    await old.close()
    await emptied(pool)
    write_status = cluster.write_status

    def write(row: WorkloadRow) -> None:
        if row.id == bad and row.phase.bound:
            raise ZeroDivisionError("its status can't be made")
        write_status(row)

    monkeypatch.setattr(cluster, "write_status", write)
    leader = make_leader(adopting=True)
    await leader.recover()
    assert (await leader.row(good)).phase is Phase.RUNNING
    assert (await leader.row(bad)).workers == ("n1",)
    assert leader.tracked(bad).row.phase.bound, "memory follows what was committed"
    assert cluster.charged(bad) == ["n1"]


async def test_a_row_whose_pods_cannot_be_observed_ends_no_recovery(
    old: LeaderUnderTest,
    make_leader: MakeLeader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad, good = [await old.placed(name, "n1", cpu="1") for name in ("bad", "good")]
    for uid in (bad, good):
        old.kubelet.run(uid)
    await old.close()
    observe = PodObserver.observe

    async def failing(self: PodObserver, ids: Sequence[str]) -> None:
        if bad in ids:
            raise ZeroDivisionError("its pods can't be observed")
        await observe(self, ids)

    monkeypatch.setattr(PodObserver, "observe", failing)
    leader = make_leader()
    await leader.recover()
    assert [row.phase for row in await leader.rows([bad, good])] == [Phase.SCHEDULED, Phase.RUNNING]


async def test_a_workload_that_succeeded_after_the_backup_is_not_run_again(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    uid = await old.placed("job", "n1")
    old.kubelet.succeed(uid)
    await old.close()
    await emptied(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(uid)
    assert (row.phase, row.attempt) == (Phase.SUCCEEDED, 1)


async def test_an_incomplete_group_is_not_adopted_and_waits_for_its_pods(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    uid = await old.placed("group", "n1", "n1", replicas=2)
    old.kubelet.run(uid)
    await old.close()
    await emptied(pool)
    first = cluster.pods(uid)[0]
    await cluster.release_pod(first)
    await cluster.delete_pod(first, force=True)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(uid)
    assert row.phase is Phase.PENDING
    assert uid not in leader.workloads.queue


async def test_a_placed_row_follows_pods_of_a_later_attempt(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    cluster.add_node("n2")
    uid = await old.placed("job", "n1", backoffLimit=1)
    old.kubelet.run(uid)
    await old.observe(uid)
    await backed_up(pool)
    old.kubelet.fail(uid)
    await old.observe(uid)
    await old.place(uid, "n2")
    await old.created(uid)
    later = next(pod for pod in cluster.live_pods(uid) if pod.spec.node_name == "n2")
    old.kubelet.run_named(later.name)
    await old.close()
    await restored(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(uid)
    assert (row.phase, row.attempt, row.workers, row.failures) == (Phase.RUNNING, 2, ("n2",), 0)
    assert later.uid in {pod.uid for pod in cluster.live_pods(uid)}
    assert not any(pod.deleting for pod in cluster.pods(uid))
    assert cluster.charged(uid) == ["n2"]
    assert not await leader.store.wrong_counters()


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_group_that_lacks_pods_of_its_later_attempt_runs_again_under_a_new_number(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool, replicas: int
) -> None:
    uid = cluster.submit("group", replicas=replicas + 1, cpu="100m", backoffLimit=1)
    await old.take_in(uid)
    await backed_up(pool)
    await old.place(uid, *["n1"] * (replicas + 1))
    await old.created(uid)
    old.kubelet.run(uid)
    await old.close()
    first = cluster.pods(uid)[0]
    await cluster.release_pod(first)
    await cluster.delete_pod(first, force=True)
    await restored(pool)
    leader = make_leader(adopting=True)
    await leader.start()
    row = await leader.row(uid)
    assert (row.phase, row.attempt, row.failures) == (Phase.PENDING, 1, 0)
    leader.kubelet.stop(uid)
    assert (await leader.reaches(uid, Phase.SCHEDULED)).attempt == 2


async def test_a_held_row_whose_pods_run_goes_on_running(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    cluster.set_customer("acme", "other")
    uid = cluster.submit("job")
    await old.take_in(uid)
    assert (await old.row(uid)).phase is Phase.HELD
    await backed_up(pool)
    cluster.set_customer("acme", "team")
    await old.review_customers()
    await old.place(uid, "n1")
    await old.created(uid)
    old.kubelet.run(uid)
    await old.close()
    await restored(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    assert (await leader.row(uid)).phase is Phase.RUNNING
    assert not any(pod.deleting for pod in cluster.pods(uid))


# --- REST submissions -------------------------------------------------------------------------------------------------


@pytest.fixture
async def rest_job(old: LeaderUnderTest, submit_rest: SubmitRest) -> str:
    """A REST submission that runs on n1; its id."""
    (id_,) = await submit_rest("job", labels={"app": "x"})
    await old.follow_changes()
    await old.place(id_, "n1")
    await old.created(id_)
    old.kubelet.run(id_)
    await old.observe(id_)
    return id_


async def test_a_rest_submission_that_the_backup_lacks_is_rebuilt_from_its_object(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool, rest_job: str
) -> None:
    before = await old.row(rest_job)
    await old.close()
    await emptied(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(rest_job)
    assert (row.door, row.namespace, row.name, row.labels) == (Door.REST, "team", "job", {"app": "x"})
    assert (row.phase, row.attempt, row.workers) == (Phase.RUNNING, 1, ("n1",))
    assert (row.object, row.replicas) == (before.object, before.replicas)
    assert len(cluster.pod_names()) == 1
    assert not any(pod.deleting for pod in cluster.pods(rest_job))
    async with pool.connection() as connection:
        counted = await (await connection.execute("SELECT count(*) FROM workloads")).fetchone()
    assert counted == (1,), "its object is no workload of its own"


async def test_a_rest_submission_that_the_backup_has_without_its_object_follows_its_pods(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool, submit_rest: SubmitRest
) -> None:
    (id_,) = await submit_rest("job")
    await backed_up(pool)
    await old.follow_changes()
    await old.place(id_, "n1")
    await old.created(id_)
    old.kubelet.run(id_)
    await old.close()
    await restored(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(id_)
    assert (row.phase, row.attempt, row.object_name) == (Phase.RUNNING, 1, f"job-{id_[:8]}")
    assert not any(pod.deleting for pod in cluster.pods(id_))


async def test_an_object_with_a_copied_label_does_not_take_the_place_of_the_submission(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool, rest_job: str
) -> None:
    copied = cluster.submit(f"job-{rest_job[:8]}", namespace="other")
    cluster.objects[copied]["metadata"]["labels"] = {REST_ID: rest_job}
    await old.close()
    await emptied(pool)
    leader = make_leader(adopting=True)
    await leader.recover()
    row = await leader.row(rest_job)
    assert (row.namespace, row.phase) == ("team", Phase.RUNNING)
    own = await leader.row(copied)
    assert (own.door, own.namespace, own.phase) == (Door.KUBERNETES, "other", Phase.PENDING)


@pytest.mark.parametrize(
    "id_", ["", "x", "0A1B2C3D-0000-4000-8000-000000000000", "{0a1b2c3d-0000-4000-8000-000000000000}"]
)
def test_only_objects_of_the_leader_stand_for_a_submission(id_: str) -> None:
    obj = {"metadata": {"name": "job-0a1b2c3d", "namespace": "team", "labels": {REST_ID: id_}}}
    assert not submitted_name(obj)


@pytest.mark.parametrize(
    ("name", "submitted"), [("job-0a1b2c3d", "job"), ("job", ""), ("-0a1b2c3d", ""), ("job-0a1b2c3e", "")]
)
def test_the_name_of_a_submission_is_its_objects_without_the_suffix(name: str, submitted: str) -> None:
    labels = {REST_ID: "0a1b2c3d-0000-4000-8000-000000000000"}
    assert submitted_name({"metadata": {"name": name, "namespace": "team", "labels": labels}}) == submitted


async def test_a_submission_that_raises_leaves_the_others(
    old: LeaderUnderTest,
    make_leader: MakeLeader,
    cluster: FakeCluster,
    pool: Pool,
    rest_job: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uid = await old.placed("job", "n1")
    await old.close()
    await emptied(pool)
    read_object = object_to_row.read_object

    def fail(obj: dict[str, Any], *args: Any) -> Any:
        if rest_id(obj) == "" and obj["metadata"]["uid"] != uid:
            raise ZeroDivisionError
        return read_object(obj, *args)

    monkeypatch.setattr(object_to_row, "read_object", fail)
    leader = make_leader(adopting=True)
    await leader.recover()
    assert (await leader.row(uid)).phase is Phase.SCHEDULED
    assert cluster.live_pods(rest_job)
    async with pool.connection() as connection:
        counted = await (await connection.execute("SELECT count(*) FROM workloads")).fetchone()
    assert counted == (1,), "its object isn't taken for a workload of a user"


async def test_a_row_that_cannot_be_adopted_leaves_the_others(
    old: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    bad, good = [await old.placed(name, "n1", cpu="100m") for name in ("bad", "good")]
    await old.close()
    await emptied(pool)
    leader = make_leader(adopting=True)
    leader.outage.before["update_workload_status_batch"] = raising_for(bad)
    await leader.recover()
    assert (await leader.row(good)).phase is Phase.SCHEDULED
    assert (await leader.row(bad)).phase is Phase.PENDING
    assert cluster.live_pods(bad)


async def test_a_submission_that_cannot_be_written_leaves_the_others(
    old: LeaderUnderTest, make_leader: MakeLeader, pool: Pool, rest_job: str, submit_rest: SubmitRest
) -> None:
    (other,) = await submit_rest("other")
    await old.follow_changes()
    await old.place(other, "n1")
    await old.created(other)
    await old.close()
    await emptied(pool)
    leader = make_leader(adopting=True)
    leader.outage.before["take_in"] = raising_for(rest_job)
    await leader.recover()
    assert (await leader.row(other)).phase is Phase.SCHEDULED
    assert not await leader.store.get_workloads([rest_job])


def raising_for(id_: str) -> Callable[..., None]:
    """A check of the items of a write, which raises for one of them."""

    def check(items: Sequence[Any], **_: object) -> None:
        if id_ in {item.id for item in items}:
            raise ZeroDivisionError

    return check
