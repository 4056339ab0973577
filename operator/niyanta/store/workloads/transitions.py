"""A batch of transitions as one transaction: lock, check, apply in Python, write back set by set.

`StateManager.update_workload_status_batch` is the way in; the rules for a single row are in `transition`.
"""

from __future__ import annotations

from collections.abc import Sequence

from niyanta.lifecycle import Door, IllegalTransitionError
from niyanta.store.leadership import check_epoch
from niyanta.store.postgres.pool import Connection, Pool, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, state_record, workload_row
from niyanta.store.rows import BatchResult, RowChange, WorkloadRow
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.queue_key import QueueKeys
from niyanta.store.workloads.transition import InvalidChangeError, transition


async def begin(connection: Connection, epoch: int | None, holder: str) -> int:
    """First statement of a writing transaction: the epoch check, if any. Returns µs of the database clock."""
    if epoch is None:
        return int((await fetch(connection, "clock"))[0][0])
    return await check_epoch(connection, epoch, holder)


async def apply_changes(
    pool: Pool, changes: Sequence[RowChange], *, keys: QueueKeys, holder: str, epoch: int | None, cycle: int | None
) -> BatchResult:
    """Apply what can be applied and say what became of the rest.

    Raises StaleEpochError, ConflictError (nothing written), StoreUnavailableError (maybe written).
    """
    async with pool.transaction() as connection:
        now_us = await begin(connection, epoch, holder)
        ids = {"ids": list({change.id for change in changes})}
        rows = {row.id: row for row in map(workload_row, await fetch(connection, "lock_rows", ids))}
        ledger = AuditLog(now_us=now_us, epoch=epoch)
        moved, stale, illegal = _decide(changes, rows, ledger, keys=keys, now_us=now_us, cycle=cycle)
        if moved:
            records = dumps([state_record(row) for row in moved.values()])
            async with connection.pipeline():
                await connection.execute(sql("update_states"), {"records": records, "writer": epoch or 0})
                ended = [row.id for row in moved.values() if row.door is Door.REST and row.phase.terminal]
                if ended:
                    await connection.execute(sql("free_names"), {"ids": ended})
                await ledger.flush(connection)
    return BatchResult(list(moved.values()), stale, illegal)


def _decide(
    changes: Sequence[RowChange],
    rows: dict[str, WorkloadRow],
    ledger: AuditLog,
    *,
    keys: QueueKeys,
    now_us: int,
    cycle: int | None,
) -> tuple[dict[str, WorkloadRow], list[str], list[str]]:
    """Go through the batch in order. Returns (new rows by id, stale ids, illegal ids)."""
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
        ledger.moved(row, new, change, cycle=cycle)
        rows[change.id] = moved[change.id] = new
    return moved, stale, illegal
