"""A leader has all rights that it needs in the operator's role, which owns nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from niyanta.lifecycle import Door, Event, Phase
from niyanta.settings import Settings
from niyanta.store.leader.demand_stats import DemandStats
from niyanta.store.leader.scaling import DrainRow, DrainStep, ScalingDecision
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.notify import listen
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.rest.api_keys import ApiKeys
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import StoredResponse, SubmissionRequest
from niyanta.store.rows import CustomerRow, PendingNote, PoolRow, RequestOutcome, WorkerAction, WorkerRow
from niyanta.store.state import StateManager
from tests.store.make import arrive, change, intake, move, pending_rows
from tests.store.roles import door_dsn, operator_dsn

pytestmark = pytest.mark.store

ACME = CustomerRow("acme", "Standard", {}, ("team",))


@pytest.fixture
def settings(dsn: str) -> Settings:
    return Settings(dsn=operator_dsn(dsn), identity="leader", db_pool_min=1)


async def test_it_leads(leadership: Leadership, epoch: int) -> None:
    assert await leadership.renew(epoch)
    assert (await leadership.current()).epoch == epoch
    assert await leadership.database_identity()
    raised = await leadership.adopt_epoch(epoch + 5)
    await leadership.release(raised)
    assert await leadership.try_acquire() is not None


@pytest.mark.parametrize("door", list(Door))
async def test_it_takes_rows_in_and_moves_them_through_every_phase(state: StateManager, epoch: int, door: Door) -> None:
    for phase in Phase:
        assert (await arrive(state, epoch=epoch, phase=phase, door=door, name=f"to-{phase.name}")).phase is phase
    row = await arrive(state, epoch=epoch, door=door)
    edited = intake(id=row.id, generation=2, spec={"priority": 3}, labels={}, door=door)
    (row,) = await state.take_in([edited], epoch=epoch, queue_limits={"acme": 100})
    await state.note_pending([PendingNote(row.id, row.version, "NoFit", "no", [["NoFit"]])], epoch=epoch)
    await state.set_wake([row.id], 0.0, epoch=epoch)
    assert row.id in {due.id for due in await state.get_due(10)}
    await state.set_object(row.id, uid="u", name="n", epoch=epoch)
    await state.reassign(row.id, customer="other", tier_weight=5, epoch=epoch)
    await state.retier("other", 7, epoch=epoch)
    (row,) = await state.get_workloads([row.id])
    placed = await move(state, row, Event.PLACE, epoch=epoch)
    assert [found.id for found in await state.get_workloads_by_worker("w1") if found.id == row.id] == [placed.id]
    assert await state.get_events(row.id)
    assert await state.get_waiting_classes() is not None
    assert await state.wrong_counters() == []


async def test_it_holds_and_releases(state: StateManager, epoch: int) -> None:
    rows = await state.take_in([intake(door=Door.REST, name=f"r{n}") for n in range(2)], epoch=epoch)
    assert len(await state.hold_rows("acme", "CustomerGone", "", epoch=epoch)) == 2
    assert len(await state.release_rows("acme", epoch=epoch, queue_limit=1)) == 2
    assert len(await state.release_held("acme", 5, epoch=epoch)) == 1
    found = await state.get_workloads([row.id for row in rows])
    assert {row.phase for row in found} == {Phase.PENDING}


async def test_it_loads_follows_and_refills(state: StateManager, epoch: int) -> None:
    cursor = await state.cursor()
    rows = [await arrive(state, epoch=epoch, door=door, name=door.value) for door in Door]
    changed, _ = await state.changes_since(cursor, not_by=epoch + 1)
    assert {row.id for row in changed} == {row.id for row in rows}
    assert len([row async for row in state.get_active()]) == 2
    assert len([row async for row in state.get_active(pending_doors=(Door.KUBERNETES,))]) == 1
    assert len(await pending_rows(state, 10)) == 2
    assert (await state.get_queue_depth()).customers["acme"].pending == 2
    assert await state.clock() > 0


async def test_it_measures_the_horizon_and_keeps_the_partitions(state: StateManager, epoch: int) -> None:
    assert await state.measure_horizon() >= 0.0
    await state.maintain_partitions()


async def test_it_writes_projections_and_figures(state: StateManager, epoch: int) -> None:
    await state.upsert_customers([ACME])
    assert await state.get_customer("acme") is not None
    await state.delete_customer("acme")
    worker = WorkerRow("w1", "gpu", allocatable={"cpu": 4})
    await state.upsert_workers([worker])
    await state.delete_workers(["w1"])
    await state.upsert_pools([PoolRow("gpu", {}, {})])
    await state.delete_pools(["gpu"])
    await state.write_leader_stats({"pending": 1}, epoch=epoch)
    assert (await state.get_leader_stats())[0] == {"pending": 1}
    await state.write_figures(DemandStats(at=1, epoch=epoch), epoch=epoch)
    await state.get_figures()
    await state.write_shapes({"gpu": {"cpu": 4}}, epoch=epoch)
    await state.get_shapes()


async def test_it_records_scaling_and_carries_out_requests_for_workers(state: StateManager, epoch: int) -> None:
    drain = DrainRow("gpu", "i-1", "w1", was_cordoned=False, started_at=0)
    down = ScalingDecision("gpu", "ScaleDown", worker="w1", instance="i-1", wanted=1, had=2, reason="empty")
    await state.record_scaling([down], epoch=epoch, begin=[drain])
    await state.step_drain(drain, DrainStep.CORDONED, epoch=epoch)
    await state.record_scaling([replace(down, action="WorkerRemoved")], epoch=epoch, end=[drain])
    assert await state.get_drains() == []
    assert await state.last_scaled(["ScaleDown"])
    assert await state.get_scaling_decisions("gpu")
    await state.upsert_workers([WorkerRow("w1", "gpu")])
    request = await state.add_worker_request("w1", action=WorkerAction.DRAIN, by="ops")
    assert request is not None
    await state.report_worker_requests({request: "cordoned"}, epoch=epoch)
    await state.complete_worker_request(request, outcome=RequestOutcome.DONE, message="drained", epoch=epoch)
    assert await state.get_worker_requests() == []


async def test_it_counts_the_keys_that_expire(pool: Pool, epoch: int) -> None:
    assert await ApiKeys(pool).expiring(7.0) == 0


@pytest.fixture
async def door(dsn: str) -> AsyncIterator[RestStore]:
    """The REST door's store, in the door's role."""
    settings = Settings(dsn=door_dsn(dsn), identity="door", db_pool_min=1)
    async with await open_pool(settings) as pool:
        yield RestStore(pool, settings)


async def test_it_hears_of_submissions_and_follows_what_the_door_wrote(
    state: StateManager, epoch: int, settings: Settings, door: RestStore
) -> None:
    await state.upsert_customers([ACME])
    hints: asyncio.Queue[None] = asyncio.Queue()
    listening = asyncio.create_task(listen(settings.dsn, lambda: hints.put_nowait(None)))
    async with asyncio.timeout(30):
        await hints.get()
        cursor = await state.cursor()
        spec = {"priority": 10, "template": {}}
        request = SubmissionRequest(
            "acme", [intake(door=Door.REST, spec=spec)], None, lambda _: StoredResponse(202, None, keep=False)
        )
        await door.submit([request])
        await hints.get()
    listening.cancel()
    ((row,), _) = await state.changes_since(cursor, not_by=epoch)
    result = await state.update_workload_status_batch([change(row, Event.PLACE)], epoch=epoch, cycle=1)
    assert [moved.phase for moved in result.applied] == [Phase.SCHEDULED]
    await door.move(row.id, Event.CANCEL)
    (row,) = await state.get_workloads([row.id])
    assert row.phase is Phase.CANCELLED
