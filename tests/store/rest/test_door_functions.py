"""The REST door's role writes through functions only, and these refuse what a broken or hostile door gives them."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import errors

from niyanta.lifecycle import Door, Event, IllegalTransitionError, Phase
from niyanta.settings import Settings
from niyanta.store.errors import RowEncodingError, StoreError
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import ItemResult, RefusedSubmissionError, StoredResponse, SubmissionRequest
from niyanta.store.rows import CustomerRow, WorkerAction, WorkerRow, WorkloadIntake, WorkloadRow
from niyanta.store.state import StateManager
from tests.store.make import ROADS, arrive, change, intake, move
from tests.store.roles import door_dsn

pytestmark = pytest.mark.store


@pytest.fixture(name="door_dsn")
def _door_dsn(dsn: str) -> str:
    """The DSN of a role that has the door's rights."""
    return door_dsn(dsn)


@pytest.fixture
async def record(state: StateManager, door_dsn: str) -> AsyncIterator[RestStore]:
    """The store as the door's role uses it, with two customers."""
    await state.upsert_customers(
        [
            CustomerRow("acme", "Standard", {}, ("team",)),
            CustomerRow("small", "Free", {"maxQueueDepth": 2}, ("small",)),
            CustomerRow("gone", "Free", {}, ("gone",), deleted=True),
            CustomerRow("all", "Free", {}, ("*",)),
        ]
    )
    settings = Settings(dsn=door_dsn, db_pool_min=1)
    async with await open_pool(settings) as pool:
        yield RestStore(pool, settings)


def _rest(**changes: Any) -> WorkloadIntake:
    return intake(door=Door.REST, **{"name": f"w-{uuid.uuid4()}", **changes})


async def _submit(record: RestStore, *items: WorkloadIntake) -> list[str]:
    request = SubmissionRequest(items[0].customer, items, None, lambda _: StoredResponse(202, None, keep=False))
    (outcome,) = await record.submit([request])
    return [verdict.row.id for verdict in outcome.verdicts if verdict.row is not None]


async def test_the_database_decides_on_everything_but_the_request(record: RestStore, state: StateManager) -> None:
    hostile = _rest(tier_weight=1_000_000_000, generation=99, reason="QueueFull", message="x")
    (id_,) = await _submit(record, hostile)
    (row,) = await state.get_workloads([id_])
    assert (row.door, row.phase, row.version, row.attempt, row.generation) == (Door.REST, Phase.PENDING, 1, 0, 1)
    assert (row.tier_weight, row.reason, row.message, row.wake_at) == (10, "", "", None)
    assert row.queue_key == state._keys.key(row.priority, 10, row.queued_at_us)
    assert row.spec_bytes == len(json.dumps(row.spec))


async def test_the_row_in_the_answer_is_the_row_in_the_database(record: RestStore, state: StateManager) -> None:
    rows: list[WorkloadRow] = []
    items = [_rest(), _rest(phase=Phase.SUSPENDED)]

    def respond(verdicts: Sequence[ItemResult]) -> StoredResponse:
        rows.extend(verdict.row for verdict in verdicts if verdict.row is not None)
        return StoredResponse(202, None)

    await record.submit([SubmissionRequest("acme", items, None, respond)])
    assert sorted(rows, key=lambda row: row.id) == await state.get_workloads([row.id for row in rows])
    assert await state.wrong_counters() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": Phase.SCHEDULED},
        {"phase": Phase.SUCCEEDED},
        {"phase": Phase.HELD},
        {"namespace": "else"},
        {"namespace": "kube-system"},
        {"customer": "all", "namespace": "team"},
        {"customer": "all", "namespace": "kube-system"},
        {"customer": "gone", "namespace": "gone"},
        {"customer": "unknown"},
        {"priority": 101},
        {"replicas": 0},
        {"replicas": 10**6},
        {"class_id": ""},
        {"name": "x" * 300},
        {"labels": {"a": 5}},
        {"spec": {"deep": json.loads("[" * 64 + "]" * 64)}},
        {"spec": {"large": "x" * 3_200_000}},
        {"spec": {"number": 2**63}},
    ],
    ids=lambda changes: "-".join(f"{key}-{str(value)[:12]}" for key, value in changes.items()),
)
async def test_an_item_that_the_door_should_have_refused_is_refused(
    record: RestStore, state: StateManager, changes: dict[str, Any]
) -> None:
    with pytest.raises(RefusedSubmissionError):
        await _submit(record, _rest(**changes))
    assert await state.get_queue_depth() == await record.get_queue_depth()
    assert (await state.get_queue_depth()).total.pending == 0


async def test_what_no_encoder_can_write_is_a_named_error(record: RestStore) -> None:
    with pytest.raises(RowEncodingError):
        await _submit(record, _rest(spec={"number": 2**65}))


async def test_bounds_allow_what_the_api_server_allows(record: RestStore) -> None:
    spec = {"deep": json.loads("[" * 63 + "1.5" + "]" * 63), "least": -(2**63), "most": 2**63 - 1}
    assert await _submit(record, _rest(spec=spec), _rest(customer="acme")) != []
    assert await _submit(record, _rest(customer="all", namespace="unlisted")) != []


async def test_the_limit_of_a_customer_holds_against_the_door_itself(
    record: RestStore, state: StateManager, door_dsn: str
) -> None:
    items = [_rest(customer="small", namespace="small") for _ in range(3)]
    assert len(await _submit(record, *items)) == 2
    names = [{"id": str(uuid.uuid4()), "customer": "small", "name": "more"}]
    with psycopg.connect(door_dsn) as connection:
        refused = connection.execute("SELECT refusal FROM door_choose(%s, '{}')", [json.dumps(names)]).fetchall()
        assert refused == [], "without a limit in its own call"
        item: dict[str, Any] = {**names[0], "namespace": "small", "type": "", "labels": {}, "spec": {}, "class_id": "c"}
        item |= {"replicas": 1, "priority": 1, "tier_weight": 1, "status": "PENDING"}
        with pytest.raises(psycopg.DatabaseError, match="has no room"):
            connection.execute("SELECT door_submit(%s, '[]', '[]')", [json.dumps([item])])
    assert (await state.get_queue_depth("small")).total.pending == 2


async def test_an_item_without_a_name_of_its_own_is_refused(record: RestStore, door_dsn: str) -> None:
    item: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "customer": "acme",
        "name": "a",
        "namespace": "team",
        "type": "",
        "labels": {},
    }
    item |= {"spec": {}, "class_id": "c", "replicas": 1, "priority": 1, "tier_weight": 1, "status": "PENDING"}
    with psycopg.connect(door_dsn) as connection, pytest.raises(psycopg.DatabaseError, match="not taken"):
        connection.execute("SELECT door_submit(%s, '[]', '[]')", [json.dumps([item])])


async def test_stored_answers_of_others_cannot_be_changed(record: RestStore, door_dsn: str) -> None:
    request = SubmissionRequest(
        "acme", [_rest()], None, lambda _: StoredResponse(202, "right"), key="k", body_hash="00"
    )
    await record.submit([request])
    forged = json.dumps([{"customer_id": "acme", "key": "k", "status": 200, "response": "forged"}])
    with psycopg.connect(door_dsn, autocommit=True) as connection:
        connection.execute("SELECT door_submit('[]', %s, '[]')", [forged])
        connection.execute("SELECT door_submit('[]', '[]', %s)", [forged])
    found = await record.find_answer("acme", "k", "00")
    assert found is not None
    assert found.answer == StoredResponse(202, "right")


async def test_only_rest_rows_are_moved(record: RestStore, state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch)
    for event in (Event.CANCEL, Event.SUSPEND, Event.RESUME):
        with pytest.raises(StoreError, match="not submitted by REST"):
            await record.move(row.id, event)
    with pytest.raises(LookupError):
        await record.move(str(uuid.uuid4()), Event.CANCEL)
    assert await state.get_workloads([row.id]) == [row]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", [Event.CANCEL, Event.SUSPEND, Event.RESUME])
async def test_moves_are_those_of_the_table_of_transitions(
    record: RestStore, state: StateManager, epoch: int, phase: Phase, event: Event
) -> None:
    """The same move as `StateManager` makes it, of a twin, gives the same row and the same history."""
    mine, twin = [await arrive(state, epoch=epoch, door=Door.REST, name=name) for name in ("mine", "twin")]
    for row in (mine, twin):
        moved_row = row
        for step in ROADS[phase]:
            moved_row = await move(state, moved_row, step, epoch=epoch)
    mine, twin = [(await state.get_workloads([row.id]))[0] for row in (mine, twin)]
    words = {Event.CANCEL: "Cancelled", Event.SUSPEND: "Suspended", Event.RESUME: "Resumed"}
    result = await state.update_workload_status_batch(
        [change(twin, event, reason=words[event], message="requested by REST")], epoch=None
    )
    if result.illegal:
        with pytest.raises(IllegalTransitionError):
            await record.move(mine.id, event)
        return
    moved = await record.move(mine.id, event)
    (expected,) = result.applied
    own = ("id", "name", "generation", "spec", "queued_at_us", "queue_key", "created_at", "paused_at", "finished_at")
    times = ("scheduled_at", "started_at", "waited_us", "waiting_since")
    same = {name: getattr(moved, name) for name in (*own, *times)}
    assert replace(expected, **same) == moved
    assert (moved.paused_at is None, moved.finished_at is None) == (
        expected.paused_at is None,
        expected.finished_at is None,
    )
    assert moved.queue_key == state._keys.key(moved.priority, moved.tier_weight, moved.queued_at_us)
    assert abs(moved.queued_at_us - expected.queued_at_us) < 10_000_000
    assert abs(moved.waited_us - expected.waited_us) < 10_000_000
    assert (moved.waiting_since is None) == (expected.waiting_since is None)
    if event is not Event.CANCEL:
        assert (moved.spec["suspend"], moved.generation) == (event is Event.SUSPEND, 2)
    events = [await state.get_events(row.id) for row in (moved, expected)]
    assert [(e.event, e.from_phase, e.to_phase, e.workers, e.reason, e.message) for e in events[0]] == [
        (e.event, e.from_phase, e.to_phase, e.workers, e.reason, e.message) for e in events[1]
    ]
    attempts = [await state.get_attempts(row.id) for row in (moved, expected)]
    assert [(a.attempt, a.outcome, a.reason, a.workers) for a in attempts[0]] == [
        (a.attempt, a.outcome, a.reason, a.workers) for a in attempts[1]
    ]
    assert await state.wrong_counters() == []


@pytest.mark.parametrize("event", [Event.CANCEL, Event.SUSPEND])
async def test_a_group_over_several_pools_is_moved_as_the_leader_moves_it(
    record: RestStore, state: StateManager, epoch: int, event: Event
) -> None:
    row = await arrive(state, epoch=epoch, door=Door.REST, replicas=2)
    row = await move(state, row, Event.PLACE, epoch=epoch, workers=("w1", "w2"), pools=("a", "b"))
    moved = await record.move(row.id, event)
    assert (moved.workers, moved.pools) == ((), ()) if event is Event.SUSPEND else (("w1", "w2"), ("a", "b"))
    (attempt,) = await state.get_attempts(row.id)
    assert (attempt.outcome, attempt.pools) == (event.value, ("a", "b"))


@pytest.mark.parametrize(
    ("action", "evict_after"),
    [("reboot", None), (None, None), ("cordon", 5), ("uncordon", 0), ("drain", -1), ("drain", 604_801)],
)
async def test_a_request_about_a_worker_that_the_door_should_have_refused_is_refused(
    record: RestStore, state: StateManager, door_dsn: str, action: str | None, evict_after: int | None
) -> None:
    await state.upsert_workers([WorkerRow("w1", "pool")])
    with psycopg.connect(door_dsn) as connection:
        with pytest.raises(psycopg.DatabaseError, match="request for a worker is refused"):
            connection.execute("SELECT door_request_worker('w1', %s, 'x', %s::integer)", [action, evict_after])
        connection.rollback()
        for statement in ("UPDATE worker_requests SET message = 'x'", "DELETE FROM worker_requests"):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.rollback()
    assert await state.get_worker_requests() == []


async def test_a_door_of_the_last_release_asks_for_drains_without_eviction(
    record: RestStore, state: StateManager, door_dsn: str
) -> None:
    await state.upsert_workers([WorkerRow("w1", "pool")])
    with psycopg.connect(door_dsn, autocommit=True) as connection:
        connection.execute("SELECT door_request_worker('w1', 'drain', 'x')")
    (request,) = await state.get_worker_requests()
    assert (request.draining, request.evict_at) == (True, None)


async def test_a_key_is_found_by_its_hash_and_the_table_is_out_of_reach(
    record: RestStore, state: StateManager, door_dsn: str
) -> None:
    _, token = await ApiKeys(state._pool).create("acme", Role.CUSTOMER)
    keys = ApiKeys(record._pool)
    found = await keys.check(token)
    assert found is not None
    assert found.customer == "acme"
    assert await keys.check(token[:-1] + ("0" if token[-1] != "0" else "1")) is None
    with psycopg.connect(door_dsn) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SELECT hash FROM api_keys")


async def test_the_doors_role_does_everything_the_door_does(record: RestStore, state: StateManager) -> None:
    (id_,) = await _submit(record, _rest())
    assert (await record.get_workload(id_)) is not None
    assert [event.event for event in await record.get_events_page(id_, after=None, limit=10)] == ["Accepted"]
    assert await record.get_attempts(id_) == []
    assert await record.rate_acquire("acme", limit=5, expiry=1, amount=4)
    assert not await record.rate_acquire("acme", limit=5, expiry=1, amount=4)
    assert (await record.rate_window("acme", expiry=1))[2] in (0, 4)
    await state.upsert_workers([WorkerRow("w1", "pool")])
    for action in WorkerAction:
        request = await record.add_worker_request("w1", action=action, by="acme")
        assert request is not None
        assert await record.get_worker_request("w1", request.id) == request
    assert (await record.get_last_worker_requests(["w1"]))["w1"].action == WorkerAction.DRAIN
    assert await record.add_worker_request("unknown", action=WorkerAction.DRAIN, by="acme") is None
    await record.prune()
    assert sum((await record.waiting_by_customer()).values()) == 1
    assert await record.get_figures() is None
    assert await record.get_pools() == []
    assert len(await record.get_customers()) == 4
