"""Ingest of workloads: a new id becomes a row, a higher generation an edit; all others leave the row unchanged.

`StateManager.take_in` calls it. A finished row stays finished, because its id (a Kubernetes UID) is never reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from niyanta.lifecycle import Phase
from niyanta.store.errors import ConflictError
from niyanta.store.leadership import begin
from niyanta.store.postgres.pool import Connection, Pool, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, new_row, spec_record, state_record, workload_row
from niyanta.store.rows import WorkloadIntake, WorkloadRow
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.limits import QUEUE_FULL, full_message, limited, lock_customers
from niyanta.store.workloads.queue_key import QueueKeys

_MAX_ATTEMPTS = 3


async def take_in(
    pool: Pool,
    intakes: Iterable[WorkloadIntake],
    *,
    keys: QueueKeys,
    holder: str,
    epoch: int | None,
    queue_limits: Mapping[str, int | None],
) -> list[WorkloadRow]:
    """One transaction; the current row of each id, in the order of first mention. `queue_limits`: maxQueueDepth by
    customer.

    Raises StaleEpochError, ConflictError, StoreUnavailableError.
    """
    wanted: dict[str, WorkloadIntake] = {}
    for intake in intakes:
        seen = wanted.get(intake.id)
        if seen is None or seen.generation < intake.generation:
            wanted[intake.id] = intake
    for attempt in range(_MAX_ATTEMPTS):
        try:
            async with pool.transaction() as connection:
                now_us = await begin(connection, epoch, holder)
                room = await _room(connection, wanted.values(), queue_limits)
                rows = await _take_in(connection, wanted, room, keys=keys, now_us=now_us, epoch=epoch)
            return [rows[id_] for id_ in wanted]
        except ConflictError:
            # Another transaction inserted the same new id; the next attempt finds the row.
            if attempt == _MAX_ATTEMPTS - 1:
                raise
    raise AssertionError


class _Room:
    """Remaining queue depth of each limited customer, while its lock is held."""

    def __init__(self, limits: Mapping[str, int], depths: Mapping[str, int]) -> None:
        self._limits = limits
        self._depths = dict(depths)

    def admit(self, intake: WorkloadIntake) -> WorkloadIntake:
        """`intake`, or a Held copy of it when the customer's queue is full."""
        limit = self._limits.get(intake.customer)
        if limit is None or intake.phase is not Phase.PENDING:
            return intake
        depth = self._depths[intake.customer]
        if depth >= limit:
            return replace(intake, phase=Phase.HELD, reason=QUEUE_FULL, message=full_message(limit, depth))
        self._depths[intake.customer] = depth + 1
        return intake


async def _room(connection: Connection, intakes: Iterable[WorkloadIntake], limits: Mapping[str, int | None]) -> _Room:
    waiting = {intake.customer for intake in intakes if intake.phase is Phase.PENDING}
    found = await lock_customers(connection, limited(waiting, limits))
    known = {name: limit for name, limit in limits.items() if limit is not None}
    return _Room(known, {name: occupied.pending for name, occupied in found.items()})


async def _take_in(
    connection: Connection,
    wanted: dict[str, WorkloadIntake],
    room: _Room,
    *,
    keys: QueueKeys,
    now_us: int,
    epoch: int | None,
) -> dict[str, WorkloadRow]:
    found = map(workload_row, await fetch(connection, "lock_rows", {"ids": list(wanted)}))
    rows = {row.id: row for row in found}
    audit = AuditLog(now_us=now_us, epoch=epoch)
    new: list[WorkloadRow] = []
    edited: list[WorkloadRow] = []
    for place, intake in enumerate(wanted.values()):
        old = rows.get(intake.id)
        if old is None:
            # A microsecond apart, so that the queue keeps the order of the batch.
            at_us = now_us + place
            row = new_row(room.admit(intake), at_us, keys.key(intake.priority, intake.tier_weight, at_us))
            row = replace(row, spec_bytes=len(dumps(row.spec)))
            new.append(row)
            audit.count(row, 1)
            audit.event(row, "Accepted")
        elif (intake.generation, intake.labels) != (old.generation, old.labels) and intake.generation >= old.generation:
            row = _edited(old, intake, keys)
            edited.append(row)
            audit.count(old, -1)
            audit.count(row, 1)
            audit.event(row, "Edited", old=old)
        else:
            continue
        rows[row.id] = row
    named = {key for intake in wanted.values() for key in intake.visible_keys}
    if named and (new or edited):
        # Before the rows, whose classes depend on the keys.
        keys_named = dumps([{"reach": reach, "key": key} for reach, key in named])
        await connection.execute(sql("add_visible_keys"), {"records": keys_named})
    classes = await insert(connection, new, epoch=epoch)
    if edited:
        await connection.execute(sql("update_specs"), {"records": dumps([_edited_spec(row) for row in edited])})
        await connection.execute(sql("update_states"), _states(edited, epoch))
        classes |= dict(await fetch(connection, "update_classes", {"ids": [row.id for row in edited]}))
    await audit.flush(connection)
    return rows | {id_: replace(rows[id_], queue_class=name) for id_, name in classes.items()}


def _edited_spec(row: WorkloadRow) -> dict[str, Any]:
    """The columns of workloads. Rows are locked without their specs, so an empty one is the stored one."""
    return spec_record(row) | ({} if row.spec else {"spec": None})


def _edited(old: WorkloadRow, intake: WorkloadIntake, keys: QueueKeys) -> WorkloadRow:
    """`old` with the new spec. The phase doesn't change: suspending, for instance, is a separate event."""
    if intake.phase is Phase.FAILED and not old.phase.terminal:
        # An edit that can't be read or placed: the workload, whose pods may run, goes on with its last spec.
        return replace(old, generation=intake.generation, version=old.version + 1)
    spec = replace(
        old,
        generation=intake.generation,
        spec=dict(intake.spec),
        spec_bytes=len(dumps(intake.spec)),
        labels=dict(intake.labels),
        type=intake.type,
        queue_class=intake.queue_class,
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


def _states(rows: Sequence[WorkloadRow], epoch: int | None) -> dict[str, object]:
    return {"records": dumps([state_record(row) for row in rows]), "writer": epoch or 0}


async def insert(connection: Connection, rows: Sequence[WorkloadRow], *, epoch: int | None) -> dict[str, str]:
    """Insert new rows, whose `queue_class` is the base; returns the queue class of each id. Raises
    ConflictError when one of the ids exists already.
    """
    if not rows:
        return {}
    done = await fetch(connection, "insert_specs", {"records": dumps([spec_record(row) for row in rows])})
    if len(done) < len(rows):
        raise ConflictError("another transaction inserted some of these workloads")
    return dict(await fetch(connection, "insert_states", _states(rows, epoch)))
