"""Submissions of the REST door: several requests share one transaction. Each is accepted or rejected item by item, or
gets its stored response (idempotency).

The server batches concurrent requests, because one commit per request would limit throughput by the customer's counter
row, which is locked until the commit is on disk. Order of locks: customers, idempotency keys, names, counters.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from niyanta.store.leadership import begin
from niyanta.store.postgres.pool import Connection, Pool, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, new_row
from niyanta.store.rows import WorkloadIntake, WorkloadRow
from niyanta.store.workloads.audit import AuditLog
from niyanta.store.workloads.ingest import insert
from niyanta.store.workloads.limits import Occupancy, lock_customers
from niyanta.store.workloads.queue_key import QueueKeys


class RefusalReason(enum.Enum):
    """Reason why the store rejected an item."""

    NAME_TAKEN = "NameTaken"
    QUEUE_FULL = "QueueFull"


@dataclass(frozen=True, slots=True)
class ItemResult:
    """Result of one item: a row or a refusal. `depth`: number of the customer's waiting workloads (QUEUE_FULL)."""

    row: WorkloadRow | None = None
    refusal: RefusalReason | None = None
    depth: int = 0


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response to store for the request's idempotency key; with `keep` False the key can be used again."""

    status: int
    body: Any
    keep: bool = True


@dataclass(frozen=True, slots=True)
class SubmissionRequest:
    """One submission. `limit` is the customer's maxQueueDepth, `body_hash` hex; `respond` makes the response."""

    customer: str
    items: Sequence[WorkloadIntake]
    limit: int | None
    respond: Callable[[Sequence[ItemResult]], StoredResponse]
    key: str | None = None
    body_hash: str = ""


@dataclass(frozen=True, slots=True)
class SubmissionOutcome:
    """Outcome of a request. `replayed`: the response is a stored one. `mismatch`: the key belongs to another body.
    `position`: position after the commit in the primary's log; None when not requested.
    """

    answer: StoredResponse | None
    verdicts: Sequence[ItemResult] = ()
    replayed: bool = False
    mismatch: bool = False
    position: int | None = None


@dataclass(slots=True)
class _Work:
    """A request that is being processed in the transaction."""

    request: SubmissionRequest
    verdicts: list[ItemResult | None] = field(default_factory=list)
    outcome: SubmissionOutcome | None = None


async def submit(pool: Pool, requests: Sequence[SubmissionRequest], *, keys: QueueKeys) -> list[SubmissionOutcome]:
    """Process all requests in one transaction, in order. Two requests mustn't share a customer and idempotency key.

    Raises ConflictError, StoreUnavailableError (maybe written: repeat with the same idempotency key).
    """
    works = [_Work(request, [None] * len(request.items)) for request in requests]
    async with pool.transaction() as connection:
        now_us = await begin(connection, None, "")
        limited = [work.request.customer for work in works if work.request.limit is not None]
        room = _Room(await lock_customers(connection, limited))
        await _claim_keys(connection, works)
        await _choose(connection, [work for work in works if work.outcome is None], room)
        await _write(connection, works, keys=keys, now_us=now_us)
    return [work.outcome or SubmissionOutcome(None) for work in works]


class _Room:
    """Number of waiting workloads of each limited customer, while its lock is held."""

    def __init__(self, occupied: dict[str, Occupancy]) -> None:
        self._waiting = {name: found.waiting for name, found in occupied.items()}

    def depth(self, customer: str) -> int:
        return self._waiting.get(customer, 0)

    def admit(self, request: SubmissionRequest) -> bool:
        """Count one more workload; False when the customer is at its limit."""
        if request.limit is None:
            return True
        if self._waiting[request.customer] >= request.limit:
            return False
        self._waiting[request.customer] += 1
        return True


async def _claim_keys(connection: Connection, works: Sequence[_Work]) -> None:
    """Set the outcome of requests whose key was used; lock the keys of the others until the commit."""
    keyed = {(work.request.customer, work.request.key): work for work in works if work.request.key is not None}
    if not keyed:
        return
    records = [
        {"customer_id": customer, "key": key, "body_hash": work.request.body_hash}
        for (customer, key), work in keyed.items()
    ]
    claimed = {tuple(row) for row in await fetch(connection, "idempotency_claim", {"records": dumps(records)})}
    used = [pair for pair in keyed if pair not in claimed]
    if not used:
        return
    names, texts = ([pair[place] for pair in used] for place in (0, 1))
    found = await fetch(connection, "idempotency_found", {"customers": names, "keys": texts})
    for customer, key, body_hash, status, body in found:
        work = keyed[customer, key]
        work.outcome = replay(work.request.body_hash, body_hash, status, body)


def replay(wanted_hash: str, body_hash: str, status: int, body: Any) -> SubmissionOutcome:
    """The outcome of a request whose key was used before, for a body with `body_hash`."""
    if wanted_hash != body_hash:
        return SubmissionOutcome(None, mismatch=True)
    return SubmissionOutcome(StoredResponse(status, body), replayed=True)


async def _choose(connection: Connection, works: Sequence[_Work], room: _Room) -> None:
    """Reject items whose name is taken or whose queue is full; the results of the others stay None."""
    wanted: dict[tuple[str, str], tuple[_Work, int]] = {}
    for work in works:
        full = work.request.limit is not None and room.depth(work.request.customer) >= work.request.limit
        for place, item in enumerate(work.request.items):
            if full:
                work.verdicts[place] = ItemResult(None, RefusalReason.QUEUE_FULL, room.depth(work.request.customer))
            elif (item.customer, item.name) in wanted:
                work.verdicts[place] = ItemResult(None, RefusalReason.NAME_TAKEN)
            else:
                wanted[item.customer, item.name] = (work, place)
    if not wanted:
        return
    records = [
        {"customer_id": customer, "name": name, "id": work.request.items[place].id}
        for (customer, name), (work, place) in wanted.items()
    ]
    taken = {id_ for (id_,) in await fetch(connection, "take_names", {"records": dumps(records)})}
    unused = []
    for work, place in wanted.values():
        item = work.request.items[place]
        if item.id not in taken:
            work.verdicts[place] = ItemResult(None, RefusalReason.NAME_TAKEN)
        elif not room.admit(work.request):
            work.verdicts[place] = ItemResult(None, RefusalReason.QUEUE_FULL, room.depth(work.request.customer))
            unused.append(item.id)
    if unused:
        await connection.execute(sql("free_names"), {"ids": unused})


async def _write(connection: Connection, works: Sequence[_Work], *, keys: QueueKeys, now_us: int) -> None:
    """Insert the accepted items, make the responses, and store those with a key."""
    audit = AuditLog(now_us=now_us, epoch=None)
    rows: list[WorkloadRow] = []
    kept: list[dict[str, Any]] = []
    forgotten: list[tuple[str, str]] = []
    for work in works:
        if work.outcome is not None:
            continue
        for place, item in enumerate(work.request.items):
            if work.verdicts[place] is None:
                # A microsecond apart, so that the queue keeps the order of the items.
                at_us = now_us + len(rows)
                row = new_row(item, at_us, keys.key(item.priority, item.tier_weight, at_us))
                work.verdicts[place] = ItemResult(row)
                rows.append(row)
                audit.count(row, 1)
                audit.event(row, "Accepted")
        verdicts = [verdict for verdict in work.verdicts if verdict is not None]
        answer = work.request.respond(verdicts)
        work.outcome = SubmissionOutcome(answer, verdicts)
        if work.request.key is not None:
            owner = (work.request.customer, work.request.key)
            if answer.keep:
                kept.append(
                    {"customer_id": owner[0], "key": owner[1], "status": answer.status, "response": answer.body}
                )
            else:
                forgotten.append(owner)
    if forgotten:
        names, texts = ([owner[place] for owner in forgotten] for place in (0, 1))
        await connection.execute(sql("idempotency_forget"), {"customers": names, "keys": texts})
    if kept:
        await connection.execute(sql("idempotency_keep"), {"records": dumps(kept)})
    await insert(connection, rows, epoch=None)
    await audit.flush(connection)
