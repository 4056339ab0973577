"""Holds and releases of a customer's REST rows, most of which the leader doesn't have in memory.

One bounded batch per call, in one transaction. The caller repeats it until fewer rows than `limit` are returned.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from niyanta.lifecycle import Event
from niyanta.store.postgres.pool import Connection
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, state_record
from niyanta.store.rows import RowChange, WorkloadRow
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.limits import QUEUE_FULL, full_message, lock_customers, lock_readable
from niyanta.store.workloads.queue_key import QueueKeys
from niyanta.store.workloads.transitions import transition


async def hold_rows(
    connection: Connection,
    customer: str,
    *,
    namespaces: Collection[str] | None,
    reason: str,
    message: str,
    limit: int,
    keys: QueueKeys,
    now_us: int,
    epoch: int | None,
) -> list[WorkloadRow]:
    """Hold Pending REST rows of the customer (in `namespaces`, if given). Inside a transaction."""
    params = {"customer": customer, "status": "PENDING", "limit": limit}
    params |= {"namespaces": None if namespaces is None else list(namespaces), "reasons": None, "not_reason": None}
    rows = await lock_readable(connection, "lock_rest_rows", params)
    audit = AuditLog(now_us=now_us, epoch=epoch)
    held = []
    for row in rows:
        change = RowChange(row.id, row.version, Event.HOLD, reason, message)
        new = transition(row, change, now_us=now_us, keys=keys)
        audit.moved(row, new, change, cycle=None)
        held.append(new)
    await _write(connection, held, audit, epoch)
    return held


async def release_rows(
    connection: Connection,
    customer: str,
    *,
    namespaces: Collection[str] | None,
    reasons: Collection[str] | None,
    queue_limit: int | None,
    limit: int,
    keys: QueueKeys,
    now_us: int,
    epoch: int | None,
) -> list[WorkloadRow]:
    """Release Held REST rows of the customer, in queue order; those beyond `queue_limit` Pending ones stay Held with
    reason QUEUE_FULL. Rows with that reason already are left alone. Inside a transaction.
    """
    occupied = await lock_customers(connection, [customer])
    params = {"customer": customer, "status": "HELD", "limit": limit, "not_reason": QUEUE_FULL}
    params |= {"namespaces": None if namespaces is None else list(namespaces)}
    params |= {"reasons": None if reasons is None else list(reasons)}
    rows = await lock_readable(connection, "lock_rest_rows", params)
    audit = AuditLog(now_us=now_us, epoch=epoch)
    pending = occupied[customer].pending
    moved = []
    for row in rows:
        if queue_limit is not None and pending >= queue_limit:
            message = full_message(queue_limit, pending)
            new = replace(row, version=row.version + 1, reason=QUEUE_FULL, message=message)
            audit.event(new, "Noted", old=row)
        else:
            pending += 1
            change = RowChange(row.id, row.version, Event.RELEASE, "Released")
            new = transition(row, change, now_us=now_us, keys=keys)
            audit.moved(row, new, change, cycle=None)
        moved.append(new)
    await _write(connection, moved, audit, epoch)
    return moved


async def _write(connection: Connection, rows: list[WorkloadRow], audit: AuditLog, epoch: int | None) -> None:
    if rows:
        records = dumps([state_record(row) for row in rows])
        await connection.execute(sql("update_states"), {"records": records, "writer": epoch or 0})
        await audit.flush(connection)
