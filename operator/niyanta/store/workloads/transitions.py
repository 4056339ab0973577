"""Transitions: the pure rules for one row, and a batch of them as one transaction.

`transition` applies an event that `lifecycle.next_phase` allows to the columns. `apply_changes` locks the rows,
compares versions, applies the rules, and writes rows and audit events in bulk;
`StateManager.update_workload_status_batch` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from niyanta.lifecycle import Door, Event, IllegalTransitionError, next_phase
from niyanta.store.leadership import begin
from niyanta.store.postgres.pool import Pool, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, from_us, state_record, workload_row
from niyanta.store.rows import BatchResult, RowChange, WorkloadRow
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.queue_key import QueueKeys
from niyanta.store.workloads.waited_time import waiting


class InvalidChangeError(ValueError):
    """A PLACE without workers for all replicas, with too many or too few pools, or with a used attempt number."""


def transition(row: WorkloadRow, change: RowChange, *, now_us: int, keys: QueueKeys) -> WorkloadRow:
    """The row after `change`. `now_us`: µs of the database clock.

    Raises IllegalTransitionError, InvalidChangeError. The caller has compared the versions.
    """
    to = next_phase(row.phase, change.event)
    now = from_us(now_us)
    values: dict[str, Any] = {
        "phase": to,
        "version": row.version + 1,
        "reason": change.reason,
        "message": change.message,
        "wake_at": None if change.wake_in_seconds is None else now + timedelta(seconds=change.wake_in_seconds),
    }
    if change.not_before_seconds is not None:
        values["not_before"] = now + timedelta(seconds=change.not_before_seconds)
    if row.excluded or change.excluded:
        values["excluded"] = {worker: until for worker, until in row.excluded.items() if until > now} | {
            worker: now + timedelta(seconds=seconds) for worker, seconds in change.excluded.items()
        }
    if change.event is Event.PLACE:
        values |= _placed(row, change) | {"scheduled_at": now}
    elif change.event is Event.START:
        values |= {"started_at": now, "rejections": 0}
    elif to.terminal:
        values["finished_at"] = now
    elif row.phase.bound:
        values |= {"workers": (), "pool": "", "pools": (), "score": None, "scheduled_at": None, "started_at": None}
    if change.event is Event.RETRY:
        values["failures"] = row.failures + 1
    elif change.event is Event.REQUEUE and change.counts:
        values["rejections"] = row.rejections + 1
    values |= waiting(row, to=to, not_before=values.get("not_before", row.not_before), now_us=now_us)
    queued_at_us = values.get("queued_at_us", row.queued_at_us)
    values["queue_key"] = keys.key(row.priority, row.tier_weight, queued_at_us)
    return replace(row, **values)


def _placed(row: WorkloadRow, change: RowChange) -> dict[str, Any]:
    """Columns of a placement. Attempts may skip numbers (pods adopted after a restore) but never decrease."""
    attempt = row.attempt + 1 if change.attempt is None else change.attempt
    if not change.workers or len(change.workers) != row.replicas:
        raise InvalidChangeError(f"{row.id}: needs {row.replicas} workers, got {change.workers}")
    if change.pools and len(change.pools) != len(change.workers):
        raise InvalidChangeError(f"{row.id}: {len(change.workers)} workers have {len(change.pools)} pools")
    if attempt <= row.attempt:
        raise InvalidChangeError(f"{row.id}: attempt {attempt} must be higher than {row.attempt}")
    return {
        "attempt": attempt,
        "workers": tuple(change.workers),
        "pool": change.pools[0] if change.pools else change.pool or "",
        "pools": change.pools if len(set(change.pools)) > 1 else (),
        "score": change.score,
        "started_at": None,
        "not_before": None,
    }


async def apply_changes(
    pool: Pool, changes: Sequence[RowChange], *, keys: QueueKeys, holder: str, epoch: int | None, cycle: int | None
) -> BatchResult:
    """Apply the valid changes, and list the others in the result.

    Raises StaleEpochError, ConflictError (nothing written), StoreUnavailableError (maybe written).
    """
    async with pool.transaction() as connection:
        now_us = await begin(connection, epoch, holder)
        ids = {"ids": list({change.id for change in changes})}
        rows = {row.id: row for row in map(workload_row, await fetch(connection, "lock_rows", ids))}
        audit = AuditLog(now_us=now_us, epoch=epoch)
        moved, stale, illegal = _decide(changes, rows, audit, keys=keys, now_us=now_us, cycle=cycle)
        if moved:
            records = dumps([state_record(row) for row in moved.values()])
            async with connection.pipeline():
                await connection.execute(sql("update_states"), {"records": records, "writer": epoch or 0})
                ended = [row.id for row in moved.values() if row.door is Door.REST and row.phase.terminal]
                if ended:
                    await connection.execute(sql("free_names"), {"ids": ended})
                await audit.flush(connection)
    return BatchResult(list(moved.values()), stale, illegal)


def _decide(
    changes: Sequence[RowChange],
    rows: dict[str, WorkloadRow],
    audit: AuditLog,
    *,
    keys: QueueKeys,
    now_us: int,
    cycle: int | None,
) -> tuple[dict[str, WorkloadRow], list[str], list[str]]:
    """Decide each change in order. Returns (new rows by id, stale ids, illegal ids)."""
    moved: dict[str, WorkloadRow] = {}
    stale: list[str] = []
    illegal: list[str] = []
    dropped: set[str] = set()
    for change in changes:
        row = rows.get(change.id)
        if row is None or row.version != change.version or not dropped.isdisjoint(change.depends_on):
            stale.append(change.id)
            dropped.add(change.id)
            continue
        try:
            new = transition(row, change, now_us=now_us, keys=keys)
        except (IllegalTransitionError, InvalidChangeError):
            illegal.append(change.id)
            dropped.add(change.id)
            continue
        audit.moved(row, new, change, cycle=cycle)
        rows[change.id] = moved[change.id] = new
    return moved, stale, illegal
