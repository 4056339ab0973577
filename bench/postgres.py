"""Size of a workload in Postgres: bytes on disk while it waits and after it has finished, and write-ahead log bytes."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import psycopg

from bench.backlog import POD
from niyanta.lifecycle import Door, Event
from niyanta.settings import Settings
from niyanta.store.postgres.migrate import migrate
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import StoredResponse, SubmissionRequest
from niyanta.store.rows import CustomerRow, RowChange, WorkloadIntake, WorkloadRow
from testing.processes.postgres import Postgres

COUNT = 10_000
BATCH = 500
CUSTOMERS = 20
_HOT = ("workloads", "workload_state", "rest_names", "queue_counters", "attempts")
_SIZES = """SELECT relname, pg_total_relation_size(oid) FROM pg_class
 WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace AND relname = ANY(%s)"""
_EVENTS = """SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits
 WHERE inhparent = 'workload_events'::regclass"""


def run() -> dict[str, Any]:
    """Bytes per workload, averaged over COUNT workloads of one pod each, with production settings."""
    with Postgres.create(durable=True) as server:
        migrate(server.dsn)
        return {"workloads": COUNT, **asyncio.run(_measure(server.dsn))}


async def _measure(dsn: str) -> dict[str, Any]:
    settings = Settings(dsn=dsn, db_pool_min=1)
    found: dict[str, Any] = {}
    async with await open_pool(settings) as pool:
        record = RestStore(pool, settings)
        await record.upsert_customers(
            [CustomerRow(f"c{number}", "Standard", {}, (f"n{number}",)) for number in range(CUSTOMERS)]
        )
        before, log = _sizes(dsn), _log(dsn)
        rows = [row for start in range(0, COUNT, BATCH) for row in await _submit(record, start)]
        found["log_bytes.submit"] = (_log(dsn) - log) // COUNT
        found["disk_bytes.waiting"] = _grown(before, _sizes(dsn))
        for event in (Event.PLACE, Event.START, Event.SUCCEED):
            log = _log(dsn)
            rows = [
                row
                for start in range(0, COUNT, BATCH)
                for row in await _move(record, rows[start : start + BATCH], event)
            ]
            found[f"log_bytes.{event.value.lower()}"] = (_log(dsn) - log) // COUNT
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("VACUUM")
        found["disk_bytes.finished"] = _grown(before, _sizes(dsn))
    found["log_bytes.all"] = sum(value for name, value in found.items() if name.startswith("log_bytes."))
    return found


async def _submit(record: RestStore, start: int) -> list[WorkloadRow]:
    requests = [
        SubmissionRequest(
            f"c{number % CUSTOMERS}", [_intake(number)], None, lambda _: StoredResponse(202, {}, keep=False)
        )
        for number in range(start, start + BATCH)
    ]
    outcomes = await record.submit(requests)
    return [verdict.row for outcome in outcomes for verdict in outcome.verdicts if verdict.row is not None]


def _intake(number: int) -> WorkloadIntake:
    return WorkloadIntake(
        id=str(uuid.uuid4()),
        door=Door.REST,
        namespace=f"n{number % CUSTOMERS}",
        name=f"w-{number}",
        customer=f"c{number % CUSTOMERS}",
        type="",
        labels={},
        generation=1,
        spec={"template": {"spec": POD}},
        class_id=f"{number % 50:032x}",
        replicas=1,
        priority=number % 101,
        tier_weight=10,
    )


async def _move(record: RestStore, rows: list[WorkloadRow], event: Event) -> list[WorkloadRow]:
    placed: dict[str, Any] = (
        {"workers": ("worker-0001",), "pool": "pool-a", "score": 50.0} if event is Event.PLACE else {}
    )
    changes = [RowChange(id=row.id, version=row.version, event=event, **placed) for row in rows]
    result = await record.update_workload_status_batch(changes, epoch=None)
    assert len(result.applied) == len(rows)
    return result.applied


def _sizes(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = {str(name): int(size) for name, size in connection.execute(_SIZES.encode(), [list(_HOT)])}
        row = connection.execute(_EVENTS.encode()).fetchone()
    return {**found, "workload_events": int(row[0]) if row else 0}


def _log(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')").fetchone()
    return int(row[0]) if row else 0


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    each = {name: (after[name] - before[name]) // COUNT for name in after}
    return {**each, "all": sum(each.values())}
