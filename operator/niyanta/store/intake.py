"""Taking workloads in: a new id becomes a row, a higher generation an edit, anything else leaves the row as it is.

`StateManager.take_in` is the way in. A row that is over stays over: its id (a Kubernetes UID) never comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from niyanta.store.codec import dumps, new_row, spec_record, state_record, workload_row
from niyanta.store.commit import begin
from niyanta.store.errors import ConflictError
from niyanta.store.keys import QueueKeys
from niyanta.store.ledger import Ledger
from niyanta.store.pool import Connection, Pool, fetch
from niyanta.store.queries import sql
from niyanta.store.rows import Intake, WorkloadRow

_ATTEMPTS = 3


async def take_in(
    pool: Pool, intakes: Iterable[Intake], *, keys: QueueKeys, holder: str, epoch: int | None
) -> list[WorkloadRow]:
    """One transaction; the current row of each id, in the order of first mention.

    Raises StaleEpochError, ConflictError, StoreUnavailableError.
    """
    wanted: dict[str, Intake] = {}
    for intake in intakes:
        seen = wanted.get(intake.id)
        if seen is None or seen.generation < intake.generation:
            wanted[intake.id] = intake
    for attempt in range(_ATTEMPTS):
        try:
            async with pool.transaction() as connection:
                rows = await _take_in(connection, wanted, keys=keys, holder=holder, epoch=epoch)
            return [rows[id_] for id_ in wanted]
        except ConflictError:
            # Somebody took the same new id in at the same moment: this time it is there.
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


async def _take_in(
    connection: Connection, wanted: dict[str, Intake], *, keys: QueueKeys, holder: str, epoch: int | None
) -> dict[str, WorkloadRow]:
    now_us = await begin(connection, epoch, holder)
    found = map(workload_row, await fetch(connection, "lock_rows", {"ids": list(wanted)}))
    rows = {row.id: row for row in found}
    ledger = Ledger(now_us=now_us, epoch=epoch)
    new: list[WorkloadRow] = []
    edited: list[WorkloadRow] = []
    for place, intake in enumerate(wanted.values()):
        old = rows.get(intake.id)
        if old is None:
            # A microsecond apart: what arrived in one batch keeps its order in the queue.
            at_us = now_us + place
            row = new_row(intake, at_us, keys.key(intake.priority, intake.tier_weight, at_us))
            new.append(row)
            ledger.count(row, 1)
            ledger.event(row, "Accepted")
        elif intake.generation > old.generation:
            row = _edited(old, intake, keys)
            edited.append(row)
            ledger.count(old, -1)
            ledger.count(row, 1)
            ledger.event(row, "Edited", old=old)
        else:
            continue
        rows[row.id] = row
    await _insert(connection, new)
    if edited:
        await connection.execute(sql("update_specs"), {"records": dumps([spec_record(row) for row in edited])})
        await connection.execute(sql("update_states"), {"records": dumps([state_record(row) for row in edited])})
    await ledger.flush(connection)
    return rows


def _edited(old: WorkloadRow, intake: Intake, keys: QueueKeys) -> WorkloadRow:
    """`old` with the new spec. Its phase isn't touched: suspending and the like are events of their own."""
    spec = replace(
        old,
        generation=intake.generation,
        spec=dict(intake.spec),
        labels=dict(intake.labels),
        type=intake.type,
        version=old.version + 1,
    )
    if old.phase.terminal:
        return spec
    return replace(
        spec,
        class_id=intake.class_id,
        priority=intake.priority,
        tier_weight=intake.tier_weight,
        queue_key=keys.key(intake.priority, intake.tier_weight, old.queued_at_us),
    )


async def _insert(connection: Connection, rows: Sequence[WorkloadRow]) -> None:
    if not rows:
        return
    done = await fetch(connection, "insert_specs", {"records": dumps([spec_record(row) for row in rows])})
    if len(done) < len(rows):
        raise ConflictError("another transaction took some of these workloads in")
    await connection.execute(sql("insert_states"), {"records": dumps([state_record(row) for row in rows])})
