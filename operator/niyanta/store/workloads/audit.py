"""Records that a transaction writes besides the rows: audit events, attempts and queue counters.

`transitions`, `ingest`, `limits` and the REST submissions use it; `flush` comes last in their transactions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from niyanta.lifecycle import Event
from niyanta.store.postgres.pool import Connection
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, from_us
from niyanta.store.rows import RowChange, WorkloadRow


class AuditLog:
    """Collects these records for one transaction. `now_us`: µs of the database clock, the time of its events."""

    def __init__(self, *, now_us: int, epoch: int | None) -> None:
        self._now = from_us(now_us)
        self._epoch = epoch
        self._events: list[dict[str, Any]] = []
        self._attempts: dict[tuple[str, int], dict[str, Any]] = {}
        self._counters: defaultdict[tuple[str, str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))

    def moved(self, old: WorkloadRow, new: WorkloadRow, change: RowChange, *, cycle: int | None) -> None:
        """Record a transition."""
        self.count(old, -1)
        self.count(new, 1)
        self._attempt(old, new, change)
        self.event(
            new,
            change.event.value,
            old=old,
            reasons=change.reasons,
            cycle=cycle if change.cycle is None else change.cycle,
        )

    def event(
        self,
        new: WorkloadRow,
        event: str,
        *,
        old: WorkloadRow | None = None,
        reasons: Sequence[Any] = (),
        cycle: int | None = None,
    ) -> None:
        """Record an audit event."""
        # The event of an attempt's end has its workers, although the new row has none.
        where = old if old is not None and old.phase.bound else new
        self._events.append(
            {
                "workload_id": new.id,
                "event": event,
                "from_phase": None if old is None else old.phase.name,
                "to_phase": new.phase.name,
                "attempt": new.attempt,
                "workers": where.workers,
                "score": where.score,
                "reason": new.reason,
                "message": new.message,
                "reasons": reasons,
                "cycle": cycle,
            }
        )

    def count(self, row: WorkloadRow, step: int) -> None:
        """Count one row more (+1) or less (-1) in its phase."""
        class_id = "" if row.phase.terminal else row.class_id
        self._counters[row.customer, class_id][row.phase.name.lower()] += step

    def _attempt(self, old: WorkloadRow, new: WorkloadRow, change: RowChange) -> None:
        if change.event is Event.PLACE or change.event is Event.START:
            outcome, row = "", new
        elif old.phase.bound:
            outcome, row = change.event.value, old
        else:
            return
        self._attempts[row.id, row.attempt] = {
            "workload_id": row.id,
            "attempt": row.attempt,
            "workers": row.workers,
            "pool": row.pool,
            "pools": row.pools or None,
            "score": row.score,
            "scheduled_at": row.scheduled_at,
            "started_at": row.started_at,
            "finished_at": self._now if outcome else None,
            "outcome": outcome,
            "reason": new.reason if outcome else "",
        }

    async def flush(self, connection: Connection) -> None:
        """Write all records; counters last, because their locks block other writers of the same customers."""
        if self._attempts:
            attempts = {"records": dumps(list(self._attempts.values())), "epoch": self._epoch}
            await connection.execute(sql("upsert_attempts"), attempts)
        if self._events:
            events = {"records": dumps(self._events), "epoch": self._epoch, "at": self._now}
            await connection.execute(sql("insert_events"), events)
        counters = [
            {"customer_id": customer, "class_id": class_id, **steps}
            for (customer, class_id), steps in self._counters.items()
            if any(steps.values())
        ]
        if counters:
            await connection.execute(sql("add_counters"), {"records": dumps(counters)})
