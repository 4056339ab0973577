"""Submissions of the REST door: several requests share one transaction. Each is accepted or rejected item by item, or
gets its stored response (idempotency).

The server batches concurrent requests, because one commit per request would limit throughput by the customer's counter
row, which is locked until the commit is on disk. Order of locks: idempotency keys, customers, names, counters.

Rows are written by functions of the database alone, so that the REST door's role needs no right on the tables.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import DatabaseError

from niyanta.store.errors import StoreError
from niyanta.store.postgres.pool import Connection, Pool, fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, new_row
from niyanta.store.rows import WorkloadIntake, WorkloadRow
from niyanta.store.workloads.queue_key import QueueKeys

REFUSED_STATE = "NY001"
"""SQLSTATE of the door's functions when they refuse what they were given."""


class RefusedSubmissionError(StoreError):
    """The database refused an item that the REST door had accepted: its Customer changed, or the door is at fault."""


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

    Postgres itself checks the items (`door_submit` in the migrations) and computes their place in the queue. Raises
    RefusedSubmissionError, ConflictError, StoreUnavailableError (maybe written: repeat with the same idempotency key).
    """
    works = [_Work(request, [None] * len(request.items)) for request in requests]
    async with pool.transaction() as connection:
        now_us = int((await fetch(connection, "transaction_start"))[0][0])
        await _claim_keys(connection, works)
        await _choose(connection, [work for work in works if work.outcome is None])
        await _write(connection, works, keys=keys, now_us=now_us)
    return [work.outcome or SubmissionOutcome(None) for work in works]


async def _claim_keys(connection: Connection, works: Sequence[_Work]) -> None:
    """Set the outcome of requests whose key was used; lock the keys of the others until the commit."""
    keyed = {(work.request.customer, work.request.key): work for work in works if work.request.key is not None}
    if not keyed:
        return
    records = [
        {"customer_id": customer, "key": key, "body_hash": work.request.body_hash}
        for (customer, key), work in keyed.items()
    ]
    claimed = {tuple(row) for row in await fetch(connection, "door_claim_keys", {"records": dumps(records)})}
    used = [pair for pair in keyed if pair not in claimed]
    if not used:
        return
    names, texts = ([pair[place] for pair in used] for place in (0, 1))
    found = await fetch(connection, "door_answers", {"customers": names, "keys": texts})
    for customer, key, body_hash, status, body in found:
        work = keyed[customer, key]
        work.outcome = replay(work.request.body_hash, body_hash, status, body)


def replay(wanted_hash: str, body_hash: str, status: int, body: Any) -> SubmissionOutcome:
    """The outcome of a request whose key was used before, for a body with `body_hash`."""
    if wanted_hash != body_hash:
        return SubmissionOutcome(None, mismatch=True)
    return SubmissionOutcome(StoredResponse(status, body), replayed=True)


async def _choose(connection: Connection, works: Sequence[_Work]) -> None:
    """Take the items' names, up to the customers' limits. Sets the results of refused items; those of the others stay
    None.
    """
    places = {item.id: (work, place) for work in works for place, item in enumerate(work.request.items)}
    if not places:
        return
    limits = {work.request.customer: work.request.limit for work in works}
    items = [
        {"id": item.id, "customer": work.request.customer, "name": item.name}
        for work in works
        for item in work.request.items
    ]
    params = {"items": dumps(items), "limits": dumps(limits)}
    for id_, refusal, depth in await fetch(connection, "door_choose", params):
        work, place = places[id_]
        reason = RefusalReason(refusal)
        work.verdicts[place] = ItemResult(None, reason, depth if reason is RefusalReason.QUEUE_FULL else 0)


async def _write(connection: Connection, works: Sequence[_Work], *, keys: QueueKeys, now_us: int) -> None:
    """Make the responses, and insert the accepted items together with the responses to requests with a key."""
    items: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    forgotten: list[dict[str, Any]] = []
    for work in works:
        if work.outcome is not None:
            continue
        for place, item in enumerate(work.request.items):
            if work.verdicts[place] is None:
                # A microsecond apart, as `door_submit` does, so that the queue keeps the order of the items.
                at_us = now_us + len(items)
                row = new_row(item, at_us, keys.key(item.priority, item.tier_weight, at_us))
                work.verdicts[place] = ItemResult(row)
                items.append(_record(item))
        verdicts = [verdict for verdict in work.verdicts if verdict is not None]
        answer = work.request.respond(verdicts)
        work.outcome = SubmissionOutcome(answer, verdicts)
        if work.request.key is not None:
            owner = {"customer_id": work.request.customer, "key": work.request.key}
            if answer.keep:
                kept.append(owner | {"status": answer.status, "response": answer.body})
            else:
                forgotten.append(owner)
    if items or kept or forgotten:
        params = {"items": dumps(items), "answers": dumps(kept), "forgotten": dumps(forgotten)}
        try:
            await connection.execute(sql("door_submit"), params)
        except DatabaseError as error:
            if error.sqlstate == REFUSED_STATE:
                raise RefusedSubmissionError(error.diag.message_primary or str(error)) from error
            raise


def _record(item: WorkloadIntake) -> dict[str, Any]:
    """An item as `door_submit` takes it; everything else about the new row is the database's decision."""
    return {
        "id": item.id,
        "namespace": item.namespace,
        "name": item.name,
        "customer": item.customer,
        "type": item.type,
        "labels": item.labels,
        "spec": item.spec,
        "class_id": item.class_id,
        "replicas": item.replicas,
        "priority": item.priority,
        "tier_weight": item.tier_weight,
        "status": item.phase.name,
        "queue_class": item.queue_class,
        "visible_keys": item.visible_keys,
    }
