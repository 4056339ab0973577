"""Ingest of new, edited, known and finished workloads."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.lifecycle import Phase
from niyanta.store.errors import RowEncodingError
from niyanta.store.rows import Depth
from niyanta.store.state import StateManager
from tests.store.make import arrive, intake, pending_rows

pytestmark = pytest.mark.store


async def test_a_new_workload_becomes_a_row_once(state: StateManager, epoch: int) -> None:
    wanted = intake(labels={"a": "b"}, spec={"deep": {"er": [1, 2.5, None]}}, message="hello")
    (row,) = await state.take_in([wanted], epoch=epoch)
    (again,) = await state.take_in([wanted], epoch=epoch)
    assert again == row == (await state.get_workloads([wanted.id]))[0]
    assert (row.phase, row.version, row.attempt, row.customer) == (Phase.PENDING, 1, 0, "acme")
    assert (row.labels, row.spec, row.message) == (wanted.labels, wanted.spec, "hello")
    assert (row.created_at is None, row.wake_at) == (False, None)
    assert [event.event for event in await state.get_events(row.id)] == ["Accepted"]
    assert (await state.get_queue_depth()).total == Depth(pending=1)


async def test_one_batch_keeps_its_order_of_arrival(state: StateManager, epoch: int) -> None:
    rows = await state.take_in([intake() for _ in range(20)], epoch=epoch)
    assert [row.id for row in await pending_rows(state, 20)] == [row.id for row in rows]
    assert [row.queued_at_us - rows[0].queued_at_us for row in rows] == list(range(20))


async def test_a_higher_generation_edits_and_a_lower_or_equal_one_does_nothing(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch, generation=5)
    edit = intake(id=row.id, generation=6, priority=20, tier_weight=50, class_id="class-b", spec={"priority": 20})
    (edited,) = await state.take_in([edit], epoch=epoch)
    assert (edited.generation, edited.version, edited.priority, edited.spec) == (6, 2, 20, {"priority": 20})
    assert edited.queue_key - row.queue_key == (20 * 50 - 10 * 10) * 60_000_000
    assert edited.queued_at_us == row.queued_at_us
    for generation in (5, 6):
        assert await state.take_in([intake(id=row.id, generation=generation, priority=99)], epoch=epoch) == [edited]
    assert await state.get_workloads([row.id]) == [edited]
    assert [event.event for event in await state.get_events(row.id)] == ["Accepted", "Edited"]
    assert await state.wrong_counters() == []


async def test_an_edit_that_cannot_be_read_leaves_the_last_spec(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch, generation=1, spec={"priority": 10})
    unreadable = intake(id=row.id, generation=2, phase=Phase.FAILED, reason="InvalidSpec", spec={}, priority=0)
    (edited,) = await state.take_in([unreadable], epoch=epoch)
    stored = await state.get_workload(row.id)
    assert stored is not None
    assert (edited.generation, stored.spec, edited.priority) == (2, {"priority": 10}, row.priority)
    assert (edited.phase, edited.queue_key) == (row.phase, row.queue_key)
    assert await state.wrong_counters() == []


async def test_the_highest_generation_in_a_batch_counts(state: StateManager, epoch: int) -> None:
    old = intake(generation=1, priority=1)
    new = intake(id=old.id, generation=2, priority=2)
    (row,) = await state.take_in([new, old], epoch=epoch)
    assert (row.generation, row.priority) == (2, 2)


async def test_a_finished_workload_is_never_restarted(state: StateManager, epoch: int) -> None:
    for phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED):
        row = await arrive(state, epoch=epoch, phase=phase)
        (edited,) = await state.take_in([intake(id=row.id, generation=2, priority=99)], epoch=epoch)
        assert (edited.phase, edited.priority, edited.generation) == (phase, row.priority, 2)
    assert await state.wrong_counters() == []
    assert (await state.get_queue_depth()).total == Depth(succeeded=1, failed=1, cancelled=1)


async def test_a_name_that_was_deleted_and_applied_again_is_two_rows(state: StateManager, epoch: int) -> None:
    first, second = await state.take_in([intake(name="same"), intake(name="same")], epoch=epoch)
    assert first.id != second.id
    assert (await state.get_queue_depth()).total.pending == 2


@pytest.mark.parametrize("phase", [Phase.HELD, Phase.SUSPENDED, Phase.FAILED])
async def test_a_workload_may_begin_outside_the_queue(state: StateManager, epoch: int, phase: Phase) -> None:
    (row,) = await state.take_in([intake(phase=phase, reason="QueueFull")], epoch=epoch)
    assert (row.phase, row.reason) == (phase, "QueueFull")
    assert (row.finished_at is not None) == phase.terminal
    assert (row.paused_at is not None) == (not phase.terminal)
    assert await pending_rows(state, 10) == []
    assert await state.wrong_counters() == []


async def test_two_doors_taking_in_the_same_ids_at_once_make_each_row_once(state: StateManager) -> None:
    wanted = [intake() for _ in range(50)]
    answers = await asyncio.gather(*(state.take_in(wanted[::step], epoch=None) for step in (1, -1, 1, -1)))
    assert all({row.id for row in rows} == {item.id for item in wanted} for rows in answers)
    assert (await state.get_queue_depth()).total == Depth(pending=50)
    assert await state.wrong_counters() == []
    assert [len(await state.get_events(item.id)) for item in wanted[:5]] == [1] * 5


async def test_an_id_that_is_not_a_uuid_is_rejected(state: StateManager, epoch: int) -> None:
    with pytest.raises(ValueError, match="UUID"):
        await state.take_in([intake(id="job-1")], epoch=epoch)
    assert await state.get_workloads(["job-1"]) == []


async def test_a_row_knows_the_size_of_its_spec(state: StateManager, epoch: int) -> None:
    spec = {"template": {"text": "x" * 1000}}
    (row,) = await state.take_in([intake(spec=spec)], epoch=epoch)
    (edited,) = await state.take_in([intake(id=row.id, generation=2, spec={"small": 1})], epoch=epoch)
    (read,) = await state.get_workloads([row.id])
    assert 1000 < row.spec_bytes < 1050
    assert edited.spec_bytes < 20
    assert abs(read.spec_bytes - edited.spec_bytes) < 5, "Postgres writes JSON with spaces"


async def test_a_value_that_no_encoder_can_write_is_a_named_error(state: StateManager, epoch: int) -> None:
    good, bad = intake(name="good"), intake(spec={"number": 2**65})
    with pytest.raises(RowEncodingError):
        await state.take_in([good, bad], epoch=epoch)
    assert (await state.get_queue_depth()).total == Depth()
