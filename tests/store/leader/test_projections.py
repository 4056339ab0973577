"""Rows through which the leader and the API processes communicate."""

from __future__ import annotations

import pytest

from niyanta.lifecycle import Door, Event
from niyanta.store.errors import StaleEpochError
from niyanta.store.postgres.pool import Pool
from niyanta.store.rows import CustomerRow, PendingNote, PoolRow, WorkerRow
from niyanta.store.state import StateManager
from tests.store.make import arrive, change, intake, move

pytestmark = pytest.mark.store


async def test_a_leader_skips_its_own_changes_and_sees_all_others(state: StateManager, epoch: int) -> None:
    start = await state.cursor()
    own = await arrive(state, epoch=epoch)
    (foreign,) = await state.take_in([intake(door=Door.REST)], epoch=None)
    rows, cursor = await state.changes_since(start, not_by=epoch)
    assert [row.id for row in rows] == [foreign.id]
    rows, _ = await state.changes_since(start, not_by=epoch + 1)
    assert {row.id for row in rows} == {own.id, foreign.id}

    await state.note_pending([PendingNote(own.id, own.version, "NoFit", "no")], epoch=epoch)
    await move(state, foreign, Event.PLACE, epoch=epoch)
    assert await state.changes_since(cursor, not_by=epoch) == ([], (await state.changes_since(cursor))[1])
    (own,) = await state.get_workloads([own.id])
    await state.update_workload_status_batch([change(own, Event.CANCEL)], epoch=None)
    await state.set_wake([own.id], 5, epoch=epoch)
    rows, _ = await state.changes_since(cursor, not_by=epoch)
    assert [row.id for row in rows] == [own.id], "setting a wake-up doesn't hide what another wrote"


async def test_typed_reasons_are_kept_until_the_phase_changes(state: StateManager, epoch: int, pool: Pool) -> None:
    row = await arrive(state, epoch=epoch)

    async def reasons() -> object:
        async with pool.connection() as connection:
            cursor = await connection.execute("SELECT reasons FROM workload_state WHERE id = %s", [row.id])
            return (await cursor.fetchone() or ())[0]

    assert await reasons() == []
    await state.note_pending([PendingNote(row.id, row.version, "NoFit", "m", [["NoGpu", "A100", 3]])], epoch=epoch)
    assert await reasons() == [["NoGpu", "A100", 3]]
    await state.note_pending([PendingNote(row.id, row.version, "NoFit", "m", [["NoGpu", "A100", 4]])], epoch=epoch)
    assert await reasons() == [["NoGpu", "A100", 4]], "other reasons under the same words count"
    await state.take_in([intake(id=row.id, generation=2, priority=3)], epoch=epoch)
    assert await reasons() == [["NoGpu", "A100", 4]]
    (row,) = await state.get_workloads([row.id])
    await move(state, row, Event.PLACE, epoch=epoch)
    assert await reasons() == []


async def test_the_object_of_a_rest_submission_is_stored(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch, door=Door.REST)
    assert (row.object_uid, row.object_name) == (None, None)
    await state.set_object(row.id, uid="u-1", name="job-00000000", epoch=epoch)
    (seen,) = await state.get_workloads([row.id])
    assert (seen.object_uid, seen.object_name, seen.version) == ("u-1", "job-00000000", row.version)
    with pytest.raises(StaleEpochError):
        await state.set_object(row.id, uid="u-2", name="x", epoch=epoch + 1)


async def test_the_leaders_statistics_have_an_age(state: StateManager, epoch: int) -> None:
    assert await state.get_leader_stats() == ({}, None)
    await state.write_leader_stats({"placed_per_minute": 12.5}, epoch=epoch)
    stats, age = await state.get_leader_stats()
    assert stats == {"placed_per_minute": 12.5}
    assert age is not None
    assert 0 <= age < 5
    with pytest.raises(StaleEpochError):
        await state.write_leader_stats({}, epoch=epoch + 1)


async def test_a_drain_is_requested_once_and_done_once(state: StateManager, epoch: int) -> None:
    assert await state.add_worker_request("w1", action="drain", by="ops") is None, "unknown worker"
    await state.upsert_workers([WorkerRow("w1", "pool")])
    first = await state.add_worker_request("w1", action="drain", by="ops")
    again = await state.add_worker_request("w1", action="drain", by="else")
    assert first is not None
    assert again == first
    assert await state.get_worker_requests() == [first]
    await state.complete_worker_request(first.id, message="cordoned", epoch=epoch)
    assert await state.get_worker_requests() == []
    later = await state.add_worker_request("w1", action="drain", by="ops")
    assert later is not None
    assert later.id != first.id


async def test_pools_and_customers_are_projected(state: StateManager) -> None:
    await state.upsert_pools([PoolRow("a", {"region": "x"}, {"replicas": 1}), PoolRow("b")])
    await state.upsert_pools([PoolRow("a", {"region": "y"}, {"replicas": 2})])
    first, second = await state.get_pools()
    assert (first.name, first.spec, first.status) == ("a", {"region": "y"}, {"replicas": 2})
    assert first.updated_at is not None
    await state.delete_pools(["a", "zzz"])
    assert [pool.name for pool in await state.get_pools()] == [second.name]

    customer = CustomerRow(
        "acme",
        "Free",
        {"maxQueueDepth": 5},
        ("ns",),
        service_accounts=("runner",),
        secrets=("pull",),
        allow_cluster_scope=True,
        template_lists={"priorityClasses": ["low"], "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    )
    await state.upsert_customers([customer])
    assert await state.get_customer("acme") == customer
    assert await state.get_customer("other") is None
    await state.delete_customer("acme")
    found = await state.get_customer("acme")
    assert found is not None
    assert found.deleted
