"""Helpers that make intakes, bring rows into a phase, and check which indexes a statement uses."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from niyanta.lifecycle import Door, Event, Phase
from niyanta.store.postgres.migrate import migrate
from niyanta.store.postgres.pool import Pool
from niyanta.store.postgres.queries import sql
from niyanta.store.rows import RowChange, WorkloadIntake, WorkloadRow
from niyanta.store.state import StateManager
from testing.processes.postgres import Postgres

ROADS: dict[Phase, tuple[Event, ...]] = {
    Phase.PENDING: (),
    Phase.HELD: (Event.HOLD,),
    Phase.SUSPENDED: (Event.SUSPEND,),
    Phase.SCHEDULED: (Event.PLACE,),
    Phase.RUNNING: (Event.PLACE, Event.START),
    Phase.SUCCEEDED: (Event.PLACE, Event.START, Event.SUCCEED),
    Phase.FAILED: (Event.FAIL,),
    Phase.CANCELLED: (Event.CANCEL,),
}
"""Events that lead from Pending to each phase."""


def intake(**changes: Any) -> WorkloadIntake:
    first = WorkloadIntake(
        id=str(uuid.uuid4()),
        door=Door.KUBERNETES,
        namespace="team",
        name="job",
        customer="acme",
        type="render",
        labels={"app": "x"},
        generation=1,
        spec={"priority": 10},
        class_id="class-a",
        replicas=1,
        priority=10,
        tier_weight=10,
    )
    return replace(first, **changes)


def change(row: WorkloadRow, event: Event, **more: Any) -> RowChange:
    """A change with the version of `row` and enough workers."""
    if event is Event.PLACE:
        more = {"workers": ("w1",) * row.replicas, "pool": "pool-a", "score": 73.33, **more}
    return RowChange(id=row.id, version=row.version, event=event, **more)


async def move(state: StateManager, row: WorkloadRow, event: Event, *, epoch: int, **more: Any) -> WorkloadRow:
    """One transition that must succeed."""
    result = await state.update_workload_status_batch([change(row, event, **more)], epoch=epoch)
    assert (result.stale, result.illegal) == ([], [])
    (moved,) = result.applied
    return moved


async def arrive(state: StateManager, *, epoch: int, phase: Phase = Phase.PENDING, **changes: Any) -> WorkloadRow:
    """A new workload in `phase`."""
    (row,) = await state.take_in([intake(**changes)], epoch=epoch)
    for event in ROADS[phase]:
        row = await move(state, row, event, epoch=epoch)
    return row


async def pending_rows(state: StateManager, limit: int) -> list[WorkloadRow]:
    """The first pending rows of both doors that aren't in backoff, highest key first."""
    now_us = await state.clock()
    rows = [
        row
        async for row in state.get_active()
        if row.phase is Phase.PENDING and (row.not_before is None or row.not_before.timestamp() * 1e6 <= now_us)
    ]
    return sorted(rows, key=lambda row: (-row.queue_key, row.queued_at_us, row.id))[:limit]


@contextmanager
def crowded(postgres: Postgres, database: str, fill: Callable[[str], None]) -> Iterator[str]:
    """The DSN of a new, migrated database that `fill` fills with many rows."""
    dsn = postgres.create_database(database)
    migrate(dsn)
    fill(dsn)
    yield dsn
    postgres.drop_database(database)


async def check_plans(
    pool: Pool, cases: Sequence[tuple[str, dict[str, Any], list[str]]], *, never: str = "Seq Scan on workload"
) -> None:
    """Check for each (statement, parameters, indexes) that the planner uses all of these indexes."""
    for name, params, indexes in cases:
        async with pool.connection() as connection:
            cursor = await connection.execute(b"EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF) " + sql(name), params)
            plan = "\n".join(line for (line,) in await cursor.fetchall())
        assert [index for index in indexes if index not in plan] == [], f"{name}\n{plan}"
        assert never not in plan, f"{name}\n{plan}"
