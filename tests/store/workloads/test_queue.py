"""The order of the queue, and time that does not count for aging."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyanta.lifecycle import Event, Phase
from niyanta.settings import Settings
from niyanta.store.postgres.pool import Pool
from niyanta.store.row_mapping import to_us
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager
from niyanta.store.workloads.queue_key import QueueKeys
from tests.store.make import arrive, intake, move, pending_rows

pytestmark = pytest.mark.store

MINUTE = 60_000_000
NOW = 1_800_000_000_000_000
_WAITING = st.tuples(
    st.integers(0, 100), st.sampled_from([1, 10, 50, 100]), st.integers(NOW - 40 * 24 * 60 * MINUTE, NOW)
)


@given(_WAITING, _WAITING, st.integers(0, 90 * 24 * 60 * MINUTE))
def test_keys_order_as_effective_priority_does_at_any_time(
    one: tuple[int, int, int], other: tuple[int, int, int], later: int
) -> None:
    keys = QueueKeys(Settings())

    def effective_minutes(waiting: tuple[int, int, int]) -> int:
        priority, weight, queued_at = waiting
        return priority * weight * MINUTE + 5 * (NOW + later - queued_at)

    difference = keys.key(*one) - keys.key(*other)
    assert difference == effective_minutes(one) - effective_minutes(other)
    assert abs(keys.key(*one)) < 2**63


def test_a_key_that_postgres_cannot_hold_is_refused() -> None:
    with pytest.raises(OverflowError):
        QueueKeys(Settings(aging_boost_per_minute=6000)).key(10, 10, NOW)


@pytest.mark.parametrize("aging", [True, False])
@pytest.mark.parametrize("priority", [True, False])
async def test_with_priority_or_aging_off_the_queue_follows_the_other_and_then_age(
    pool: Pool, settings: Settings, *, priority: bool, aging: bool
) -> None:
    switched = settings.model_copy(update={"enable_priority": priority, "enable_aging": aging})
    state = StateManager(pool, switched)
    rows = []
    for base, weight in ((10, 10), (10, 10), (20, 10), (10, 50)):
        rows += await state.take_in([intake(priority=base, tier_weight=weight)], epoch=None)
    expected = [rows[index].id for index in ((3, 2, 0, 1) if priority else (0, 1, 2, 3))]
    assert [row.id for row in await pending_rows(state, 4)] == expected


async def _shift(pool: Pool, row: WorkloadRow, minutes: float, *columns: str) -> None:
    """Move these times back by `minutes`."""
    sets = ", ".join(f"{column} = {column} - {minutes} * interval '1 minute'" for column in columns)
    async with pool.connection() as connection:
        await connection.execute(f"UPDATE workload_state SET {sets} WHERE id = %s".encode(), [row.id])


async def _reread(state: StateManager, row: WorkloadRow) -> WorkloadRow:
    (fresh,) = await state.get_workloads([row.id])
    return fresh


@pytest.mark.parametrize(("leave", "back"), [(Event.HOLD, Event.RELEASE), (Event.SUSPEND, Event.RESUME)], ids=str)
async def test_time_outside_the_queue_does_not_age(
    pool: Pool, state: StateManager, epoch: int, leave: Event, back: Event
) -> None:
    row = await arrive(state, epoch=epoch)
    await _shift(pool, row, 30, "queued_at", "waiting_since")
    row = await move(state, await _reread(state, row), leave, epoch=epoch)
    await _shift(pool, row, 20, "queued_at", "paused_at")
    row = await _reread(state, row)

    row = await move(state, row, back, epoch=epoch)

    waited = await state.clock() - row.queued_at_us
    assert waited == pytest.approx(30 * MINUTE, abs=MINUTE / 10)
    assert row.queue_key == QueueKeys(Settings()).key(10, 10, row.queued_at_us)
    assert row == await _reread(state, row)
    assert row.paused_at is None


async def test_all_time_from_held_through_suspended_to_pending_is_left_out(
    pool: Pool, state: StateManager, epoch: int
) -> None:
    row = await arrive(state, epoch=epoch, phase=Phase.HELD)
    await _shift(pool, row, 10, "queued_at", "paused_at")
    row = await move(state, await _reread(state, row), Event.SUSPEND, epoch=epoch)
    await _shift(pool, row, 10, "queued_at", "paused_at")
    row = await move(state, await _reread(state, row), Event.RESUME, epoch=epoch)
    assert await state.clock() - row.queued_at_us < MINUTE


async def test_a_backoff_does_not_age_and_a_retry_keeps_its_place_otherwise(
    pool: Pool, state: StateManager, epoch: int
) -> None:
    running = await arrive(state, epoch=epoch, phase=Phase.RUNNING)
    row = await move(state, running, Event.RETRY, epoch=epoch, not_before_seconds=120.0, wake_in_seconds=120.0)
    assert row.not_before is not None
    assert row.not_before == row.wake_at == row.waiting_since
    assert to_us(row.not_before) - row.queued_at_us == row.waited_us == running.waited_us
    assert await pending_rows(state, 10) == [], "in backoff nothing is offered"
    placed = await move(state, row, Event.PLACE, epoch=epoch)
    assert placed.not_before is None


async def test_a_run_does_not_count_as_waiting(pool: Pool, state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch)
    await _shift(pool, row, 30, "queued_at", "waiting_since")
    row = await move(state, await _reread(state, row), Event.PLACE, epoch=epoch)
    row = await move(state, row, Event.START, epoch=epoch)
    await _shift(pool, row, 600, "queued_at", "scheduled_at", "started_at")

    row = await move(state, await _reread(state, row), Event.RETRY, epoch=epoch)

    assert row.waited_us == pytest.approx(30 * MINUTE, abs=MINUTE / 10)
    assert await state.clock() - row.queued_at_us == pytest.approx(30 * MINUTE, abs=MINUTE / 10)
    assert row.queue_key == QueueKeys(Settings()).key(10, 10, row.queued_at_us)
    assert row == await _reread(state, row)


async def test_leaving_during_a_backoff_adds_nothing(state: StateManager, epoch: int) -> None:
    running = await arrive(state, epoch=epoch, phase=Phase.RUNNING)
    row = await move(state, running, Event.RETRY, epoch=epoch, not_before_seconds=600.0)
    row = await move(state, row, Event.SUSPEND, epoch=epoch)
    assert (row.waited_us, row.waiting_since) == (running.waited_us, None)


@pytest.mark.parametrize(("leave", "back"), [(Event.HOLD, Event.RELEASE), (Event.SUSPEND, Event.RESUME)], ids=str)
async def test_a_row_that_an_earlier_release_took_off_the_queue_keeps_its_waiting(
    pool: Pool, state: StateManager, epoch: int, leave: Event, back: Event
) -> None:
    row = await arrive(state, epoch=epoch)
    await _shift(pool, row, 30, "queued_at")
    row = await move(state, await _reread(state, row), leave, epoch=epoch)
    async with pool.connection() as connection:
        await connection.execute(b"UPDATE workload_state SET waited_us = NULL, waiting_since = NULL")
    row = await move(state, await _reread(state, row), back, epoch=epoch)
    assert await state.clock() - row.queued_at_us == pytest.approx(30 * MINUTE, abs=MINUTE / 10)


async def test_a_pause_inside_a_backoff_is_left_out_once(pool: Pool, state: StateManager, epoch: int) -> None:
    running = await arrive(state, epoch=epoch, phase=Phase.RUNNING)
    row = await move(state, running, Event.RETRY, epoch=epoch, not_before_seconds=600.0)
    queued_at = row.queued_at_us
    row = await move(state, row, Event.HOLD, epoch=epoch)
    assert row.paused_at == row.not_before
    row = await move(state, row, Event.RELEASE, epoch=epoch)
    assert row.queued_at_us == queued_at
    assert row.not_before is not None
    assert row.not_before > datetime.now(UTC)


async def test_a_new_tier_rewrites_keys_and_versions_of_what_waits(state: StateManager, epoch: int) -> None:
    rows = {phase: await arrive(state, epoch=epoch, phase=phase) for phase in Phase}
    foreign = await arrive(state, epoch=epoch, customer="other")

    changed = {row.id: row for row in await state.retier("acme", 100, epoch=epoch)}

    assert changed.keys() == {row.id for phase, row in rows.items() if not phase.terminal}
    for phase, row in rows.items():
        now = await _reread(state, row)
        if phase.terminal:
            assert now == row
            continue
        assert now == changed[row.id]
        assert now.tier_weight == 100
        assert now.queue_key - row.queue_key == 10 * 90 * MINUTE
        assert now.version - row.version == (0 if phase.bound else 1)
    assert await _reread(state, foreign) == foreign
    assert await state.retier("acme", 100, epoch=epoch) == []


async def test_a_reassigned_workload_moves_its_counters(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch, phase=Phase.HELD)
    moved = await state.reassign(row.id, customer="new", tier_weight=50, epoch=epoch)
    assert (moved.customer, moved.tier_weight, moved.version) == ("new", 50, row.version + 1)
    assert moved == await _reread(state, row)
    assert await state.wrong_counters() == []
    assert (await state.get_queue_depth("new")).total.held == 1
    assert (await state.get_queue_depth("acme")).total.held == 0
    released = await move(state, moved, Event.RELEASE, epoch=epoch)
    assert [item.id for item in await pending_rows(state, 5)] == [released.id]
