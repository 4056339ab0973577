"""Submissions in the store: several requests in one transaction; finished workloads free their names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from niyanta.lifecycle import Door, Event
from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import ItemResult, RefusalReason, StoredResponse, SubmissionRequest
from niyanta.store.rows import CustomerRow, WorkloadIntake
from tests.store.make import intake

pytestmark = pytest.mark.store


@pytest.fixture
async def record(settings: Settings) -> AsyncIterator[RestStore]:
    async with await open_pool(settings) as pool:
        record = RestStore(pool, settings)
        await record.upsert_customers(
            [CustomerRow(name, "Standard", {}, ("team",)) for name in ("acme", "other", "third")]
        )
        yield record


def _names(verdicts: Sequence[ItemResult]) -> StoredResponse:
    names = [verdict.row.name if verdict.row else verdict.refusal.value for verdict in verdicts if verdict]  # type: ignore[union-attr]
    return StoredResponse(202, names, keep=any(verdict.row for verdict in verdicts))


def _request(
    *names: str, customer: str = "acme", limit: int | None = None, key: str | None = None
) -> SubmissionRequest:
    items: list[WorkloadIntake] = [intake(door=Door.REST, name=name, customer=customer) for name in names]
    return SubmissionRequest(customer, items, limit, _names, key=key, body_hash="00" if key else "")


async def test_requests_of_one_group_are_decided_one_by_one(record: RestStore) -> None:
    outcomes = await record.submit(
        [
            _request("a", "b", limit=2, key="one"),
            _request("c", limit=2, key="two"),
            _request("a", customer="other"),
            _request("a", customer="other", key="three"),
        ]
    )
    assert [outcome.answer.body if outcome.answer else None for outcome in outcomes] == [
        ["a", "b"],
        ["QueueFull"],
        ["a"],
        ["NameTaken"],
    ]
    assert [verdict.refusal for verdict in outcomes[1].verdicts] == [RefusalReason.QUEUE_FULL]
    assert outcomes[1].verdicts[0].depth == 2
    again = await record.submit([_request("z", key="one"), _request("c", key="two"), _request("d", key="three")])
    assert [(outcome.replayed, outcome.answer.body if outcome.answer else None) for outcome in again] == [
        (True, ["a", "b"]),
        (False, ["c"]),
        (False, ["d"]),
    ]
    assert await record.wrong_counters() == []


async def test_another_body_under_a_used_key_is_a_mismatch(record: RestStore) -> None:
    await record.submit([_request("a", key="k")])
    other = SubmissionRequest("acme", [intake(door=Door.REST, name="b")], None, _names, key="k", body_hash="11")
    (outcome,) = await record.submit([other])
    assert (outcome.mismatch, outcome.answer) == (True, None)
    assert await record.find_answer("acme", "k", "11") == outcome
    assert await record.find_answer("else", "k", "11") is None


async def test_groups_of_concurrent_writers_do_not_deadlock(record: RestStore) -> None:
    """Names, keys and customers in opposite orders, which are nevertheless locked in the same order."""
    names = [f"n{number}" for number in range(20)]
    groups = [
        [
            _request(*names[::step], customer=customer, limit=10_000, key=f"k{number % 3}-{customer}")
            for customer in ("acme", "other", "third")[::step]
        ]
        for number, step in enumerate([1, -1] * 8)
    ]
    await asyncio.gather(*(record.submit(group) for group in groups))
    depth = await record.get_queue_depth()
    assert {name: counts.pending for name, counts in depth.customers.items()} == {"acme": 20, "other": 20, "third": 20}
    assert await record.wrong_counters() == []


async def test_a_name_left_behind_by_an_older_release_is_free(record: RestStore) -> None:
    (outcome,) = await record.submit([_request("a")])
    row = outcome.verdicts[0].row
    assert row is not None
    async with record._pool.connection() as connection:
        # An older release finishes a workload without freeing its name.
        await connection.execute("UPDATE workload_state SET status = 'FAILED' WHERE id = %s", [row.id])
    (outcome,) = await record.submit([_request("a")])
    assert outcome.verdicts[0].row is not None


async def test_a_failed_submission_is_rolled_back(record: RestStore) -> None:
    def fails(_: Sequence[ItemResult]) -> StoredResponse:
        raise StoreUnavailableError("gone")

    request = SubmissionRequest("acme", [intake(door=Door.REST, name="a")], None, fails, key="k", body_hash="00")
    with pytest.raises(StoreUnavailableError):
        await record.submit([request])
    assert (await record.get_queue_depth()).total.pending == 0
    (outcome,) = await record.submit([_request("a", key="k")])
    assert not outcome.replayed


async def test_finishing_frees_the_name_in_the_same_transaction(record: RestStore) -> None:
    (outcome,) = await record.submit([_request("a")])
    row = outcome.verdicts[0].row
    assert row is not None
    await record.move(row.id, Event.CANCEL)
    async with record._pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM rest_names")
        assert await cursor.fetchone() == (0,)
