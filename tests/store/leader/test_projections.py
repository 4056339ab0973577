"""Rows through which the leader and the API processes communicate."""

from __future__ import annotations

import pytest

from niyanta.lifecycle import Door, Event
from niyanta.store.errors import StaleEpochError
from niyanta.store.postgres.pool import Pool
from niyanta.store.rows import (
    CustomerRow,
    PendingNote,
    PoolRow,
    RequestOutcome,
    WorkerAction,
    WorkerRequest,
    WorkerRow,
)
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


async def _asked(state: StateManager, worker: str, action: WorkerAction, **more: int) -> WorkerRequest:
    found = await state.add_worker_request(worker, action=action, by="ops", **more)
    assert found is not None
    return found


async def test_a_request_is_open_once_and_done_once(state: StateManager, epoch: int) -> None:
    assert await state.add_worker_request("w1", action=WorkerAction.DRAIN, by="ops") is None, "unknown worker"
    await state.upsert_workers([WorkerRow("w1", "pool"), WorkerRow("w2", "pool")])
    first = await _asked(state, "w1", WorkerAction.DRAIN)
    assert (first.draining, first.evict_at, first.outcome) == (True, None, None)
    again = await state.add_worker_request("w1", action=WorkerAction.DRAIN, by="else", evict_after=60)
    assert again is not None
    assert (again.id, again.requested_by) == (first.id, "else")
    assert again.evict_at is not None
    assert 59 < (again.evict_at - again.requested_at).total_seconds() < 61
    cordon = await _asked(state, "w1", WorkerAction.CORDON)
    assert await state.get_worker_requests() == [again, cordon]
    await state.complete_worker_request(first, outcome=RequestOutcome.DONE, message="drained", epoch=epoch)
    assert await state.get_worker_requests() == [again, cordon], "asked anew since it was read"
    await state.complete_worker_request(again, outcome=RequestOutcome.DONE, message="drained", epoch=epoch)
    assert await state.get_worker_requests() == [cordon]
    done = await state.get_worker_request("w1", first.id)
    assert done is not None
    assert (done.outcome, done.message, done.draining) == (RequestOutcome.DONE, "drained", False)
    assert await state.get_worker_request("w2", first.id) is None
    assert (await _asked(state, "w1", WorkerAction.DRAIN)).id != first.id
    with pytest.raises(StaleEpochError):
        await state.complete_worker_request(cordon, outcome=RequestOutcome.DONE, message="", epoch=epoch + 1)


async def test_reports_of_drains_are_kept_until_they_are_asked_anew(state: StateManager, epoch: int) -> None:
    await state.upsert_workers([WorkerRow("w1", "pool")])
    request = await _asked(state, "w1", WorkerAction.DRAIN)
    await state.report_worker_requests({request: "1 workload"}, epoch=epoch)
    (begun,) = await state.get_worker_requests()
    assert begun.begun_at is not None
    await state.report_worker_requests({begun: "none"}, epoch=epoch)
    (later,) = await state.get_worker_requests()
    assert (later.begun_at, later.message) == (begun.begun_at, "none")
    anew = await _asked(state, "w1", WorkerAction.DRAIN)
    assert (anew.begun_at, anew.message) == (None, "")
    await state.report_worker_requests({later: "late"}, epoch=epoch)
    assert await state.get_worker_requests() == [anew]


async def test_the_last_request_about_a_worker_is_its_open_drain_or_the_newest(state: StateManager, epoch: int) -> None:
    await state.upsert_workers([WorkerRow(name, "pool") for name in ("w1", "w2", "w3")])
    drain = await _asked(state, "w1", WorkerAction.DRAIN)
    for name in ("w1", "w2"):
        await _asked(state, name, WorkerAction.CORDON)
    newest = await _asked(state, "w2", WorkerAction.UNCORDON)
    assert await state.get_last_worker_requests(["w1", "w2", "w3"]) == {"w1": drain, "w2": newest}


async def test_requests_that_ended_long_ago_are_deleted(state: StateManager, epoch: int) -> None:
    await state.upsert_workers([WorkerRow("w1", "pool")])
    old = await _asked(state, "w1", WorkerAction.CORDON)
    await state.complete_worker_request(old, outcome=RequestOutcome.DONE, message="", epoch=epoch)
    async with state._pool.transaction() as connection:
        await connection.execute("UPDATE worker_requests SET done_at = now() - interval '31 days'")
    new = await _asked(state, "w1", WorkerAction.CORDON)
    await state.complete_worker_request(new, outcome=RequestOutcome.DONE, message="", epoch=epoch)
    assert await state.get_worker_request("w1", old.id) is None
    assert await state.get_worker_request("w1", new.id) is not None


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
