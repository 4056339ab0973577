"""Endpoints of workers: list, cordon, uncordon, drain, and the state of such a request."""

from __future__ import annotations

import re
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from niyanta.resources.models.worker_pool import MAX_DRAIN_SECONDS
from niyanta.server.auth import Principal
from niyanta.server.dependencies import BoundedRoute, Caller, Dependencies, MayBeStale, Parts, answer
from niyanta.server.problems import NOT_FOUND, Problem
from niyanta.server.routes.workloads import NEXT_PAGE, Limit, Name
from niyanta.server.schema import serializers
from niyanta.server.schema.models import WorkerPage, WorkerRequestView
from niyanta.server.schema.openapi_document import problems
from niyanta.store.rows import WorkerAction

router = APIRouter(prefix="/v1/workers", tags=["Workers"], route_class=BoundedRoute)

_NODE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LONGEST_NAME = 253
_CHANGES = problems(401, 403, 404, 422, 503)


@router.get("", response_model=WorkerPage, summary="List workers", responses=problems(400, 401, 422, 503))
async def list_workers(
    caller: Caller,
    reads: MayBeStale,
    pool: Annotated[str | None, Name, Query(description="Only workers of this pool.")] = None,
    limit: Limit = 200,
    cursor: Annotated[str | None, Query(max_length=253, pattern=f"^{_NODE.pattern}$", description=NEXT_PAGE)] = None,
) -> Response:
    """Sorted by name. Only admins see how much of each worker is used, and requests about it."""
    rows = await reads.get_workers(pool=pool, after=cursor or "", limit=limit)
    requests = await reads.get_last_worker_requests(row.name for row in rows)
    items = [serializers.worker(row, requests.get(row.name), admin=caller.admin) for row in rows]
    return answer(WorkerPage(items=items, next=rows[-1].name if len(rows) == limit else None))


@router.post(
    "/{name}/cordon",
    status_code=202,
    response_model=WorkerRequestView,
    summary="Cordon a worker (admin)",
    responses=_CHANGES,
)
async def cordon(name: str, parts: Parts, caller: Caller) -> Response:
    """The leader cordons the node: no workload is placed on it any more, those that run there continue."""
    return await _request(name, parts, caller, WorkerAction.CORDON)


@router.post(
    "/{name}/uncordon",
    status_code=202,
    response_model=WorkerRequestView,
    summary="Uncordon a worker (admin)",
    responses=_CHANGES,
)
async def uncordon(name: str, parts: Parts, caller: Caller) -> Response:
    """The leader uncordons the node, whoever has cordoned it, and open requests to cordon or drain it end."""
    return await _request(name, parts, caller, WorkerAction.UNCORDON)


@router.post(
    "/{name}/drain",
    status_code=202,
    response_model=WorkerRequestView,
    summary="Drain a worker (admin)",
    responses=_CHANGES,
)
async def drain(
    name: str,
    parts: Parts,
    caller: Caller,
    evict_after_seconds: Annotated[
        int | None,
        Query(
            alias="evictAfterSeconds",
            ge=0,
            le=MAX_DRAIN_SECONDS,
            description="Time after which workloads that still run go back to the queue. Default: never.",
        ),
    ] = None,
) -> Response:
    """The leader cordons the node; the request is done when no workload runs there any more. A repeated call returns
    the same request as long as it is open, and its eviction replaces the earlier one."""
    return await _request(name, parts, caller, WorkerAction.DRAIN, evict_after=evict_after_seconds)


@router.get(
    "/{name}/requests/{id}",
    response_model=WorkerRequestView,
    summary="Read a request about a worker (admin)",
    responses=problems(401, 403, 404, 422, 503),
)
async def read_request(name: str, id: UUID, parts: Parts, caller: Caller) -> Response:  # noqa: A002 - the path's name
    """`doneAt` and `outcome` are null while the request is open. Requests are kept for 30 days after their end."""
    caller.require_admin()
    found = await parts.store.get_worker_request(name, str(id)) if _NODE.fullmatch(name) else None
    if found is None:
        raise Problem(NOT_FOUND, f"there is no request {id} about worker {name[:_LONGEST_NAME]}")
    return answer(serializers.worker_request(found))


async def _request(
    name: str, parts: Dependencies, caller: Principal, action: WorkerAction, *, evict_after: int | None = None
) -> Response:
    caller.require_admin()
    found = None
    if _NODE.fullmatch(name):
        by = f"{caller.customer}/{caller.key_id}"
        found = await parts.store.add_worker_request(name, action=action, by=by, evict_after=evict_after)
    if found is None:
        raise Problem(NOT_FOUND, f"there is no worker {name[:_LONGEST_NAME]}")
    return answer(serializers.worker_request(found), 202)
