"""The state manager: reads and writes of the scheduler and the doors in Postgres.

Writers first insert workloads (`take_in`), then change their phase (`update_workload_status_batch`). Methods raise
StoreUnavailableError within `statement_timeout` when Postgres doesn't answer. `epoch` None means a writer that doesn't
lead (the REST door) and is protected only by row versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from niyanta.lifecycle import Door
from niyanta.settings import Settings
from niyanta.store.changes import HorizonWatch, changes_since, current_cursor
from niyanta.store.leadership import begin
from niyanta.store.postgres.partitions import maintain_partitions
from niyanta.store.postgres.pool import Pool, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.queue_classes import QueueClassStore
from niyanta.store.row_mapping import (
    checked_id,
    dumps,
    event_row,
    record_id,
    state_record,
    workload_row,
    workload_rows,
)
from niyanta.store.rows import BatchResult, Cursor, EventRow, PendingNote, RowChange, WorkloadIntake, WorkloadRow
from niyanta.store.workloads import customer_holds, ingest, limits, retention, transitions
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.queue_key import QueueKeys
from niyanta.store.workloads.retention import ExpiredRow

_FIRST = Cursor().id
_PAGE_ROWS = 1000

SPEC_BYTES_AT_ONCE = 1024 * 1024
"""Most bytes of specs read at once, as text; decoded, they take up to 20 times as much memory."""

UNKNOWN_SPEC_BYTES = 64 * 1024
"""Assumed for rows that were stored before the bytes of their specs were."""


class StateManager(QueueClassStore):
    """State in Postgres. `settings.identity` must be the `holder` of leadership."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        super().__init__(pool, settings)
        self._keys = QueueKeys(settings)
        self._horizon = HorizonWatch()

    # --- Writing -----------------------------------------------------------------------------------------------------

    async def take_in(
        self,
        intakes: Iterable[WorkloadIntake],
        *,
        epoch: int | None,
        queue_limits: Mapping[str, int | None] | None = None,
    ) -> list[WorkloadRow]:
        """Insert new workloads, edit those whose generation is higher, ignore others; returns the row of each id.

        `queue_limits`: customer -> maxQueueDepth; a new Pending workload beyond it becomes Held (QueueFull). The limit
        is exact. One transaction. Raises ValueError (an id is not a UUID), StaleEpochError, ConflictError.
        """
        checked = [replace(item, id=checked_id(item.id)) for item in intakes]
        if not checked:
            return []
        holder = self._settings.identity
        return await ingest.take_in(
            self._pool, checked, keys=self._keys, holder=holder, epoch=epoch, queue_limits=queue_limits or {}
        )

    async def release_held(self, customer: str, limit: int | None, *, epoch: int | None) -> list[WorkloadRow]:
        """Release the customer's Held (QueueFull) workloads in queue order while fewer than `limit` are Pending.

        Exact under concurrent submissions. At most 1,000 at once: when 1,000 are returned, call again. Raises
        StaleEpochError, ConflictError.
        """
        async with self._pool.transaction() as connection:
            now_us = await begin(connection, epoch, self._settings.identity)
            return await limits.release_held(connection, customer, limit, keys=self._keys, now_us=now_us, epoch=epoch)

    async def hold_rows(
        self,
        customer: str,
        reason: str,
        message: str,
        *,
        epoch: int | None,
        limit: int = _PAGE_ROWS,
        namespaces: Collection[str] | None = None,
    ) -> list[WorkloadRow]:
        """Hold up to `limit` Pending REST rows of a customer (in `namespaces`, if given); returns their new rows.

        When `limit` are returned, call again. Raises StaleEpochError, ConflictError.
        """
        async with self._pool.transaction() as connection:
            now_us = await begin(connection, epoch, self._settings.identity)
            return await customer_holds.hold_rows(
                connection,
                customer,
                namespaces=namespaces,
                reason=reason,
                message=message,
                limit=limit,
                keys=self._keys,
                now_us=now_us,
                epoch=epoch,
            )

    async def release_rows(
        self,
        customer: str,
        *,
        epoch: int | None,
        limit: int = _PAGE_ROWS,
        namespaces: Collection[str] | None = None,
        reasons: Collection[str] | None = None,
        queue_limit: int | None = None,
    ) -> list[WorkloadRow]:
        """Release up to `limit` Held REST rows of a customer in queue order; returns their new rows.

        `namespaces`, `reasons`: only these. `queue_limit`: maxQueueDepth; rows beyond it stay Held (QueueFull), and
        rows that are Held for it already are left to `release_held`. When `limit` are returned, call again. Raises
        StaleEpochError, ConflictError.
        """
        async with self._pool.transaction() as connection:
            now_us = await begin(connection, epoch, self._settings.identity)
            return await customer_holds.release_rows(
                connection,
                customer,
                namespaces=namespaces,
                reasons=reasons,
                queue_limit=queue_limit,
                limit=limit,
                keys=self._keys,
                now_us=now_us,
                epoch=epoch,
            )

    async def set_object(self, id_: str, *, uid: str, name: str, epoch: int | None) -> None:
        """Store name and UID of a REST submission's Workload object. No new version. Raises StaleEpochError."""
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("set_object"), {"id": id_, "uid": uid, "name": name})

    async def update_workload_status_batch(
        self, changes: Sequence[RowChange], *, epoch: int | None, cycle: int | None = None
    ) -> BatchResult:
        """Apply transitions in one transaction; stale and illegal ones are skipped and listed in the result.

        `cycle` is the audited cycle of changes that have none. Raises StaleEpochError, ConflictError (nothing written).
        After StoreUnavailableError the batch may have been written: send it again, and written changes are stale then.
        """
        if not changes:
            return BatchResult([], [], [])
        holder = self._settings.identity
        return await transitions.apply_changes(
            self._pool, changes, keys=self._keys, holder=holder, epoch=epoch, cycle=cycle
        )

    async def note_pending(self, notes: Sequence[PendingNote], *, epoch: int | None) -> list[WorkloadRow]:
        """Record reasons of workloads for their phase, without a new version; audited only when the reason changed.

        Returns the rows written; rows with another version, in a terminal phase, or with the same note are skipped.
        Raises StaleEpochError.
        """
        if not notes:
            return []
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            records = dumps([asdict(note) for note in {note.id: note for note in notes}.values()])
            written = await fetch(connection, "note_pending", {"records": records, "epoch": epoch})
            rows = await fetch(connection, "rows_by_id", {"ids": [id_ for (id_,) in written]}) if written else []
        return workload_rows(rows)

    async def set_wake(self, ids: Iterable[str], seconds: float | None, *, epoch: int | None) -> None:
        """Set the wake-up time of these rows, in seconds from now; None clears it. No new version.

        Raises StaleEpochError.
        """
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("set_wake"), {"ids": list(ids), "seconds": seconds})

    async def delete_expired(self, ids: Sequence[str], *, days: int, epoch: int | None) -> int:
        """Delete rows that ended more than `days` days ago, with their events and attempts; returns their number. Rows
        that another transaction has locked stay. The caller knows that their objects are gone. Raises StaleEpochError.
        """
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            return await retention.delete_rows(connection, ids, days=days)

    async def reassign(self, id_: str, *, customer: str, tier_weight: int, epoch: int | None) -> WorkloadRow:
        """Assign an unfinished workload to another customer: moves its counters, new queue key, new version.

        Returns the new row (unchanged in a terminal phase). Raises LookupError (no such row), StaleEpochError,
        ConflictError.
        """
        async with self._pool.transaction() as connection:
            now_us = await begin(connection, epoch, self._settings.identity)
            rows = await fetch(connection, "lock_rows", {"ids": [id_]})
            if not rows:
                raise LookupError(id_)
            old = workload_row(rows[0])
            if old.phase.terminal or (old.customer, old.tier_weight) == (customer, tier_weight):
                return old
            key = self._keys.key(old.priority, tier_weight, old.queued_at_us)
            new = replace(
                old, customer=customer, tier_weight=tier_weight, queue_key=key, queue_class="", version=old.version + 1
            )
            audit = AuditLog(now_us=now_us, epoch=epoch)
            audit.count(old, -1)
            audit.count(new, 1)
            audit.event(new, "Reassigned", old=old)
            owner = {"id": id_, "customer": customer}
            await connection.execute(sql("reassign_spec"), owner)
            await connection.execute(sql("reassign_state"), owner)
            await connection.execute(
                sql("update_states"), {"records": dumps([state_record(new)]), "writer": epoch or 0}
            )
            await audit.flush(connection)
        return new

    async def retier(self, customer: str, tier_weight: int, *, epoch: int | None) -> list[WorkloadRow]:
        """Set a new tier weight on a customer's unfinished workloads: new queue key, and a new version if not bound.

        One transaction per page. Returns the changed rows. Raises StaleEpochError, ConflictError.
        """
        changed: list[WorkloadRow] = []
        after = _FIRST
        while True:
            async with self._pool.transaction() as connection:
                await begin(connection, epoch, self._settings.identity)
                page = {"customer": customer, "after": after, "limit": _PAGE_ROWS}
                records = await fetch(connection, "lock_customer_rows", page)
                rows = workload_rows(records)
                new = [fresh for row in rows if (fresh := self._retiered(row, tier_weight)) is not row]
                if new:
                    states = dumps([state_record(row) for row in new])
                    await connection.execute(sql("update_states"), {"records": states, "writer": epoch or 0})
            changed += new
            if len(records) < _PAGE_ROWS:
                return changed
            after = record_id(records[-1])

    def _retiered(self, row: WorkloadRow, tier_weight: int) -> WorkloadRow:
        """The row with the new weight and key; `row` itself when both are right already."""
        key = self._keys.key(row.priority, tier_weight, row.queued_at_us)
        if (row.tier_weight, row.queue_key) == (tier_weight, key):
            return row
        # A bound workload isn't in the queue: a new version would only void transitions in progress.
        version = row.version if row.phase.bound else row.version + 1
        return replace(row, tier_weight=tier_weight, queue_key=key, version=version)

    # --- Reading workloads -------------------------------------------------------------------------------------------

    async def get_workloads_by_worker(self, worker: str) -> list[WorkloadRow]:
        """Workloads that are scheduled to or running on a worker, sorted by id."""
        return await self._rows("rows_by_worker", worker=worker)

    async def get_due(self, limit: int) -> list[WorkloadRow]:
        """Rows whose wake-up time has passed, longest overdue first."""
        return await self._rows("rows_due", limit=limit)

    async def get_expired(self, *, days: int, after: ExpiredRow, limit: int) -> list[ExpiredRow]:
        """At most `limit` rows that ended more than `days` days ago, in the order of their ends, from `after` on."""
        return await retention.expired_rows(self._pool, days=days, after=after, limit=limit)

    async def get_active(
        self, *, chunk: int = _PAGE_ROWS, pending_doors: tuple[Door, ...] | None = None
    ) -> AsyncIterator[WorkloadRow]:
        """All unfinished rows by id; read in chunks of `chunk` rows.

        `pending_doors`: of rows that are neither bound nor have a wake-up, only those of these doors; None: all.
        (KUBERNETES alone has an index, so that its cost doesn't depend on the backlog of the REST door.)

        The chunks are not one snapshot: take `cursor()` before and apply `changes_since` it afterwards.
        """
        after = _FIRST
        statement = "rows_tracked" if pending_doors == (Door.KUBERNETES,) else "rows_active"
        while records := await self._pool.fetch(statement, {"after": after, "limit": chunk}):
            page = [
                row
                for row in workload_rows(records)
                if not row.phase.terminal
                and (pending_doors is None or row.phase.bound or row.wake_at or row.door in pending_doors)
            ]
            async for row in self.with_specs(page):
                if not row.phase.terminal:
                    yield row
            if len(records) < chunk:
                return
            after = record_id(records[-1])

    async def with_specs(self, rows: Iterable[WorkloadRow]) -> AsyncIterator[WorkloadRow]:
        """These rows, read again with their specs, a few MiB at once. Rows that don't exist any more are left out."""
        for group in _groups(rows):
            found = {row.id: row for row in await self.get_workloads(group)}
            for id_ in group:
                if id_ in found:
                    yield found.pop(id_)

    # --- The change cursor -------------------------------------------------------------------------------------------

    async def cursor(self) -> Cursor:
        """The current end of the stream of changes."""
        return await current_cursor(self._pool)

    async def changes_since(
        self, cursor: Cursor, *, limit: int = 5000, not_by: int | None = None
    ) -> tuple[list[WorkloadRow], Cursor]:
        """At most `limit` rows changed since `cursor`, and the next cursor; its `more` tells that others follow at
        once. Never misses a late commit, may repeat a row.

        `not_by`: leaves out rows last written by the leader of this epoch. A row appears once, in its current state.
        """
        return await changes_since(self._pool, cursor, limit=limit, not_by=not_by)

    async def measure_horizon(self) -> float:
        """Age in seconds of the oldest open transaction on the server."""
        return await self._horizon.measure(self._pool)

    # --- Audit, counters, clock --------------------------------------------------------------------------------------

    async def get_events(self, id_: str) -> list[EventRow]:
        """A workload's audit events, oldest first."""
        return [event_row(row) for row in await self._pool.fetch("events_of", {"id": checked_id(id_)})]

    async def wrong_counters(self, *, rows_deleted: bool = False) -> list[str]:
        """Counters that differ from the rows, as text; reads every row (for tests and repairs). `rows_deleted`: rows of
        finished workloads were deleted, so their totals may be higher."""
        return [str(row) for row in await self._pool.fetch("counters_wrong", {"rows_deleted": rows_deleted})]

    async def clock(self) -> int:
        """The database's clock in µs since 1970."""
        return int((await self._pool.fetch("clock"))[0][0])

    async def maintain_partitions(self) -> None:
        """Daily maintenance: create and drop event partitions, delete counters of unused classes."""
        await asyncio.to_thread(maintain_partitions, self._settings.dsn)

    async def _rows(self, statement: str, **params: object) -> list[WorkloadRow]:
        return workload_rows(await self._pool.fetch(statement, params))


def _groups(rows: Iterable[WorkloadRow]) -> Iterator[list[str]]:
    """Ids of the rows, in groups whose specs have at most SPEC_BYTES_AT_ONCE bytes."""
    group: list[str] = []
    size = 0
    for row in rows:
        bytes_ = row.spec_bytes or UNKNOWN_SPEC_BYTES
        size += bytes_
        if group and size > SPEC_BYTES_AT_ONCE:
            yield group
            group, size = [], bytes_
        group.append(row.id)
    if group:
        yield group
