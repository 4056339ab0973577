"""Endpoints of workers: list and drain."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from niyanta.server.dependencies import BoundedRoute, Caller, MayBeStale, Parts, answer
from niyanta.server.problems import NOT_FOUND, Problem
from niyanta.server.routes.workloads import NEXT_PAGE, Limit, Name
from niyanta.server.schema import serializers
from niyanta.server.schema.models import DrainView, WorkerPage
from niyanta.server.schema.openapi_document import problems

router = APIRouter(prefix="/v1/workers", tags=["Workers"], route_class=BoundedRoute)

_NODE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@router.get("", response_model=WorkerPage, summary="List workers", responses=problems(400, 401, 422, 503))
async def list_workers(
    caller: Caller,
    reads: MayBeStale,
    pool: Annotated[str | None, Name, Query(description="Only workers of this pool.")] = None,
    limit: Limit = 200,
    cursor: Annotated[str | None, Query(max_length=253, pattern=_NODE.pattern, description=NEXT_PAGE)] = None,
) -> Response:
    """Sorted by name. Only admins see how much of each worker is used."""
    rows = await reads.get_workers(pool=pool, after=cursor or "", limit=limit)
    items = [serializers.worker(row, admin=caller.admin) for row in rows]
    return answer(WorkerPage(items=items, next=rows[-1].name if len(rows) == limit else None))


@router.post(
    "/{name}/drain",
    status_code=202,
    response_model=DrainView,
    summary="Drain a worker (admin)",
    responses=problems(401, 403, 404, 503),
)
async def drain(name: str, parts: Parts, caller: Caller) -> Response:
    """The leader cordons the worker; pods that run on it continue. A repeated call returns the open request."""
    caller.require_admin()
    found = None
    if _NODE.fullmatch(name):
        found = await parts.store.add_worker_request(name, action="drain", by=f"{caller.customer}/{caller.key_id}")
    if found is None:
        raise Problem(NOT_FOUND, f"there is no worker {name}")
    return answer(serializers.drain(found), 202)
