"""Endpoints of WorkerPools: list, statistics for autoscalers, scaling decisions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from niyanta.server.dependencies import BoundedRoute, Caller, MayBeStale, Observer, Parts, answer
from niyanta.server.problems import NOT_FOUND, STALE_FIGURES, Problem
from niyanta.server.routes.workloads import NEXT_PAGE, Limit
from niyanta.server.schema import serializers
from niyanta.server.schema.models import DecisionPage, PoolList, PoolStatsView
from niyanta.server.schema.openapi_document import problems

router = APIRouter(prefix="/v1/pools", tags=["Workers"], route_class=BoundedRoute)

STATS_MAX_AGE_SECONDS = 5.0
"""Older statistics are not returned."""


@router.get("", response_model=PoolList, summary="List WorkerPools", responses=problems(400, 401, 503))
async def list_pools(caller: Caller, reads: MayBeStale) -> Response:
    """As the leader last wrote them. Only admins see how busy they are."""
    return answer(PoolList(items=[serializers.pool(row, admin=caller.admin) for row in await reads.get_pools()]))


@router.get(
    "/{name}/figures",
    response_model=PoolStatsView,
    summary="Read a pool's statistics for autoscaling (admin, metrics)",
    responses=problems(401, 403, 404, 503),
)
async def pool_stats(name: str, parts: Parts, caller: Observer) -> Response:
    """Demand and size of the pool. 503 when the statistics are more than 5 s old: don't scale on them then."""
    caller.require_pool_stats()
    found = await parts.store.get_figures()
    if found is None:
        raise Problem(STALE_FIGURES, "no leader has written statistics yet", retry_after=2)
    stats, age = found
    if age > STATS_MAX_AGE_SECONDS:
        raise Problem(STALE_FIGURES, f"the statistics are {age:.0f} s old", retry_after=2)
    pool = stats.pool(name)
    if pool is None:
        raise Problem(NOT_FOUND, f"there is no pool {name}")
    return answer(serializers.pool_stats(pool, age=age))


@router.get(
    "/{name}/decisions",
    response_model=DecisionPage,
    summary="List a pool's scaling decisions and their reasons (admin)",
    responses=problems(401, 403, 422, 503),
)
async def pool_decisions(
    name: str,
    parts: Parts,
    caller: Caller,
    limit: Limit = 200,
    cursor: Annotated[str | None, Query(max_length=19, pattern=r"^[0-9]{1,18}$", description=NEXT_PAGE)] = None,
) -> Response:
    """The decisions of the last 30 days, newest first; empty for a pool that was never scaled."""
    caller.require_admin()
    rows = await parts.store.get_scaling_decisions(name[:63], limit=limit, before=int(cursor) if cursor else None)
    items = [serializers.decision(row) for row in rows]
    return answer(DecisionPage(items=items, next=str(rows[-1].id) if len(rows) == limit else None))
