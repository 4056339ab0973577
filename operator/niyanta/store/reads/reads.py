"""Reads for display: listings, explanations, history, counters.

Each may run on a replica and then returns a slightly older state (`router.StaleReads`); a `StateManager` has the same
methods on the primary. Code that decides on the result must use a StateManager, whose type a `Reads` does not satisfy.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable, Mapping
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
    worker_request,
    worker_row,
    workload_rows,
)
from niyanta.store.rows import (
    AttemptRow,
    ClassState,
    CustomerRow,
    Depth,
    EventRow,
    PoolRow,
    QueueDepth,
    WorkerRequest,
    WorkerRow,
    WorkloadRow,
)

EXACT_POSITIONS = 10_000
SCAN_ROWS = 2_000
"""Most rows scanned for one page of a listing when a filter has no index (type, namespace); such pages may be short."""
_SUFFIX = re.compile(r"(.+)-[0-9a-f]{8}\Z")
"""Name of a submission's Workload object: the submission's name and a suffix, see `scheduler.pods.rest_object`."""
_FIRST = "00000000-0000-0000-0000-000000000000"
_LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)


class RowSource(Protocol):
    """Runs named statements: a Pool, or the route of one request."""

    async def fetch(self, name: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of one named statement; raises StoreError."""
        ...


@dataclass(frozen=True, slots=True)
class ListPosition:
    """Position in a listing: the next page starts after this row, newest first."""

    at: datetime = _END
    id: str = _LAST


@dataclass(frozen=True, slots=True)
class WorkloadFilter:
    """Filter of a listing. `customer` None: all customers; `since` is inclusive, `until` exclusive. `name`: of the
    workload, or of its object.
    """

    customer: str | None = None
    phases: tuple[Phase, ...] = ()
    type: str | None = None
    name: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    namespace: str | None = None

    @property
    def scans(self) -> bool:
        """True if rows are scanned for a filter that has no index."""
        return self.type is not None or self.namespace is not None

    def admits(self, type_: str, namespace: str) -> bool:
        """True for rows that pass the filters without an index."""
        return self.type in (None, type_) and self.namespace in (None, namespace)


class Reads:
    """Reads from one source."""

    def __init__(self, source: RowSource) -> None:
        self._source = source

    # --- Workloads ---------------------------------------------------------------------------------------------------

    async def get_workloads(self, ids: Iterable[str], *, with_spec: bool = True) -> list[WorkloadRow]:
        """Rows by id, sorted by id; unknown and malformed ids are left out. Without `with_spec`, specs are empty and
        not read."""
        known = [text for id_ in ids if (text := _uuid_or_none(id_)) is not None]
        statement = "rows_by_id" if with_spec else "rows_without_spec"
        return workload_rows(await self._source.fetch(statement, {"ids": known})) if known else []

    async def get_workload(self, id_: str) -> WorkloadRow | None:
        """One row; None for an unknown or malformed id."""
        rows = await self.get_workloads([id_])
        return rows[0] if rows else None

    async def list_workloads(
        self, wanted: WorkloadFilter, *, after: ListPosition | None, limit: int, with_spec: bool = True
    ) -> tuple[list[WorkloadRow], ListPosition | None]:
        """A page, newest first, and the start of the next page (None: this is the last). Without `with_spec`, specs are
        empty and not read."""
        start = after or ListPosition()
        if wanted.until is not None and wanted.until < start.at:
            start = ListPosition(wanted.until, _FIRST)
        scan = SCAN_ROWS if wanted.scans else limit + 1
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
        for number, (id_, at, type_, namespace) in enumerate(found, start=1):
            if wanted.admits(type_, namespace):
                ids.append(id_)
            if len(ids) == limit:
                more = number < len(found) or len(found) == scan
                return await self._in_order(ids, with_spec=with_spec), ListPosition(at, id_) if more else None
        more = len(found) == scan
        rows = await self._in_order(ids, with_spec=with_spec)
        return rows, ListPosition(found[-1][1], found[-1][0]) if more else None

    async def _in_order(self, ids: list[str], *, with_spec: bool) -> list[WorkloadRow]:
        found = await self._source.fetch("rows_by_id" if with_spec else "rows_without_spec", {"ids": ids})
        rows = {row.id: row for row in workload_rows(found)}
        return [rows[id_] for id_ in ids if id_ in rows]

    async def get_events_page(self, id_: str, *, after: tuple[datetime, int] | None, limit: int) -> list[EventRow]:
        """A page of a workload's audit events, oldest first, after (at, id)."""
        at, number = after or (_BEGINNING, 0)
        params = {"id": checked_id(id_), "at": at, "after": number, "limit": limit}
        return [event_row(row) for row in await self._source.fetch("events_page", params)]

    async def get_attempts(self, id_: str) -> list[AttemptRow]:
        """A workload's attempts, in order."""
        return [attempt_row(row) for row in await self._source.fetch("attempts_of", {"id": checked_id(id_)})]

    async def get_reasons(self, id_: str) -> list[Any]:
        """Typed reasons of the last pending note, as JSON values."""
        rows = await self._source.fetch("reasons_of", {"id": id_})
        return list(rows[0][0]) if rows else []

    async def get_class_states(self, classes: Collection[tuple[str, str]]) -> dict[tuple[str, str], ClassState]:
        """(customer, class) -> the reasons for which the class waits; classes that weren't refused are left out."""
        if not classes:
            return {}
        params = {"customers": [customer for customer, _ in classes], "classes": [name for _, name in classes]}
        states = [ClassState(*row) for row in await self._source.fetch("class_states_of", params)]
        return {(state.customer, state.queue_class): state for state in states}

    async def count_class(self, customer: str, queue_class: str) -> int:
        """Exact number of pending workloads of a class."""
        rows = await self._source.fetch("class_count", {"customer": customer, "queue_class": queue_class})
        return int(rows[0][0]) if rows else 0

    # --- The queue ----------------------------------------------------------------------------------------------------

    async def queue_ahead(self, row: WorkloadRow) -> int:
        """Number of pending workloads before this one: exact below EXACT_POSITIONS, else EXACT_POSITIONS."""
        params = {"key": row.queue_key, "queued_at": from_us(row.queued_at_us), "id": row.id, "most": EXACT_POSITIONS}
        return int((await self._source.fetch("ahead", params))[0][0])

    async def oldest_pending(self, customer: str | None = None) -> float | None:
        """Age in seconds of the longest-waiting workload: since its queueing, for one customer since its creation."""
        if customer is None:
            rows = await self._source.fetch("oldest_pending")
        else:
            rows = await self._source.fetch("oldest_pending_of", {"customer": customer})
        return max(0.0, float(rows[0][0])) if rows else None

    async def get_queue_depth(self, customer: str | None = None) -> QueueDepth:
        """Number of workloads by phase, from counters; of all customers or one."""
        rows = await self._source.fetch("queue_depth", {"customer": customer})
        customers = {name: Depth(*counts) for name, *counts in rows}
        return QueueDepth(Depth(*(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))), customers)

    # --- Workers, customers, pools -----------------------------------------------------------------------------------

    async def get_workers(self, *, pool: str | None = None, after: str = "", limit: int = 1000) -> list[WorkerRow]:
        """A page of all workers by name, after the name `after`."""
        params = {"pool": pool, "after": after, "limit": limit}
        return [worker_row(row) for row in await self._source.fetch("workers", params)]

    async def get_last_worker_requests(self, workers: Iterable[str]) -> dict[str, WorkerRequest]:
        """Worker -> its open drain, or else the last request about it; workers without requests are left out."""
        rows = await self._source.fetch("last_worker_requests", {"workers": list(workers)})
        return {found.worker: found for found in map(worker_request, rows)}

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
