"""Queue classes: counts that stay exact, heads, and classes of both doors."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

import psycopg
import pytest

from niyanta.lifecycle import Door, Event, Phase
from niyanta.settings import Settings
from niyanta.store.errors import StaleEpochError
from niyanta.store.leader.demand_stats import DemandStats
from niyanta.store.postgres.indexes import INDEXES, build_indexes
from niyanta.store.postgres.migrate import migrate, migrations
from niyanta.store.postgres.pool import Pool
from niyanta.store.queue_classes import ClassAssignment, ClassRequest
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import StoredResponse, SubmissionRequest
from niyanta.store.rows import ClassState, WorkloadRow
from niyanta.store.state import StateManager
from tests.store.make import arrive, intake, move

pytestmark = pytest.mark.store

BASE = "0123456789abcdef" * 2


async def _submit(record: RestStore, **more: Any) -> WorkloadRow:
    item = intake(door=Door.REST, name=str(uuid.uuid4()), **({"queue_class": BASE} | more))
    (outcome,) = await record.submit([SubmissionRequest("acme", [item], None, lambda _: StoredResponse(202, {}))])
    assert outcome.verdicts[0].row is not None
    (row,) = await record.get_workloads([item.id])
    return row


@pytest.fixture
async def record(pool: Pool, settings: Settings) -> RestStore:
    async with pool.connection() as connection:
        await connection.execute(
            b"INSERT INTO customers (name, tier, namespaces, tier_weight) VALUES ('acme', 'gold', '{team}', 10)"
        )
    return RestStore(pool, settings)


async def test_both_doors_compute_the_same_class(record: RestStore, state: StateManager, epoch: int) -> None:
    keys = {"visible_keys": (("namespace/team", "app"),)}
    rest = await _submit(record, **keys)
    kubernetes = await arrive(state, epoch=epoch, queue_class=BASE)
    assert len(rest.queue_class) == 32
    assert rest.queue_class == kubernetes.queue_class
    assert (await state.get_workloads([kubernetes.id]))[0] == kubernetes
    for labels, same in (({"app": "y"}, False), ({"app": "x", "unseen": "1"}, True), ({}, False)):
        other = await arrive(state, epoch=epoch, queue_class=BASE, labels=labels)
        assert (other.queue_class == rest.queue_class) == same, labels
    elsewhere = await arrive(state, epoch=epoch, queue_class=BASE, namespace="else", labels={"app": "y"})
    assert elsewhere.queue_class != rest.queue_class, "it has no visible key"


async def test_the_door_takes_keys_of_its_own_reach_only(record: RestStore, pool: Pool) -> None:
    await _submit(record, visible_keys=(("namespace/else", "a"), ("*", "b"), ("customer/acme", "c")))
    async with pool.connection() as connection:
        found = await (await connection.execute(b"SELECT reach, key FROM visible_label_keys")).fetchall()
    assert found == [("customer/acme", "c")]


async def test_an_edit_computes_the_class_anew(state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch, queue_class=BASE)
    (edited,) = await state.take_in(
        [intake(id=row.id, generation=2, queue_class="f" * 32, spec={"priority": 11})], epoch=epoch
    )
    assert edited.queue_class not in ("", row.queue_class)
    assert await state.wrong_class_counts() == []
    (waiting,) = await state.get_waiting_classes()
    assert waiting.queue_class == edited.queue_class


async def test_counts_are_exact_through_moves_folds_and_old_code(
    record: RestStore, state: StateManager, pool: Pool, epoch: int
) -> None:
    rows = [await _submit(record, queue_class=str(number % 3) * 32) for number in range(9)]
    rows += [await arrive(state, epoch=epoch, queue_class="0" * 32)]
    found = sorted((c.pending, c.pending_rest) for c in await state.get_waiting_classes())
    assert found == [(3, 3), (3, 3), (4, 3)]
    while await state.fold_counts(epoch, limit=4) == 4:
        assert await state.wrong_class_counts() == []
    await move(state, rows[0], Event.PLACE, epoch=epoch)
    await record.move(rows[1].id, Event.SUSPEND)
    await record.move(rows[2].id, Event.CANCEL)
    async with pool.connection() as connection:
        await connection.execute(b"UPDATE workload_state SET status = 'HELD' WHERE id = %s", [rows[3].id])
    assert await state.wrong_class_counts() == []
    await state.fold_counts(epoch)
    assert await state.wrong_class_counts() == []
    assert sum(c.pending for c in await state.get_waiting_classes()) == 6


async def test_counts_are_exact_while_submissions_moves_and_folds_race(
    record: RestStore, state: StateManager, epoch: int
) -> None:
    async def submit() -> None:
        for _ in range(10):
            row = await _submit(record, queue_class=random.choice("abc") * 32)
            if random.random() < 0.5:
                await record.move(row.id, Event.CANCEL)

    async def fold() -> None:
        for _ in range(20):
            await state.fold_counts(epoch, limit=3)
            assert await state.wrong_class_counts() == []

    await asyncio.gather(submit(), submit(), fold(), fold())
    assert await state.wrong_class_counts() == []
    assert await state.wrong_counters() == []


async def test_the_figures_of_each_second_fold_the_counts(state: StateManager, pool: Pool, epoch: int) -> None:
    await arrive(state, epoch=epoch, queue_class=BASE)
    await state.write_figures(DemandStats(at=1, epoch=epoch), epoch=epoch)
    async with pool.connection() as connection:
        found = await (await connection.execute(b"SELECT count(*) FROM queue_class_deltas")).fetchall()
    assert found == [(0,)]
    assert await state.wrong_class_counts() == []


async def test_a_former_leader_does_not_fold(state: StateManager, epoch: int) -> None:
    with pytest.raises(StaleEpochError):
        await state.fold_counts(epoch - 1)


async def test_heads_are_the_first_the_oldest_and_the_highest(record: RestStore, state: StateManager) -> None:
    rows = [await _submit(record, priority=priority) for priority in (5, 50, 20)]
    name = rows[0].queue_class
    (two, all_) = await state.get_class_heads([ClassRequest("acme", name, 2), ClassRequest("acme", "none", 9)])
    assert (two.ids, two.oldest, two.highest_priority) == ((rows[1].id, rows[2].id), rows[0].id, rows[1].id)
    assert (two.is_complete, all_.is_complete, all_.ids) == (False, True, ())
    (waiting,) = await state.get_waiting_classes()
    assert (waiting.namespace, waiting.replicas, waiting.oldest_us) == ("team", 1, rows[0].queued_at_us)
    assert await state.get_waiting_classes(("acme", name)) == []


async def test_rows_without_a_class_get_one_unless_they_were_edited(state: StateManager, epoch: int) -> None:
    row, edited = [await arrive(state, epoch=epoch) for _ in range(2)]
    assert {found.id: found.spec for found in await state.get_unclassed(10)} == {
        row.id: {"priority": 10},
        edited.id: {"priority": 10},
    }
    records = [ClassAssignment(id_, generation, "acme", BASE) for id_, generation in ((row.id, 1), (edited.id, 7))]
    cursor = await state.cursor()
    classes = await state.set_queue_classes(records, epoch)
    assert list(classes) == [row.id]
    assert [found.id for found in await state.get_unclassed(10)] == [edited.id]
    changed, _ = await state.changes_since(cursor, not_by=epoch)
    assert [(found.id, found.queue_class) for found in changed] == [(row.id, classes[row.id])]
    assert await state.wrong_class_counts() == []
    moved = await state.reassign(row.id, customer="other", tier_weight=1, epoch=epoch)
    assert moved.queue_class == ""
    assert len(await state.get_unclassed(10)) == 2, "the class names the customer"


async def test_a_new_key_separates_the_rows_that_waited_before_it(state: StateManager, epoch: int) -> None:
    x, y = [await arrive(state, epoch=epoch, queue_class=BASE, labels={"app": app}) for app in "xy"]
    held = await arrive(state, epoch=epoch, queue_class=BASE, labels={"app": "y"}, phase=Phase.HELD)
    elsewhere = await arrive(state, epoch=epoch, queue_class=BASE, labels={"app": "y"}, namespace="else")
    assert x.queue_class == y.queue_class
    carrier = await arrive(state, epoch=epoch, queue_class=BASE, visible_keys=(("namespace/team", "app"),))
    slices = 1
    while await state.rekey_slice(epoch, limit=2):
        slices += 1
    assert slices > 2
    ids = [row.id for row in (x, y, held, elsewhere)]
    rows = {row.id: row.queue_class for row in await state.get_workloads(ids)}
    assert rows[x.id] == carrier.queue_class
    assert rows[y.id] == rows[held.id] != rows[x.id]
    assert rows[elsewhere.id] == elsewhere.queue_class
    assert await state.wrong_class_counts() == []


async def test_a_key_waits_for_transactions_that_may_have_missed_it(
    state: StateManager, pool: Pool, epoch: int
) -> None:
    async with pool.connection() as late, late.transaction():
        await late.execute(b"SELECT pg_current_xact_id()")
        carrier = await arrive(state, epoch=epoch, queue_class=BASE, visible_keys=(("*", "app"),))
        assert await state.rekey_slice(epoch)
        assert await state.rekey_slice(epoch), "the open transaction may insert rows without the key"
        await late.execute(b"UPDATE workload_state SET queue_class = 'without' WHERE id = %s", [carrier.id])
    assert not await state.rekey_slice(epoch)
    assert (await state.get_workloads([carrier.id]))[0].queue_class == carrier.queue_class


async def test_an_edit_that_commits_while_rows_are_re_keyed_keeps_its_class(
    state: StateManager, pool: Pool, epoch: int
) -> None:
    row = await arrive(state, epoch=epoch, queue_class=BASE)
    await arrive(state, epoch=epoch, queue_class=BASE, visible_keys=(("namespace/team", "app"),))
    edited = (
        b"UPDATE workload_state s SET queue_class ="
        b" operator_queue_class(w.queue_base, w.customer_id, w.namespace, w.labels)"
        b" FROM workloads w WHERE w.id = s.id AND s.id = %s RETURNING s.queue_class"
    )
    blocked = b"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with pool.connection() as late, pool.connection() as watch:
        # Ended before the edit begins, as far as the key is concerned.
        await late.execute(b"UPDATE visible_label_keys SET horizon = '1'")
        async with late.transaction():
            await late.execute(b"SELECT 1 FROM workload_state WHERE id = %s FOR NO KEY UPDATE", [row.id])
            await late.execute(b"UPDATE workloads SET queue_base = %s WHERE id = %s", ["f" * 32, row.id])
            ((wanted,),) = await (await late.execute(edited, [row.id])).fetchall()
            slice_ = asyncio.create_task(state.rekey_slice(epoch))
            while (await (await watch.execute(blocked)).fetchall()) == [(0,)]:
                assert not slice_.done()
        await slice_
    assert (await state.get_workloads([row.id]))[0].queue_class == wanted


async def test_states_and_compiled_requirements_are_kept(state: StateManager, pool: Pool, epoch: int) -> None:
    async with pool.connection() as connection:
        ((now,),) = await (await connection.execute(b"SELECT clock_timestamp()")).fetchall()
    first = ClassState("acme", BASE, [{"reason": "Taints"}], "NoWorker", "no worker fits", now)
    await state.write_class_states([first], epoch)
    wanted = [("acme", BASE), ("acme", "none"), ("bolt", BASE)]
    assert await state.get_class_states(wanted) == {("acme", BASE): first}
    await state.delete_class_states(wanted, epoch)
    assert await state.get_class_states(wanted) == {}
    await state.put_compiled({BASE: b"\x00a"}, epoch)
    await state.put_compiled({BASE: b"b"}, epoch)
    assert await state.get_compiled([BASE, "none"]) == {BASE: b"b"}


async def _age_empty_classes(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute(b"UPDATE queue_class_counts SET emptied_at = emptied_at - interval '61 minutes'")


async def _keep_everything(state: StateManager, pool: Pool, rows: list[WorkloadRow], epoch: int) -> None:
    async with pool.connection() as connection:
        ((now,),) = await (await connection.execute(b"SELECT clock_timestamp()")).fetchall()
    states = [ClassState(row.customer, row.queue_class, [], "Unschedulable", "0/3 workers", now) for row in rows]
    await state.write_class_states(states, epoch)
    await state.put_compiled({row.queue_class: b"x" for row in rows}, epoch)


async def _kept(state: StateManager, pool: Pool, rows: list[WorkloadRow]) -> list[tuple[bool, bool, bool]]:
    """For the class of each row: is its count, its state, its compiled form still there?"""
    async with pool.connection() as connection:
        counts = await (await connection.execute(b"SELECT queue_class FROM queue_class_counts")).fetchall()
    states = await state.get_class_states([(row.customer, row.queue_class) for row in rows])
    compiled = await state.get_compiled([row.queue_class for row in rows])
    return [
        ((row.queue_class,) in counts, (row.customer, row.queue_class) in states, row.queue_class in compiled)
        for row in rows
    ]


async def test_classes_without_rows_for_an_hour_are_deleted(state: StateManager, pool: Pool, epoch: int) -> None:
    ended, back, waiting, late = [
        await arrive(state, epoch=epoch, queue_class=letter * 32, name=letter) for letter in "abcd"
    ]
    await _keep_everything(state, pool, [ended, back, waiting, late], epoch)
    for row in (ended, back, late):
        await move(state, row, Event.CANCEL, epoch=epoch)
    await state.fold_counts(epoch)
    assert await state.prune_classes(epoch) == 0, "they ended just now"
    await _age_empty_classes(pool)
    again = await arrive(state, epoch=epoch, queue_class="b" * 32, name="again")
    assert again.queue_class == back.queue_class
    await state.fold_counts(epoch)
    not_folded = await arrive(state, epoch=epoch, queue_class="d" * 32, name="not-folded")
    assert not_folded.queue_class == late.queue_class
    assert await state.prune_classes(epoch) == 1
    everything, nothing = (True, True, True), (False, False, False)
    assert await _kept(state, pool, [ended, back, waiting, late]) == [nothing, everything, everything, everything]
    assert await state.wrong_class_counts() == []
    await move(state, again, Event.CANCEL, epoch=epoch)
    await state.fold_counts(epoch)
    assert await state.prune_classes(epoch) == 0, "the hour begins anew"


async def test_classes_are_deleted_in_slices_by_the_leader_alone(state: StateManager, pool: Pool, epoch: int) -> None:
    rows = [await arrive(state, epoch=epoch, queue_class=letter * 32, name=letter) for letter in "abcde"]
    for row in rows:
        await move(state, row, Event.CANCEL, epoch=epoch)
    await state.fold_counts(epoch)
    await _age_empty_classes(pool)
    with pytest.raises(StaleEpochError):
        await state.prune_classes(epoch - 1)
    assert [await state.prune_classes(epoch, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    back = await arrive(state, epoch=epoch, queue_class="a" * 32, name="back")
    assert await state.count_class("acme", back.queue_class) == 1
    await state.fold_counts(epoch)
    assert await state.count_class("acme", back.queue_class) == 1
    assert await state.wrong_class_counts() == []


async def test_counts_stay_exact_while_classes_are_deleted(
    record: RestStore, state: StateManager, pool: Pool, epoch: int
) -> None:
    """Every class that is empty for a moment may be deleted at once."""
    stop = asyncio.Event()

    async def submit() -> None:
        for _ in range(15):
            row = await _submit(record, queue_class=random.choice("abc") * 32)
            if random.random() < 0.7:
                await record.move(row.id, Event.CANCEL)

    async def prune() -> int:
        deleted = 0
        while not stop.is_set():
            await state.fold_counts(epoch, limit=3)
            await _age_empty_classes(pool)
            deleted += await state.prune_classes(epoch, limit=2)
            assert await state.wrong_class_counts() == []
        return deleted

    pruning = asyncio.create_task(prune())
    await asyncio.gather(submit(), submit())
    stop.set()
    await pruning
    while await state.fold_counts(epoch):
        assert await state.wrong_class_counts() == []
    await _age_empty_classes(pool)
    await state.prune_classes(epoch)
    async with pool.connection() as connection:
        left = await (await connection.execute(b"SELECT count(*) FROM queue_class_counts WHERE pending = 0")).fetchall()
    assert left == [(0,)]
    assert await state.wrong_class_counts() == []


def test_classes_that_were_empty_before_the_migration_are_deleted_too(fresh_dsn: str) -> None:
    known = migrations()
    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        connection.execute("DROP INDEX queue_class_counts_emptied")
        connection.execute("ALTER TABLE queue_class_counts DROP COLUMN emptied_at")
        connection.execute("DELETE FROM schema_migrations WHERE version = 16")
        connection.execute("INSERT INTO queue_class_counts VALUES ('acme', 'empty', 0, 0), ('acme', 'full', 3, 1)")
    assert migrate(fresh_dsn, known=known) == ["0016_empty_classes.sql"]
    with psycopg.connect(fresh_dsn) as connection:
        found = connection.execute(
            "SELECT queue_class, emptied_at IS NULL FROM queue_class_counts ORDER BY 1"
        ).fetchall()
    assert found == [("empty", False), ("full", True)]


def test_an_invalid_index_is_built_again(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        assert build_indexes(connection) == []
        connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'workload_state_class_key'::regclass"
        )
        connection.execute("DROP INDEX workload_state_unclassed")
        assert build_indexes(connection) == ["workload_state_class_key", "workload_state_unclassed"]
        valid = connection.execute(
            "SELECT bool_and(indisvalid) FROM pg_index WHERE indexrelid = ANY(%s::regclass[])", [list(INDEXES)]
        ).fetchall()
    assert valid == [(True,)]
