"""What the API processes read and write beyond `StateManager`: submissions, listings, explanations, rate windows.

None of it needs to lead: row versions, unique keys and the customers' locks protect it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from niyanta.lifecycle import Event, Phase
from niyanta.store.codec import checked_id, dumps, event_row, from_us, state_record, workload_row
from niyanta.store.commit import begin
from niyanta.store.errors import StoreError
from niyanta.store.ledger import Ledger
from niyanta.store.pool import fetch
from niyanta.store.queries import sql
from niyanta.store.rows import Change, EventRow, WorkloadRow
from niyanta.store.state import StateManager
from niyanta.store.submit import Outcome, Request, replay, submit
from niyanta.store.transition import transition

EXACT_POSITIONS = 10_000
SCAN = 2_000
"""Most rows that one page of a listing looks at where a filter has no index (type); such pages may be short."""
_HINT_EVERY = 0.05
_FIRST = "00000000-0000-0000-0000-000000000000"
_LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a listing goes on: after this row, newest first."""

    at: datetime = _END
    id: str = _LAST


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listing shows. `customer` None: everybody's; `since` is inclusive, `until` exclusive."""

    customer: str | None = None
    phases: tuple[Phase, ...] = ()
    type: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class RestRecord(StateManager):
    """The record, as the REST door uses it."""

    _hinting: asyncio.Task[None] | None = None

    # --- Submitting --------------------------------------------------------------------------------------------------

    async def submit(self, requests: Sequence[Request]) -> list[Outcome]:
        """See `submit.submit`. Afterwards the leader is told to look."""
        outcomes = await submit(self._pool, requests, keys=self._keys)
        self.hint()
        return outcomes

    async def find_answer(self, customer: str, key: str, body_hash: str) -> Outcome | None:
        """The kept answer to an idempotency key; None: it wasn't used within 24 hours."""
        rows = await self._pool.fetch("idempotency_found", {"customers": [customer], "keys": [key]})
        return replay(body_hash, *rows[0][2:]) if rows else None

    async def move(self, id_: str, event: Event, *, reason: str, message: str) -> WorkloadRow:
        """Cancel, suspend or resume: the event and `spec.suspend` in one transaction.

        Raises LookupError, IllegalTransitionError.
        """
        async with self._pool.transaction() as connection:
            now_us = await begin(connection, None, "")
            rows = await fetch(connection, "lock_rows", {"ids": [checked_id(id_)]})
            if not rows:
                raise LookupError(id_)
            old = workload_row(rows[0])
            change = Change(id=old.id, version=old.version, event=event, reason=reason, message=message)
            new = transition(old, change, now_us=now_us, keys=self._keys)
            if event is not Event.CANCEL:
                suspend = {"id": new.id, "suspend": event is Event.SUSPEND}
                ((spec, generation),) = await fetch(connection, "set_suspend", suspend)
                new = replace(new, spec=spec, generation=generation)
            ledger = Ledger(now_us=now_us, epoch=None)
            ledger.moved(old, new, change, cycle=None)
            await connection.execute(sql("update_states"), {"records": dumps([state_record(new)]), "writer": 0})
            if new.phase.terminal:
                await connection.execute(sql("free_names"), {"ids": [new.id]})
            await ledger.flush(connection)
        self.hint()
        return new

    def hint(self) -> None:
        """Tell listeners of the channel niyanta_changes that something is new, at most every 50 ms."""
        if self._hinting is None or self._hinting.done():
            self._hinting = asyncio.create_task(self._hint())

    async def _hint(self) -> None:
        with contextlib.suppress(StoreError):
            await self._pool.execute("hint")
        await asyncio.sleep(_HINT_EVERY)

    # --- Reading -----------------------------------------------------------------------------------------------------

    async def list_workloads(
        self, wanted: Filter, *, after: Place | None, limit: int
    ) -> tuple[list[WorkloadRow], Place | None]:
        """A page, newest first, and where the next one starts (None: this is the last)."""
        start = after or Place()
        if wanted.until is not None and wanted.until < start.at:
            start = Place(wanted.until, _FIRST)
        scan = SCAN if wanted.type is not None else limit + 1
        params: dict[str, Any] = {"at": start.at, "id": start.id, "limit": scan}
        params["since"] = wanted.since or _BEGINNING
        if wanted.customer is None and not wanted.phases:
            found = await self._pool.fetch("list_all", params)
        else:
            params["statuses"] = [phase.name for phase in wanted.phases or tuple(Phase)]
            params["customers"] = [wanted.customer]
            if wanted.customer is None:
                params["customers"] = [name for (name,) in await self._pool.fetch("counted_customers")]
            found = await self._pool.fetch("list_of", params)
        ids: list[str] = []
        for number, (id_, at, type_) in enumerate(found, start=1):
            if wanted.type is None or type_ == wanted.type:
                ids.append(id_)
            if len(ids) == limit:
                more = number < len(found) or len(found) == scan
                return await self._in_order(ids), Place(at, id_) if more else None
        more = len(found) == scan
        return await self._in_order(ids), Place(found[-1][1], found[-1][0]) if more else None

    async def _in_order(self, ids: list[str]) -> list[WorkloadRow]:
        rows = {row.id: row for row in await self.get_workloads(ids)}
        return [rows[id_] for id_ in ids if id_ in rows]

    async def get_workload(self, id_: str) -> WorkloadRow | None:
        """One row; None: there is none, or `id_` is no UUID."""
        rows = await self.get_workloads([id_])
        return rows[0] if rows else None

    async def get_events_page(self, id_: str, *, after: tuple[datetime, int] | None, limit: int) -> list[EventRow]:
        """A page of a workload's audit, oldest first, after (at, id)."""
        at, number = after or (_BEGINNING, 0)
        params = {"id": checked_id(id_), "at": at, "after": number, "limit": limit}
        return [event_row(row) for row in await self._pool.fetch("events_page", params)]

    async def get_reasons(self, id_: str) -> list[Any]:
        """The typed reasons of the last note, as JSON values."""
        rows = await self._pool.fetch("reasons_of", {"id": id_})
        return list(rows[0][0]) if rows else []

    async def queue_ahead(self, row: WorkloadRow) -> int:
        """How many pending workloads are before this one: exact below EXACT_POSITIONS (then: or more)."""
        params = {"key": row.queue_key, "queued_at": from_us(row.queued_at_us), "id": row.id, "most": EXACT_POSITIONS}
        return int((await self._pool.fetch("ahead", params))[0][0])

    async def oldest_pending(self, customer: str | None = None) -> float | None:
        """Age in seconds of what waits longest: since it was queued, for one customer since it was created."""
        if customer is None:
            rows = await self._pool.fetch("oldest_pending")
        else:
            rows = await self._pool.fetch("oldest_pending_of", {"customer": customer})
        return max(0.0, float(rows[0][0])) if rows else None

    async def waiting_total(self) -> int:
        """How many workloads wait, all customers together, from counters."""
        return int((await self._pool.fetch("waiting_total"))[0][0])

    # --- Rate windows ------------------------------------------------------------------------------------------------

    async def rate_acquire(self, key: str, *, limit: int, expiry: int, amount: int) -> bool:
        """Take `amount` out of a sliding window of `expiry` seconds, if it fits."""
        params = {"key": key, "limit": limit, "expiry": expiry, "amount": amount}
        return bool(await self._pool.fetch("rate_acquire", params))

    async def rate_window(self, key: str, *, expiry: int) -> tuple[int, float, int, float]:
        """(amount before, seconds it still counts, amount now, seconds until that is forgotten)."""
        ((before, left, now, rest),) = await self._pool.fetch("rate_window", {"key": key, "expiry": expiry})
        return before, left, now, rest

    async def prune(self) -> None:
        """Forget rate windows and idempotency keys whose time is over."""
        await self._pool.execute("rate_prune")
        await self._pool.execute("idempotency_prune")
