"""Row retention: finished rows go after their time, but never while their object exists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import deepcopy
from datetime import timedelta

import psycopg
import pytest

from niyanta.lifecycle import Phase
from niyanta.scheduler.periodic import row_retention
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store

Age = Callable[..., Awaitable[None]]


@pytest.fixture
async def recovered(make_leader: MakeLeader) -> LeaderUnderTest:
    """A leader after recovery, without its loop."""
    leader = make_leader()
    await leader.recover()
    return leader


@pytest.fixture
def age(dsn: str) -> Age:
    """Lets rows have ended `days` days ago."""

    async def move(*ids: str, days: float = 31) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(
                "UPDATE workload_state SET finished_at = finished_at - %s WHERE id = ANY(%s::uuid[])",
                [timedelta(days=days), list(ids)],
            )

    return move


async def finished(leader: LeaderUnderTest, *names: str) -> list[str]:
    ids = [await leader.placed(name, "n1", cpu="100m") for name in names]
    for uid in ids:
        leader.kubelet.succeed(uid)
    await leader.observe(*ids)
    for uid in ids:
        leader.kubelet.stop(uid)
    await leader.observe(*ids)
    return ids


async def user_deletes(leader: LeaderUnderTest, uid: str) -> None:
    leader.cluster.delete_object(uid)
    await leader.take_gone(uid)
    leader.kubelet.stop(uid)
    await leader.observe(uid)


async def present(leader: LeaderUnderTest, *ids: str) -> set[str]:
    return {row.id for row in await leader.store.get_workloads(ids, with_spec=False)}


async def test_rows_go_when_their_objects_are_gone(recovered: LeaderUnderTest, age: Age) -> None:
    ids = await finished(recovered, "deleted", "exists", "young")
    await age(*ids[:2])
    await user_deletes(recovered, ids[0])
    await user_deletes(recovered, ids[2])
    await recovered.retain_rows()
    assert await present(recovered, *ids) == set(ids[1:])


async def test_a_row_goes_in_a_later_pass_when_its_object_is_gone(
    recovered: LeaderUnderTest, age: Age, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_retention, "PASS_EVERY_SECONDS", 0.0)
    (uid,) = await finished(recovered, "job")
    await age(uid)
    await recovered.retain_rows()
    assert await present(recovered, uid)
    await user_deletes(recovered, uid)
    await recovered.retain_rows()
    assert not await present(recovered, uid)


async def test_rows_whose_objects_exist_do_not_hold_up_those_behind_them(
    recovered: LeaderUnderTest, age: Age, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_retention, "SLICE_ROWS", 2)
    ids = await finished(recovered, *(f"job-{number}" for number in range(5)))
    for place, uid in enumerate(ids):
        await age(uid, days=40 - place)
    await user_deletes(recovered, ids[-1])

    async def gone() -> bool:
        await recovered.retain_rows()
        return not await present(recovered, ids[-1])

    await until(gone, "the last row is deleted")
    assert await present(recovered, *ids) == set(ids[:-1])


async def test_an_object_is_not_taken_in_anew_after_its_row_was_deleted(
    recovered: LeaderUnderTest, make_leader: MakeLeader, age: Age, cluster: FakeCluster
) -> None:
    """The API server was restored from a backup, say, so that an object came back."""
    (uid,) = await finished(recovered, "job")
    obj = deepcopy(cluster.objects[uid])
    obj["status"] = {"phase": "Succeeded", "observedGeneration": 1, "completionTime": "2020-01-01T00:00:00Z"}
    await age(uid)
    await user_deletes(recovered, uid)
    await recovered.retain_rows()
    assert not await present(recovered, uid)
    cluster.objects[uid] = obj
    await recovered.take_in(uid)
    assert not await present(recovered, uid)
    assert uid in recovered.finished_objects
    next_leader = make_leader(finished_objects=1)
    await next_leader.recover()
    assert not list(next_leader.workloads)
    await finished(next_leader, "younger")

    async def deleted() -> bool:
        await next_leader.expire()
        return cluster.deleted_objects == ["job"]

    await until(deleted, "the oldest object is deleted, though it has no row")


async def test_a_finished_object_that_a_restored_database_lacks_does_not_run_again(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    users, rest = cluster.submit("job"), cluster.submit("sub-0a1b2c3d")
    for uid in (users, rest):
        cluster.objects[uid]["status"] = {"phase": "Failed", "completionTime": "2026-01-01T00:00:00Z"}
    cluster.objects[rest]["metadata"]["labels"] = {"niyanta.io/rest-id": "0a1b2c3d-0000-4000-8000-000000000000"}
    leader = make_leader(adopting=True)
    await leader.recover()
    assert not list(leader.workloads)
    assert leader.finished_objects.uids() == {users, rest}


async def test_a_status_that_is_ahead_of_its_row_changes_nothing(
    recovered: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    uid = await recovered.placed("job", "n1")
    cluster.objects[uid]["status"] = {"phase": "Succeeded"}
    next_leader = make_leader()
    await next_leader.recover()
    assert next_leader.tracked(uid).row.phase is Phase.SCHEDULED
    assert uid not in next_leader.finished_objects


async def test_a_finished_object_is_known_to_the_next_leader_and_its_late_status_is_written(
    recovered: LeaderUnderTest, make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    shown, late = await finished(recovered, "shown", "late")
    row = await recovered.row(shown)
    cluster.objects[shown]["status"] = {
        "phase": "Succeeded",
        "observedGeneration": 1,
        "attempts": 1,
        "assignments": [{"index": 0, "nodeName": "n1"}],
        "reason": row.reason,
    }
    cluster.objects[late]["status"] = {"phase": "Succeeded"}
    cluster.statuses.clear()
    next_leader = make_leader()
    await next_leader.recover()
    assert next_leader.finished_objects.uids() == {shown, late}
    assert set(cluster.statuses) == {late}
