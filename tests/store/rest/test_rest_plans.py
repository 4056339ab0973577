"""With 50,000 rows, reads of the REST door use indexes, and the cost of a listing depends only on its page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bench.backlog import fill
from niyanta.lifecycle import Door
from niyanta.settings import Settings
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.reads.reads import WorkloadFilter
from niyanta.store.rest.record import RestStore
from testing.processes.postgres import Postgres
from tests.store.make import check_plans, crowded

pytestmark = pytest.mark.store

_ROWS = 50_000


@pytest.fixture(scope="module")
def big_dsn(postgres: Postgres) -> Iterator[str]:
    with crowded(postgres, "backlog", lambda dsn: fill(dsn, _ROWS, customers=20, classes=40)) as dsn:
        yield dsn


@pytest.fixture
async def big(big_dsn: str) -> AsyncIterator[Pool]:
    async with await open_pool(Settings(dsn=big_dsn, db_pool_min=1)) as pool:
        yield pool


async def test_rest_reads_follow_indexes(big: Pool) -> None:
    last = "ffffffff-ffff-ffff-ffff-ffffffffffff"
    page = {"at": datetime(9999, 1, 1, tzinfo=UTC), "id": last, "since": datetime(1, 1, 1, tzinfo=UTC), "limit": 51}
    cases: list[tuple[str, dict[str, Any], list[str]]] = [
        ("list_of", {**page, "customers": ["c1"], "statuses": ["PENDING"]}, ["workload_state_keyset"]),
        ("list_of", {**page, "customers": ["c1", "c2"], "statuses": ["PENDING", "FAILED"]}, ["workload_state_keyset"]),
        ("list_all", page, ["workloads_keyset"]),
        (
            "list_named",
            {**page, "customers": ["c1", "c2"], "statuses": ["PENDING"], "name": "w-21", "stems": ["w-21"]},
            ["workloads_named"],
        ),
        ("oldest_pending", {}, ["workload_state_oldest"]),
        ("oldest_pending_of", {"customer": "c1"}, ["workload_state_listing"]),
        ("ahead", {"key": 0, "queued_at": page["at"], "id": last, "most": 10_000}, ["workload_state_top"]),
    ]
    await check_plans(big, cases)


async def test_the_generated_backlog_is_a_sound_one(big: Pool) -> None:
    record = RestStore(big, Settings())
    assert (await record.get_queue_depth()).total.pending == _ROWS
    assert await record.wrong_counters() == []
    rows, place = await record.list_workloads(WorkloadFilter(customer="c1"), after=None, limit=100)
    assert (len(rows), place is not None) == (100, True)
    assert all(row.door is Door.REST and row.customer == "c1" for row in rows)
    oldest = await record.oldest_pending("c1")
    assert oldest is not None
    assert oldest > 0
