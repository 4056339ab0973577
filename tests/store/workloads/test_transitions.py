"""Every pair of phase and event, on real tables."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import AsyncConnection

from niyanta.lifecycle import TRANSITIONS, Event, Phase
from niyanta.store.postgres.pool import Pool
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import to_us
from niyanta.store.rows import PendingNote, RowChange
from niyanta.store.state import StateManager
from tests.store.make import ROADS, arrive, change, intake, move

pytestmark = pytest.mark.store


async def test_every_phase_accepts_exactly_the_events_of_the_table(state: StateManager, epoch: int) -> None:
    pairs = [(phase, event) for phase in Phase for event in Event]
    rows = await state.take_in([intake() for _ in pairs], epoch=epoch)
    for step in range(3):
        batch = [
            change(row, ROADS[phase][step])
            for row, (phase, _) in zip(rows, pairs, strict=True)
            if len(ROADS[phase]) > step
        ]
        moved = {row.id: row for row in (await state.update_workload_status_batch(batch, epoch=epoch)).applied}
        assert len(moved) == len(batch)
        rows = [moved.get(row.id, row) for row in rows]
    assert [row.phase for row in rows] == [phase for phase, _ in pairs]

    changes = [change(row, event, reason="why") for row, (_, event) in zip(rows, pairs, strict=True)]
    result = await state.update_workload_status_batch(changes, epoch=epoch, cycle=7)

    applied = {row.id: row for row in result.applied}
    expected = {row.id: TRANSITIONS[pair] for row, pair in zip(rows, pairs, strict=True) if pair in TRANSITIONS}
    assert {id_: row.phase for id_, row in applied.items()} == expected
    assert sorted(result.illegal) == sorted({row.id for row in rows} - expected.keys())
    assert result.stale == []
    stored = {row.id: row for row in await state.get_workloads(row.id for row in rows)}
    assert stored == {row.id: applied.get(row.id, row) for row in rows}
    assert await state.wrong_counters() == []
    for before, (phase, event) in zip(rows, pairs, strict=True):
        last = (await state.get_events(before.id))[-1]
        if before.id in expected:
            assert (last.event, last.from_phase, last.to_phase) == (event.value, phase, expected[before.id])
            assert (last.reason, last.epoch, last.cycle) == ("why", epoch, 7)
            assert stored[before.id].version == before.version + 1
        else:
            assert last.reason == ""


async def test_a_run_from_placement_to_success_is_timed_by_the_database(state: StateManager, epoch: int) -> None:
    before = await state.clock()
    row = await arrive(state, epoch=epoch, phase=Phase.SUCCEEDED)
    after = await state.clock()

    times = [row.created_at, row.scheduled_at, row.started_at, row.finished_at]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]
    assert before / 1e6 <= times[0].timestamp() <= times[-1].timestamp() <= after / 1e6  # type: ignore[union-attr]
    assert (row.attempt, row.workers, row.pool, row.score) == (1, ("w1",), "pool-a", 73.33)
    (attempt,) = await state.get_attempts(row.id)
    assert (attempt.outcome, attempt.epoch, attempt.workers) == ("Succeed", epoch, ("w1",))
    assert (attempt.scheduled_at, attempt.started_at, attempt.finished_at) == tuple(times[1:])


async def test_a_retry_counts_and_goes_back_to_the_queue_without_its_workers(state: StateManager, epoch: int) -> None:
    running = await arrive(state, epoch=epoch, phase=Phase.RUNNING)
    row = await move(state, running, Event.RETRY, epoch=epoch, reason="PodFailed")

    assert (row.phase, row.failures, row.rejections, row.attempt) == (Phase.PENDING, 1, 0, 1)
    assert (row.workers, row.pool, row.score, row.scheduled_at, row.started_at) == ((), "", None, None, None)
    assert row.waiting_since is not None
    assert row.queued_at_us == to_us(row.waiting_since) - running.waited_us
    again = await move(state, row, Event.PLACE, epoch=epoch, workers=("w2",))
    assert again.attempt == 2
    first, second = await state.get_attempts(row.id)
    assert (first.outcome, first.reason, first.workers) == ("Retry", "PodFailed", ("w1",))
    assert (second.outcome, second.finished_at, second.workers) == ("", None, ("w2",))
    assert (await state.get_events(row.id))[-2].workers == ("w1",)


async def test_a_group_over_several_pools_keeps_the_pool_of_each_worker_until_it_leaves_them(
    state: StateManager, epoch: int, pool: Pool
) -> None:
    row = await arrive(state, epoch=epoch, replicas=3)
    mixed = {"workers": ("w1", "w2", "w3"), "pools": ("a", "b", "a"), "pool": "a"}
    row = await move(state, row, Event.PLACE, epoch=epoch, **mixed)
    assert (row.pool, row.pools, row.pool_of(1)) == ("a", ("a", "b", "a"), "b")
    row = await move(state, row, Event.START, epoch=epoch)
    assert await state.get_workloads([row.id]) == [row]
    row = await move(state, row, Event.RETRY, epoch=epoch)
    assert row.pools == ()
    row = await move(state, row, Event.PLACE, epoch=epoch, workers=("w1", "w4", "w5"), pools=("a", "a", "a"))
    assert (row.pool, row.pools, row.pool_of(1)) == ("a", (), "a")
    assert await state.get_workloads([row.id]) == [row]
    assert [attempt.pools for attempt in await state.get_attempts(row.id)] == [("a", "b", "a"), ()]
    stored = (
        "SELECT pools, pools_attempt FROM workload_state UNION ALL SELECT pools, NULL FROM attempts WHERE attempt = 2"
    )
    async with pool.connection() as connection:
        assert await (await connection.execute(stored)).fetchall() == [(None, None)] * 2, "one name is enough"


async def test_pools_that_the_last_release_left_behind_do_not_count_for_its_placements(
    state: StateManager, epoch: int, pool: Pool
) -> None:
    row = await arrive(state, epoch=epoch, replicas=2)
    row = await move(state, row, Event.PLACE, epoch=epoch, workers=("w1", "w2"), pools=("a", "b"))
    async with pool.connection() as connection:
        for written in ("workers = '{}', pool = ''", "workers = '{w3,w4}', pool = 'a', attempt = 2"):
            await connection.execute(f"UPDATE workload_state SET {written}".encode())
            (stored,) = await state.get_workloads([row.id])
            assert stored.pools == ()


async def test_rejections_count_in_a_row_until_a_start_and_only_when_asked(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch)
    for counts, expected in ((True, 1), (False, 1), (True, 2)):
        row = await move(state, row, Event.PLACE, epoch=epoch)
        row = await move(state, row, Event.REQUEUE, epoch=epoch, counts=counts, excluded={"w1": 60.0})
        assert (row.rejections, row.failures) == (expected, 0)
    assert list(row.excluded) == ["w1"]
    row = await move(state, row, Event.PLACE, epoch=epoch, workers=("w2",))
    row = await move(state, row, Event.START, epoch=epoch)
    assert row.rejections == 0


async def test_exclusions_end_by_the_clock(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch, phase=Phase.SCHEDULED)
    row = await move(state, row, Event.REQUEUE, epoch=epoch, excluded={"old": -1.0, "new": 60.0})
    assert set(row.excluded) == {"old", "new"}
    row = await move(state, row, Event.PLACE, epoch=epoch)
    assert set(row.excluded) == {"new"}
    (stored,) = await state.get_workloads([row.id])
    assert stored.excluded == row.excluded


async def test_a_change_of_an_old_version_is_stale_and_leaves_no_trace(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch, phase=Phase.SCHEDULED)
    other = await arrive(state, epoch=epoch)
    old = RowChange(id=row.id, version=row.version - 1, event=Event.CANCEL)
    unknown = RowChange(id="00000000-0000-0000-0000-00000000dead", version=1, event=Event.CANCEL)

    result = await state.update_workload_status_batch([old, unknown, change(other, Event.HOLD)], epoch=epoch)

    assert result.stale == [old.id, unknown.id]
    assert [item.id for item in result.applied] == [other.id]
    assert await state.get_workloads([row.id]) == [row]
    assert await state.wrong_counters() == []


async def test_what_depends_on_a_dropped_change_drops_out_too(state: StateManager, epoch: int) -> None:
    base, near, nearer, free = [await arrive(state, epoch=epoch) for _ in range(4)]
    moved = await move(state, base, Event.HOLD, epoch=epoch)
    result = await state.update_workload_status_batch(
        [
            change(base, Event.PLACE),
            change(near, Event.PLACE, depends_on=(base.id,)),
            change(nearer, Event.PLACE, depends_on=(near.id,)),
            change(free, Event.PLACE),
        ],
        epoch=epoch,
    )
    assert result.stale == [base.id, near.id, nearer.id]
    assert [row.id for row in result.applied] == [free.id]
    assert await state.get_workloads([base.id]) == [moved]


async def test_two_changes_of_one_row_in_a_batch_follow_each_other(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch)
    place = change(row, Event.PLACE)
    start = RowChange(id=row.id, version=row.version + 1, event=Event.START)
    result = await state.update_workload_status_batch([place, start], epoch=epoch)
    (running,) = result.applied
    assert (running.phase, running.version) == (Phase.RUNNING, row.version + 2)
    assert [event.event for event in await state.get_events(row.id)] == ["Accepted", "Place", "Start"]
    assert await state.wrong_counters() == []


@pytest.mark.parametrize(
    "bad", [{"workers": ()}, {"workers": ("a", "b")}, {"pools": ("a", "b")}, {"attempt": 0}], ids=str
)
async def test_a_placement_that_does_not_fit_the_row_is_illegal(
    state: StateManager, epoch: int, bad: dict[str, object]
) -> None:
    row = await arrive(state, epoch=epoch)
    result = await state.update_workload_status_batch([change(row, Event.PLACE, **bad)], epoch=epoch)
    assert result.illegal == [row.id]
    assert await state.get_workloads([row.id]) == [row]


async def test_wake_ups_are_set_found_and_cleared(state: StateManager, epoch: int) -> None:
    due = await arrive(state, epoch=epoch, phase=Phase.SCHEDULED)
    due = await move(state, due, Event.START, epoch=epoch, wake_in_seconds=-1.0)
    later = await arrive(state, epoch=epoch)
    await state.set_wake([later.id], 3600.0, epoch=epoch)
    assert [row.id for row in await state.get_due(10)] == [due.id]
    await state.set_wake([later.id], -5.0, epoch=epoch)
    assert [row.id for row in await state.get_due(10)] == [later.id, due.id]
    assert [row.id for row in await state.get_due(1)] == [later.id]
    await state.set_wake([later.id], None, epoch=epoch)
    await move(state, due, Event.SUCCEED, epoch=epoch)
    assert await state.get_due(10) == []


async def test_notes_keep_the_version_and_are_audited_when_the_reason_changes(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch)
    gone = await arrive(state, epoch=epoch, phase=Phase.CANCELLED)
    counts = [["GpuModelMismatch", "", 5]]
    note = PendingNote(row.id, row.version, "Unschedulable", "0/5 workers: 5 GPU model", counts)
    (noted,) = await state.note_pending([note, PendingNote(gone.id, gone.version, "x", "y")], epoch=epoch)
    assert (noted.id, noted.version, noted.reason, noted.message) == (row.id, row.version, note.reason, note.message)
    assert await state.note_pending([note], epoch=epoch) == []
    (again,) = await state.note_pending([PendingNote(row.id, row.version, "Unschedulable", "0/6 workers")], epoch=epoch)
    assert again.message == "0/6 workers"
    assert await state.note_pending([PendingNote(row.id, row.version + 1, "Other", "")], epoch=epoch) == []
    accepted, *notes = await state.get_events(row.id)
    assert accepted.event == "Accepted"
    assert [(event.event, event.reasons) for event in notes] == [("Noted", counts)]


async def test_text_that_postgres_cannot_store_does_not_fail_the_batch(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch, spec={"a\0": ["b\0\\u0000"]})
    assert row.spec == {"a\0": ["b\0\\u0000"]}
    (stored,) = await state.get_workloads([row.id])
    assert stored.spec == {"a\N{REPLACEMENT CHARACTER}": ["b\N{REPLACEMENT CHARACTER}\\u0000"]}
    held = await move(state, row, Event.HOLD, epoch=epoch, message="log said \0")
    (stored,) = await state.get_workloads([row.id])
    assert stored.message == "log said \N{REPLACEMENT CHARACTER}"
    assert held.phase is stored.phase is Phase.HELD


async def test_a_batch_takes_as_many_statements_as_a_single_change(
    state: StateManager, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await state.take_in([intake() for _ in range(300)], epoch=epoch)
    statements = 0
    execute = AsyncConnection.execute

    async def counted(self: AsyncConnection[Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal statements
        statements += args[0] not in (b"", sql("configure"))  # the pool checks and opens connections meanwhile
        return await execute(self, *args, **kwargs)

    monkeypatch.setattr(AsyncConnection, "execute", counted)
    counts = []
    for batch in (rows[:1], rows[1:]):
        statements = 0
        await state.update_workload_status_batch([change(row, Event.PLACE) for row in batch], epoch=epoch)
        counts.append(statements)
    assert counts[0] == counts[1] <= 8
