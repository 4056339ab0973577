"""What people look at: listings, explanations, history, counters.

Each of these may be asked of a replica, and then shows the record as it was a moment ago (`replicas.StaleReads`); a
`StateManager` has them too, of the primary. Nothing that the scheduler or a door decides on belongs here: whoever needs
the truth takes a StateManager, and a `Reads` can't be handed to it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from niyanta.lifecycle import Phase
from niyanta.store.row_mapping import (
    attempt_row,
    checked_id,
    customer_row,
    event_row,
    from_us,
    pool_row,
    worker_row,
    workload_row,
)
from niyanta.store.rows import AttemptRow, CustomerRow, Depth, EventRow, PoolRow, QueueDepth, WorkerRow, WorkloadRow

EXACT_POSITIONS = 10_000
SCAN = 2_000
"""Most rows that one page of a listing looks at where a filter has no index (type); such pages may be short."""
_SUFFIX = re.compile(r"(.+)-[0-9a-f]{8}\Z")
"""What the name of a submission's object has behind the submission's own: see `scheduler.dispatch`."""
_FIRST = "00000000-0000-0000-0000-000000000000"
_LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)


class RowSource(Protocol):
    """Whoever runs named statements: a Pool, or a way to a replica."""

    async def fetch(self, name: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of one named statement; raises StoreError."""
        ...


@dataclass(frozen=True, slots=True)
class ListPosition:
    """Where a listing goes on: after this row, newest first."""

    at: datetime = _END
    id: str = _LAST


@dataclass(frozen=True, slots=True)
class WorkloadFilter:
    """What a listing shows. `customer` None: everybody's; `since` is inclusive, `until` exclusive. `name`: the
    workload's, or its object's.
    """

    customer: str | None = None
    phases: tuple[Phase, ...] = ()
    type: str | None = None
    name: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Reads:
    """Reads of one source."""

    def __init__(self, source: RowSource) -> None:
        self._source = source

    # --- Workloads ---------------------------------------------------------------------------------------------------

    async def get_workloads(self, ids: Iterable[str]) -> list[WorkloadRow]:
        """Rows by id, sorted by id; unknown ids and what is no UUID are left out."""
        known = [text for id_ in ids if (text := _uuid_or_none(id_)) is not None]
        return [workload_row(row) for row in await self._source.fetch("rows_by_id", {"ids": known})] if known else []

    async def get_workload(self, id_: str) -> WorkloadRow | None:
        """One row; None: there is none, or `id_` is no UUID."""
        rows = await self.get_workloads([id_])
        return rows[0] if rows else None

    async def list_workloads(
        self, wanted: WorkloadFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[WorkloadRow], ListPosition | None]:
        """A page, newest first, and where the next one starts (None: this is the last)."""
        start = after or ListPosition()
        if wanted.until is not None and wanted.until < start.at:
            start = ListPosition(wanted.until, _FIRST)
        scan = SCAN if wanted.type is not None else limit + 1
        params: dict[str, Any] = {"at": start.at, "id": start.id, "limit": scan}
        params["since"] = wanted.since or _BEGINNING
        if wanted.customer is None and not wanted.phases and wanted.name is None:
            found = await self._source.fetch("list_all", params)
        else:
            params["statuses"] = [phase.name for phase in wanted.phases or tuple(Phase)]
            params["customers"] = [wanted.customer]
            if wanted.customer is None:
                params["customers"] = [name for (name,) in await self._source.fetch("counted_customers")]
            if wanted.name is not None:
                params |= {"name": wanted.name, "stems": [wanted.name, *_SUFFIX.findall(wanted.name)]}
            found = await self._source.fetch("list_of" if wanted.name is None else "list_named", params)
        ids: list[str] = []
        for number, (id_, at, type_) in enumerate(found, start=1):
            if wanted.type is None or type_ == wanted.type:
                ids.append(id_)
            if len(ids) == limit:
                more = number < len(found) or len(found) == scan
                return await self._in_order(ids), ListPosition(at, id_) if more else None
        more = len(found) == scan
        return await self._in_order(ids), ListPosition(found[-1][1], found[-1][0]) if more else None

    async def _in_order(self, ids: list[str]) -> list[WorkloadRow]:
        rows = {row.id: row for row in await self.get_workloads(ids)}
        return [rows[id_] for id_ in ids if id_ in rows]

    async def get_events_page(self, id_: str, *, after: tuple[datetime, int] | None, limit: int) -> list[EventRow]:
        """A page of a workload's audit, oldest first, after (at, id)."""
        at, number = after or (_BEGINNING, 0)
        params = {"id": checked_id(id_), "at": at, "after": number, "limit": limit}
        return [event_row(row) for row in await self._source.fetch("events_page", params)]

    async def get_attempts(self, id_: str) -> list[AttemptRow]:
        """A workload's attempts, first one first."""
        return [attempt_row(row) for row in await self._source.fetch("attempts_of", {"id": checked_id(id_)})]

    async def get_reasons(self, id_: str) -> list[Any]:
        """The typed reasons of the last note, as JSON values."""
        rows = await self._source.fetch("reasons_of", {"id": id_})
        return list(rows[0][0]) if rows else []

    # --- The queue ----------------------------------------------------------------------------------------------------

    async def queue_ahead(self, row: WorkloadRow) -> int:
        """How many pending workloads are before this one: exact below EXACT_POSITIONS (then: or more)."""
        params = {"key": row.queue_key, "queued_at": from_us(row.queued_at_us), "id": row.id, "most": EXACT_POSITIONS}
        return int((await self._source.fetch("ahead", params))[0][0])

    async def oldest_pending(self, customer: str | None = None) -> float | None:
        """Age in seconds of what waits longest: since it was queued, for one customer since it was created."""
        if customer is None:
            rows = await self._source.fetch("oldest_pending")
        else:
            rows = await self._source.fetch("oldest_pending_of", {"customer": customer})
        return max(0.0, float(rows[0][0])) if rows else None

    async def get_queue_depth(self, customer: str | None = None) -> QueueDepth:
        """How many workloads are where, from counters; all customers or one."""
        rows = await self._source.fetch("queue_depth", {"customer": customer})
        customers = {name: Depth(*counts) for name, *counts in rows}
        return QueueDepth(Depth(*(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))), customers)

    # --- Workers, customers, pools -----------------------------------------------------------------------------------

    async def get_workers(self, *, pool: str | None = None, after: str = "", limit: int = 1000) -> list[WorkerRow]:
        """A page of all workers by name, after the name `after`."""
        params = {"pool": pool, "after": after, "limit": limit}
        return [worker_row(row) for row in await self._source.fetch("workers", params)]

    async def get_customers(self) -> list[CustomerRow]:
        """All customers, deleted ones too, by name."""
        return [customer_row(row) for row in await self._source.fetch("customers", {"name": None})]

    async def get_pools(self) -> list[PoolRow]:
        """All pools by name."""
        return [pool_row(row) for row in await self._source.fetch("pools")]


def _uuid_or_none(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None
