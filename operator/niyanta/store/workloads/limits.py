"""Limits per customer, exact: whoever checks one holds the customer's advisory lock from before it reads the counters
until its own rows are committed.

`intake` and `submit` check when something arrives, `release_held` when room appears. Retries don't ask for room: work
that was accepted once is never turned away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from niyanta.lifecycle import Event
from niyanta.store.postgres.pool import Connection, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, state_record, workload_row
from niyanta.store.rows import RowChange, WorkloadRow
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.queue_key import QueueKeys
from niyanta.store.workloads.transitions import transition

QUEUE_FULL = "QueueFull"
"""Reason of a workload that is Held because its customer is at its maxQueueDepth."""

RELEASE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How many of a customer's workloads wait: `pending` in the queue, `waiting` with the held and suspended ones."""

    pending: int = 0
    waiting: int = 0


async def lock_customers(connection: Connection, customers: Iterable[str]) -> dict[str, Occupancy]:
    """Until the transaction ends nobody else can check these customers' limits; returns what waits now.

    Must come before every row lock of the transaction: all take these locks first, in one order.
    """
    names = sorted(set(customers))
    if not names:
        return {}
    await connection.execute(sql("lock_customers"), {"customers": names})
    found = await fetch(connection, "customer_depths", {"customers": names})
    return {name: Occupancy() for name in names} | {name: Occupancy(*counts) for name, *counts in found}


def full_message(limit: int, depth: int) -> str:
    """What is shown with QUEUE_FULL."""
    return f"the customer has {depth} workloads waiting, its maxQueueDepth is {limit}"


def limited(customers: Iterable[str], limits: Mapping[str, int | None]) -> list[str]:
    """Those that have a limit."""
    return [name for name in customers if limits.get(name) is not None]


async def release_held(
    connection: Connection, customer: str, limit: int | None, *, keys: QueueKeys, now_us: int, epoch: int | None
) -> list[WorkloadRow]:
    """Release the first of the held while there is room; at most RELEASE_AT_ONCE. Inside a transaction."""
    room = RELEASE_AT_ONCE
    occupied = await lock_customers(connection, [customer])
    if limit is not None:
        room = min(room, limit - occupied[customer].pending)
    if room <= 0:
        return []
    rows = map(workload_row, await fetch(connection, "lock_full", {"customer": customer, "limit": room}))
    ledger = AuditLog(now_us=now_us, epoch=epoch)
    released = []
    for row in rows:
        change = RowChange(id=row.id, version=row.version, event=Event.RELEASE, reason="Released")
        new = transition(row, change, now_us=now_us, keys=keys)
        ledger.moved(row, new, change, cycle=None)
        released.append(new)
    if released:
        records = dumps([state_record(row) for row in released])
        await connection.execute(sql("update_states"), {"records": records, "writer": epoch or 0})
        await ledger.flush(connection)
    return released
