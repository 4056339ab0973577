"""The state manager: everything that the scheduler and the doors read from and write to Postgres.

Writers first hand workloads in (`take_in`), then move them (`update_workload_status_batch`); every method raises
StoreUnavailableError within `statement_timeout` when Postgres doesn't answer. `epoch` None means a writer that doesn't
lead (the REST door): row versions alone protect it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from niyanta.lifecycle import Door
from niyanta.settings import Settings
from niyanta.store.leader.scaling import ScalingStore
from niyanta.store.leadership import begin
from niyanta.store.postgres.partitions import maintain_partitions
from niyanta.store.postgres.pool import Pool, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import checked_id, dumps, event_row, state_record, workload_row
from niyanta.store.rows import BatchResult, Cursor, EventRow, PendingNote, RowChange, WorkloadIntake, WorkloadRow
from niyanta.store.workloads import ingest, limits, transitions
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.queue_key import QueueKeys

_FIRST = Cursor().id
_PAGE = 1000


class StateManager(ScalingStore):
    """The record. `settings.identity` must be the `holder` that leadership was taken with."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        super().__init__(pool, settings)
        self._keys = QueueKeys(settings)

    # --- Writing -----------------------------------------------------------------------------------------------------

    async def take_in(
        self,
        intakes: Iterable[WorkloadIntake],
        *,
        epoch: int | None,
        queue_limits: Mapping[str, int | None] | None = None,
    ) -> list[WorkloadRow]:
        """Insert new workloads, edit those whose generation is higher, leave the others; the current row of each id.

        `queue_limits`: customer -> maxQueueDepth; a new Pending one beyond it becomes Held (QueueFull), exactly. All in
        one transaction. Raises ValueError (an id that is no UUID), StaleEpochError, ConflictError.
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

        Exact against concurrent submissions. At most 1,000 at once: when as many come back, call again. Raises
        StaleEpochError, ConflictError.
        """
        async with self._pool.transaction() as connection:
            now_us = await begin(connection, epoch, self._settings.identity)
            return await limits.release_held(connection, customer, limit, keys=self._keys, now_us=now_us, epoch=epoch)

    async def set_object(self, id_: str, *, uid: str, name: str, epoch: int | None) -> None:
        """Remember the Workload object that a REST submission became. No new version. Raises StaleEpochError."""
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("set_object"), {"id": id_, "uid": uid, "name": name})

    async def update_workload_status_batch(
        self, changes: Sequence[RowChange], *, epoch: int | None, cycle: int | None = None
    ) -> BatchResult:
        """Apply transitions in one transaction; what is stale or illegal drops out and is named in the result.

        `cycle` goes to the audit where a change names none. Raises StaleEpochError, ConflictError (nothing written).
        After StoreUnavailableError the batch may or may not be written: send it again, what was written is then stale.
        """
        if not changes:
            return BatchResult([], [], [])
        holder = self._settings.identity
        return await transitions.apply_changes(
            self._pool, changes, keys=self._keys, holder=holder, epoch=epoch, cycle=cycle
        )

    async def note_pending(self, notes: Sequence[PendingNote], *, epoch: int | None) -> list[WorkloadRow]:
        """Record why workloads are where they are, without a new version; audited only when the reason changed.

        Returns the rows written; those that moved on, are over, or say so already are left alone. Raises
        StaleEpochError.
        """
        if not notes:
            return []
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            records = dumps([asdict(note) for note in {note.id: note for note in notes}.values()])
            written = await fetch(connection, "note_pending", {"records": records, "epoch": epoch})
            rows = await fetch(connection, "rows_by_id", {"ids": [id_ for (id_,) in written]}) if written else []
        return [workload_row(row) for row in rows]

    async def set_wake(self, ids: Iterable[str], seconds: float | None, *, epoch: int | None) -> None:
        """When these rows must be looked at next, in seconds from now; None: not by time. No new version.

        Raises StaleEpochError.
        """
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("set_wake"), {"ids": list(ids), "seconds": seconds})

    async def reassign(self, id_: str, *, customer: str, tier_weight: int, epoch: int | None) -> WorkloadRow:
        """Give one unfinished workload to another customer: counters move along, new key, new version.

        Returns the row as it is then (unchanged when it is over). Raises LookupError (no such row), StaleEpochError,
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
            new = replace(old, customer=customer, tier_weight=tier_weight, queue_key=key, version=old.version + 1)
            ledger = AuditLog(now_us=now_us, epoch=epoch)
            ledger.count(old, -1)
            ledger.count(new, 1)
            ledger.event(new, "Reassigned", old=old)
            owner = {"id": id_, "customer": customer}
            await connection.execute(sql("reassign_spec"), owner)
            await connection.execute(sql("reassign_state"), owner)
            await connection.execute(
                sql("update_states"), {"records": dumps([state_record(new)]), "writer": epoch or 0}
            )
            await ledger.flush(connection)
        return new

    async def retier(self, customer: str, tier_weight: int, *, epoch: int | None) -> list[WorkloadRow]:
        """Give a customer's unfinished workloads a new weight: new key, and for those that wait a new version.

        Page by page, each a transaction. Returns the rows changed. Raises StaleEpochError, ConflictError.
        """
        changed: list[WorkloadRow] = []
        after = _FIRST
        while True:
            async with self._pool.transaction() as connection:
                await begin(connection, epoch, self._settings.identity)
                page = {"customer": customer, "after": after, "limit": _PAGE}
                rows = [workload_row(row) for row in await fetch(connection, "lock_customer_rows", page)]
                new = [fresh for row in rows if (fresh := self._retiered(row, tier_weight)) is not row]
                if new:
                    records = dumps([state_record(row) for row in new])
                    await connection.execute(sql("update_states"), {"records": records, "writer": epoch or 0})
            changed += new
            if len(rows) < _PAGE:
                return changed
            after = rows[-1].id

    def _retiered(self, row: WorkloadRow, tier_weight: int) -> WorkloadRow:
        """`row` itself when weight and key are right already (also: computed under today's settings)."""
        key = self._keys.key(row.priority, tier_weight, row.queued_at_us)
        if (row.tier_weight, row.queue_key) == (tier_weight, key):
            return row
        # What is bound isn't in the queue: a new version would only void observations that are under way.
        version = row.version if row.phase.bound else row.version + 1
        return replace(row, tier_weight=tier_weight, queue_key=key, version=version)

    # --- Reading workloads -------------------------------------------------------------------------------------------

    async def get_workloads_by_worker(self, worker: str) -> list[WorkloadRow]:
        """What is scheduled to or running on a worker, sorted by id."""
        return await self._rows("rows_by_worker", worker=worker)

    async def get_pending_workloads(
        self,
        limit: int,
        *,
        per_class: int = 0,
        classes: int = 200,
        oldest: int = 0,
        after_class: str = "",
    ) -> list[WorkloadRow]:
        """The queue's refill, highest key first: the `limit` top rows, the `oldest` oldest ones, and the `per_class`
        top rows of each of the first `classes` classes after `after_class`. Rows in backoff are left out.
        """
        return await self._rows(
            "refill",
            top=limit,
            oldest=oldest,
            per_class=per_class,
            classes=classes if per_class else 0,
            after_class=after_class,
        )

    async def get_pending_of(self, customer: str, limit: int, *, offset: int = 0) -> list[WorkloadRow]:
        """A page of a customer's pending workloads: highest priority first, then oldest."""
        return await self._rows("rows_pending_of", customer=customer, limit=limit, offset=offset)

    async def get_due(self, limit: int) -> list[WorkloadRow]:
        """Rows whose wake-up time has come, longest overdue first."""
        return await self._rows("rows_due", limit=limit)

    async def get_active(
        self, *, chunk: int = _PAGE, pending_doors: tuple[Door, ...] | None = None
    ) -> AsyncIterator[WorkloadRow]:
        """All rows that aren't over, and those that are but have a wake-up (TTL), by id; read `chunk` by `chunk`.

        `pending_doors`: of what isn't bound and has no wake-up, only what came by these doors; None: all. (KUBERNETES
        alone has an index: it doesn't pay for the backlog of the REST door.)

        Not one snapshot: take `cursor()` before, and `changes_since` it after, to end with the truth.
        """
        after = _FIRST
        statement = "rows_tracked" if pending_doors == (Door.KUBERNETES,) else "rows_active"
        while rows := await self._rows(statement, after=after, limit=chunk):
            for row in rows:
                if pending_doors is None or row.phase.bound or row.wake_at or row.door in pending_doors:
                    yield row
            if len(rows) < chunk:
                return
            after = rows[-1].id

    # --- The change cursor -------------------------------------------------------------------------------------------

    async def cursor(self) -> Cursor:
        """The present end of the stream of changes."""
        return Cursor(xid=await self._horizon())

    async def changes_since(
        self, cursor: Cursor, *, limit: int = 5000, not_by: int | None = None
    ) -> tuple[list[WorkloadRow], Cursor]:
        """Rows changed since `cursor`, and where to go on. Never misses a late commit, may repeat a row.

        `not_by`: rows that the leader of this epoch wrote last are left out.

        A row appears once, as it is now. More than `limit` rows may come when transactions are under way; when
        exactly `limit` come, ask again at once.
        """
        horizon = await self._horizon()
        # Transaction ids only go back when the database was replaced (restore, failover to a lagging standby).
        start = cursor if cursor.xid <= horizon else Cursor()
        params = {"xid": str(start.xid), "id": start.id, "horizon": str(horizon), "limit": limit, "not_by": not_by}
        settled = await self._pool.fetch("changes_settled", params)
        if len(settled) == limit:
            changed = [workload_row(row) for row in settled]
            return changed, Cursor(xid=settled[-1][-1], id=changed[-1].id)
        # Visible, but a transaction with a lower id is still running: shown now, and again when all are over.
        fresh = await self._pool.fetch("changes_fresh", {"horizon": str(horizon), "not_by": not_by})
        rows = {row.id: row for row in map(workload_row, (*settled, *fresh))}
        return list(rows.values()), Cursor(xid=horizon)

    async def _horizon(self) -> int:
        return int((await self._pool.fetch("change_horizon"))[0][0])

    # --- Audit, counters, clock --------------------------------------------------------------------------------------

    async def get_events(self, id_: str) -> list[EventRow]:
        """A workload's audit, oldest first."""
        return [event_row(row) for row in await self._pool.fetch("events_of", {"id": checked_id(id_)})]

    async def get_kind_depths(self) -> dict[tuple[str, str], int]:
        """Pending workloads by customer and requirements class, from counters."""
        return {(customer, class_id): depth for customer, class_id, depth in await self._pool.fetch("kind_depths")}

    async def wrong_counters(self) -> list[str]:
        """Counters that disagree with the rows, as text; reads every row (tests, repairs)."""
        return [str(row) for row in await self._pool.fetch("counters_wrong")]

    async def clock(self) -> int:
        """The database's clock in µs since 1970."""
        return int((await self._pool.fetch("clock"))[0][0])

    async def maintain_partitions(self) -> None:
        """Daily: event partitions ahead, old ones dropped, counters of unused classes removed."""
        await asyncio.to_thread(maintain_partitions, self._settings.dsn)

    async def _rows(self, statement: str, **params: object) -> list[WorkloadRow]:
        return [workload_row(row) for row in await self._pool.fetch(statement, params)]
