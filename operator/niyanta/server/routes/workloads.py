"""Endpoints of existing workloads: list, read, explain, events, cancel, suspend, resume."""

from __future__ import annotations

import base64
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from niyanta.lifecycle import Door, Event, IllegalTransitionError, Phase
from niyanta.server.auth import Principal
from niyanta.server.class_reasons import with_class_reasons
from niyanta.server.dependencies import BoundedRoute, Caller, Dependencies, MayBeStale, Parts, answer
from niyanta.server.estimates import estimated_start, unforeseen_start
from niyanta.server.limits.budgets import budget_of
from niyanta.server.problems import BAD_REQUEST, NOT_FOUND, OTHER_DOOR, WRONG_PHASE, Problem
from niyanta.server.schema import serializers
from niyanta.server.schema.models import (
    EventPage,
    Explanation,
    QueuePosition,
    ResponseModel,
    WorkloadPage,
    WorkloadView,
)
from niyanta.server.schema.openapi_document import problems
from niyanta.store.reads.reads import EXACT_POSITIONS, ListPosition, WorkloadFilter
from niyanta.store.row_mapping import from_us, to_us
from niyanta.store.rows import WorkloadRow

router = APIRouter(prefix="/v1/workloads", tags=["Workloads"], route_class=BoundedRoute)

Limit = Annotated[int, Query(ge=1, le=500, description="Items per page.")]
NEXT_PAGE = "`next` of the previous page."
Cursor = Annotated[str | None, Query(max_length=200, description=NEXT_PAGE)]
Name = Query(max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
SPECS_AT_ONCE = 20
"""Rows with specs that are read at once."""
SPECS_PAGE_BYTES = 2 * 1024 * 1024
"""Bytes of specs after which a page ends."""
SPECS_MEMORY_BYTES = 8 * 1024 * 1024
"""Memory for which a request with specs counts."""
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)


@router.get(
    "", response_model=WorkloadPage, summary="List workloads, newest first", responses=problems(400, 401, 422, 503)
)
async def list_workloads(
    request: Request,
    parts: Parts,
    caller: Caller,
    reads: MayBeStale,
    status: Annotated[
        list[Phase] | None, Query(description="Phase; repeat it to list workloads in any of several phases.")
    ] = None,
    type_: Annotated[str | None, Name, Query(alias="type", description="Workload type.")] = None,
    name: Annotated[str | None, Name, Query(description="Name of the workload or of its Workload object.")] = None,
    customer: Annotated[str | None, Name, Query(description="Only workloads of this customer (admin).")] = None,
    namespace: Annotated[str | None, Name, Query(description="Only workloads of this namespace.")] = None,
    created_after: Annotated[
        datetime | None, Query(alias="createdAfter", description="Created at or after this time.")
    ] = None,
    created_before: Annotated[
        datetime | None, Query(alias="createdBefore", description="Created before this time.")
    ] = None,
    with_spec: Annotated[bool, Query(alias="withSpec", description="Include the specs.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """A page may have fewer items than `limit`, even none: continue while `next` is set. With `withSpec`, a page ends
    when its specs have more than 2 MiB.

    With `name`, the answer is never from a read replica: clients look a name up in order to change the workload.
    """
    if not caller.admin and customer not in (None, caller.customer):
        return answer(WorkloadPage(items=[], next=None))
    wanted = WorkloadFilter(
        customer=customer if caller.admin else caller.customer,
        phases=tuple(status or ()),
        type=type_,
        name=name,
        since=_bounded(created_after),
        until=_bounded(created_before),
        namespace=namespace,
    )
    source = reads if name is None else parts.store
    last = _position(cursor)
    now = await parts.now()
    if not with_spec:
        rows, last = await source.list_workloads(wanted, after=last, limit=limit, with_spec=False)
        rows, _ = await with_class_reasons(source, rows, now)
        items = [_view(parts, row, now, with_spec=False) for row in rows]
    else:
        await budget_of(request).hold(SPECS_MEMORY_BYTES)
        items, size = [], 0
        while size < SPECS_PAGE_BYTES and len(items) < limit:
            rows, last = await source.list_workloads(wanted, after=last, limit=min(SPECS_AT_ONCE, limit - len(items)))
            rows, _ = await with_class_reasons(source, rows, now)
            items += [_view(parts, row, now, with_spec=True) for row in rows]
            size += sum(row.spec_bytes for row in rows)
            if last is None or wanted.scans:  # a type or namespace is searched for once
                break
    return answer(WorkloadPage(items=items, next=None if last is None else _cursor(to_us(last.at), last.id)))


@router.get("/{id}", response_model=WorkloadView, summary="Read a workload", responses=problems(400, 401, 404, 503))
async def get(id: str, parts: Parts, caller: Caller, reads: MayBeStale) -> Response:  # noqa: A002 - the path's name
    """Includes the spec."""
    row, now = await parts.visible(id, caller, reads), await parts.now()
    (row,), _ = await with_class_reasons(reads, [row], now)
    return answer(_view(parts, row, now, with_spec=True))


@router.get(
    "/{id}/explain",
    response_model=Explanation,
    summary="Explain a workload's phase",
    responses=problems(400, 401, 404, 503),
)
async def explain(id: str, parts: Parts, caller: Caller, reads: MayBeStale) -> Response:  # noqa: A002
    """Typed reasons with the number of workers each rules out, the position in the queue, and the estimated start.

    A workload that wasn't refused by itself yet, because many of its queue class wait, shows the reasons of its class.
    """
    row = await parts.visible(id, caller, reads)
    now = await parts.now()
    (row,), states = await with_class_reasons(reads, [row], now)
    state = states.get(row.id)
    reasons: list[Any] = []
    if state is not None:
        reasons = state.reasons
    elif row.phase in (Phase.PENDING, Phase.HELD):
        reasons = await reads.get_reasons(row.id)
    position = estimate = in_class = None
    if row.phase is Phase.PENDING:
        in_class = await reads.count_class(row.customer, row.queue_class) if row.queue_class else None
        ahead = await reads.queue_ahead(row)
        position = QueuePosition(ahead=ahead, exact=ahead < EXACT_POSITIONS)
        estimate = unforeseen_start(row, reasons)
        if estimate is None:
            estimate = estimated_start(row, position, await parts.pressure.placement_rate(), now)
    view = Explanation(
        id=row.id,
        phase=row.phase.value,
        reason=row.reason,
        message=row.message,
        effective_priority=_effective(parts, row, now),
        priority_formula=_formula(parts, row),
        reasons=serializers.reason_counts(reasons),
        nearest_miss=serializers.noted(reasons, "nearestMiss"),
        fits_pool=serializers.noted(reasons, "fitsPool"),
        closest_pool=serializers.noted(reasons, "closestPool"),
        reasons_of_class=state is not None,
        waiting_in_class=in_class,
        position=position,
        estimated_start=estimate,
        not_before=row.not_before if row.not_before and to_us(row.not_before) > now else None,
        avoided_workers={worker: until for worker, until in row.excluded.items() if to_us(until) > now},
    )
    return answer(view)


@router.get(
    "/{id}/events",
    response_model=EventPage,
    summary="List a workload's events",
    responses=problems(400, 401, 404, 422, 503),
)
async def events(
    id: str,  # noqa: A002
    parts: Parts,
    caller: Caller,
    reads: MayBeStale,
    limit: Limit = 200,
    cursor: Cursor = None,
) -> Response:
    """Its transitions from the audit log, oldest first, and its attempts."""
    row = await parts.visible(id, caller, reads)
    after = None
    if cursor is not None:
        at_us, number = _decoded(cursor)
        if not isinstance(number, int):
            raise Problem(BAD_REQUEST, "cursor: must be `next` of a page of this list")
        after = (from_us(at_us), number)
    found = await reads.get_events_page(row.id, after=after, limit=limit)
    attempts = [] if after else await reads.get_attempts(row.id)
    more = _cursor(to_us(found[-1].at), found[-1].id) if len(found) == limit else None
    page = EventPage(
        items=[serializers.event(item) for item in found],
        attempts=[serializers.attempt(item) for item in attempts],
        next=more,
    )
    return answer(page)


_CHANGES = problems(401, 404, 409, 503)


@router.post("/{id}/cancel", response_model=WorkloadView, summary="Cancel a workload", responses=_CHANGES)
async def cancel(id: str, parts: Parts, caller: Caller) -> Response:  # noqa: A002
    """Deletes its pods, if it has any. Cancelling a cancelled workload is not an error."""
    return await _move(id, parts, caller, Event.CANCEL, already=(Phase.CANCELLED,))


@router.post("/{id}/suspend", response_model=WorkloadView, summary="Suspend a workload", responses=_CHANGES)
async def suspend(id: str, parts: Parts, caller: Caller) -> Response:  # noqa: A002
    """Takes it out of the queue, or stops its pods, until it is resumed. Suspending it twice is not an error."""
    return await _move(id, parts, caller, Event.SUSPEND, already=(Phase.SUSPENDED,))


@router.post("/{id}/resume", response_model=WorkloadView, summary="Resume a workload", responses=_CHANGES)
async def resume(id: str, parts: Parts, caller: Caller) -> Response:  # noqa: A002
    """Puts it back in the queue; suspended time does not count as waiting. Not an error if it isn't suspended."""
    already = (Phase.PENDING, Phase.HELD, Phase.SCHEDULED, Phase.RUNNING)
    return await _move(id, parts, caller, Event.RESUME, already=already)


async def _move(
    id_: str, parts: Dependencies, caller: Principal, event: Event, *, already: tuple[Phase, ...]
) -> Response:
    row = await parts.visible(id_, caller, parts.store)
    if row.door is not Door.REST:
        text = f"it was created through Kubernetes: edit or delete workload {row.namespace}/{row.name} with kubectl"
        raise Problem(OTHER_DOOR, text)
    if row.phase not in already:
        try:
            row = await parts.store.move(row.id, event)
        except LookupError:
            raise Problem(NOT_FOUND, "there is no workload with this id") from None
        except IllegalTransitionError:
            # It may have moved since it was read, even to the requested phase.
            row = await parts.visible(id_, caller, parts.store)
            if row.phase not in already:
                raise Problem(WRONG_PHASE, f"{event.value} isn't possible in phase {row.phase.value}") from None
    headers = parts.read_your_writes.written(await parts.router.position(), caller.customer, row.customer)
    return answer(_view(parts, row, await parts.now(), with_spec=True), headers=headers)


# --- Helpers ---------------------------------------------------------------------------------------------------------


def _effective(parts: Dependencies, row: WorkloadRow, now_us: int) -> int:
    """Effective priority: now while it waits, else when it left the queue."""
    at = now_us
    for moment in (row.scheduled_at, row.paused_at, row.finished_at):
        if moment is not None and row.phase is not Phase.PENDING:
            at = min(at, to_us(moment))
    return parts.keys.effective(row.priority, row.tier_weight, row.queued_at_us, now_us=at)


def _formula(parts: Dependencies, row: WorkloadRow) -> str:
    terms = []
    if parts.settings.enable_priority:
        terms.append(f"priority {row.priority} x tier weight {row.tier_weight}")
    if parts.settings.enable_aging:
        terms.append(f"{parts.settings.aging_boost_per_minute} per minute waited")
    return " + ".join(terms) or "first in, first out"


def _view(parts: Dependencies, row: WorkloadRow, now_us: int, *, with_spec: bool) -> ResponseModel:
    return serializers.workload(row, effective_priority=_effective(parts, row, now_us), with_spec=with_spec)


def _bounded(moment: datetime | None) -> datetime | None:
    """The time with a zone (UTC unless it has one), clamped to the range that the database can store."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not 1970 <= moment.year <= 8999:
        return _EARLIEST if moment.year < 1970 else _LATEST
    return aware


def _cursor(at_us: int, key: str | int) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([at_us, key])).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[int, Any]:
    try:
        at_us, key = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if type(at_us) is int and 0 <= at_us < to_us(_LATEST) and type(key) in (int, str):
            if isinstance(key, str):
                key = str(uuid.UUID(key))
            elif not 0 <= key < 2**63:
                raise ValueError(key)
            return at_us, key
    except (ValueError, TypeError):
        pass
    raise Problem(BAD_REQUEST, "cursor: must be `next` of a page of this list")


def _position(cursor: str | None) -> ListPosition | None:
    if cursor is None:
        return None
    at_us, key = _decoded(cursor)
    if not isinstance(key, str):
        raise Problem(BAD_REQUEST, "cursor: must be `next` of a page of this list")
    return ListPosition(from_us(at_us), key)
