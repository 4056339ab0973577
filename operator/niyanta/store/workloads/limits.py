"""Exact limits per customer: a transaction locks the customer (advisory lock) before it reads the counters, and keeps
the lock until its rows are committed.

`ingest` and `submissions` check the limits of new workloads, `release_held` releases held ones when the limit allows.
Retries are not checked: an accepted workload is never rejected later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from niyanta.lifecycle import Event
from niyanta.store.postgres.pool import Connection, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, record_id, state_record, workload_rows
from niyanta.store.rows import RowChange, WorkloadRow
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.queue_key import QueueKeys
from niyanta.store.workloads.transitions import transition

QUEUE_FULL = "QueueFull"
"""Reason of a workload that is Held because its customer is at its maxQueueDepth."""

RELEASE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Number of a customer's waiting workloads: `pending` in the queue, `waiting` including held and suspended ones."""

    pending: int = 0
    waiting: int = 0


async def lock_customers(connection: Connection, customers: Iterable[str]) -> dict[str, Occupancy]:
    """Lock the limits of these customers until the transaction ends; returns their numbers of waiting workloads.

    Must come before every row lock of the transaction: all transactions take these locks first, in the same order.
    """
    names = sorted(set(customers))
    if not names:
        return {}
    await connection.execute(sql("lock_customers"), {"customers": names})
    found = await fetch(connection, "customer_depths", {"customers": names})
    return {name: Occupancy() for name in names} | {name: Occupancy(*counts) for name, *counts in found}


def full_message(limit: int, depth: int) -> str:
    """Message for QUEUE_FULL."""
    return f"the customer has {depth} workloads waiting, its maxQueueDepth is {limit}"


def limited(customers: Iterable[str], limits: Mapping[str, int | None]) -> list[str]:
    """The customers that have a limit."""
    return [name for name in customers if limits.get(name) is not None]


async def lock_readable(connection: Connection, statement: str, params: Mapping[str, Any]) -> list[WorkloadRow]:
    """Up to `limit` rows that the statement locks, without those that can't be mapped. They are asked for with others
    in their place, because callers take fewer than `limit` rows for the end."""
    rows: list[WorkloadRow] = []
    seen: list[str] = []
    while (room := params["limit"] - len(rows)) > 0:
        records = await fetch(connection, statement, {**params, "limit": room, "seen": seen})
        rows += workload_rows(records)
        seen += map(record_id, records)
        if len(records) < room:
            break
    return rows


async def release_held(
    connection: Connection, customer: str, limit: int | None, *, keys: QueueKeys, now_us: int, epoch: int | None
) -> list[WorkloadRow]:
    """Release held workloads in queue order up to `limit`, at most RELEASE_AT_ONCE. Inside a transaction."""
    room = RELEASE_AT_ONCE
    occupied = await lock_customers(connection, [customer])
    if limit is not None:
        room = min(room, limit - occupied[customer].pending)
    if room <= 0:
        return []
    rows = await lock_readable(connection, "lock_full", {"customer": customer, "limit": room})
    audit = AuditLog(now_us=now_us, epoch=epoch)
    released = []
    for row in rows:
        change = RowChange(id=row.id, version=row.version, event=Event.RELEASE, reason="Released")
        new = transition(row, change, now_us=now_us, keys=keys)
        audit.moved(row, new, change, cycle=None)
        released.append(new)
    if released:
        records = dumps([state_record(row) for row in released])
        await connection.execute(sql("update_states"), {"records": records, "writer": epoch or 0})
        await audit.flush(connection)
    return released
