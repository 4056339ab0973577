"""Customers, workers, pools and the queue as a whole."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from niyanta.server.auth import Principal
from niyanta.server.dependencies import BoundedRoute, Caller, MayBeStale, Observer, Parts, answer
from niyanta.server.problems import NOT_FOUND, STALE_FIGURES, Problem
from niyanta.server.routes.workloads import Limit, Name
from niyanta.server.schema import serializers
from niyanta.server.schema.models import (
    CustomerList,
    CustomerStats,
    CustomerView,
    DecisionPage,
    DrainView,
    PoolList,
    PoolStatsView,
    QueueDepthView,
    WorkerPage,
)
from niyanta.server.schema.openapi_document import problems
from niyanta.server.submit.backpressure import limit_of
from niyanta.store.rows import Depth

router = APIRouter(prefix="/v1", route_class=BoundedRoute)

Customer = Annotated[str | None, Name, Query(description="For admins: which customer. Default: the key's own.")]
_NODE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_READ = problems(401, 404, 422, 503)
FIGURES_FRESH = 5.0
"""Seconds; what was counted longer ago is not answered."""


def _chosen(caller: Principal, customer: str | None) -> str:
    """The customer that is asked about; Problem (404) for another one's."""
    if customer is not None and not caller.sees(customer):
        raise Problem(NOT_FOUND, f"there is no Customer {customer}")
    return customer or caller.customer


@router.get("/customer", response_model=CustomerView, tags=["Customers"], summary="The Customer", responses=_READ)
async def get_customer(parts: Parts, caller: Caller, customer: Customer = None) -> Response:
    """Tier, limits, namespaces, and what its submissions may use."""
    return answer(serializers.customer(await parts.known_customer(_chosen(caller, customer))))


@router.get(
    "/customers",
    response_model=CustomerList,
    tags=["Customers"],
    summary="All Customers (admin)",
    responses=problems(400, 401, 403, 503),
)
async def list_customers(caller: Caller, reads: MayBeStale) -> Response:
    """By name."""
    caller.require_admin()
    found = [row for row in await reads.get_customers() if not row.deleted]
    return answer(CustomerList(items=[serializers.customer(row) for row in found]))


@router.get(
    "/customer/stats",
    response_model=CustomerStats,
    tags=["Customers"],
    summary="Its counts",
    responses=problems(400, 401, 404, 422, 503),
)
async def stats(parts: Parts, caller: Caller, reads: MayBeStale, customer: Customer = None) -> Response:
    """From counters that the transactions themselves keep."""
    row = await parts.known_customer(_chosen(caller, customer))
    depth = (await reads.get_queue_depth(row.name)).customers.get(row.name, Depth())
    pace = await parts.pressure.pace()
    view = CustomerStats(
        customer=row.name,
        counts=serializers.counts(depth),
        waiting=depth.pending + depth.held + depth.suspended,
        max_queue_depth=limit_of(row, "maxQueueDepth"),
        concurrent=depth.scheduled + depth.running,
        max_concurrent=limit_of(row, "maxConcurrent"),
        oldest_pending_seconds=await reads.oldest_pending(row.name),
        placed_per_minute=(pace.by_customer or {}).get(row.name),
    )
    return answer(view)


@router.get(
    "/workers", response_model=WorkerPage, tags=["Workers"], summary="Workers", responses=problems(400, 401, 422, 503)
)
async def list_workers(
    caller: Caller,
    reads: MayBeStale,
    pool: Annotated[str | None, Name, Query(description="Of this pool alone.")] = None,
    limit: Limit = 200,
    cursor: Annotated[str | None, Query(max_length=253, pattern=_NODE.pattern, description="`next` of before.")] = None,
) -> Response:
    """By name. What is taken of each is shown to admins alone."""
    rows = await reads.get_workers(pool=pool, after=cursor or "", limit=limit)
    items = [serializers.worker(row, admin=caller.admin) for row in rows]
    return answer(WorkerPage(items=items, next=rows[-1].name if len(rows) == limit else None))


@router.post(
    "/workers/{name}/drain",
    status_code=202,
    response_model=DrainView,
    tags=["Workers"],
    summary="Drain a worker (admin)",
    responses=problems(401, 403, 404, 503),
)
async def drain(name: str, parts: Parts, caller: Caller) -> Response:
    """The leader cordons it; what runs there goes on to its end. Asking twice gives the open request."""
    caller.require_admin()
    found = None
    if _NODE.fullmatch(name):
        found = await parts.record.add_worker_request(name, action="drain", by=f"{caller.customer}/{caller.key_id}")
    if found is None:
        raise Problem(NOT_FOUND, "there is no such worker")
    return answer(serializers.drain(found), 202)


@router.get(
    "/pools", response_model=PoolList, tags=["Workers"], summary="WorkerPools", responses=problems(400, 401, 503)
)
async def list_pools(caller: Caller, reads: MayBeStale) -> Response:
    """As the leader last wrote them. How busy they are is shown to admins alone."""
    return answer(PoolList(items=[serializers.pool(row, admin=caller.admin) for row in await reads.get_pools()]))


@router.get(
    "/pools/{name}/figures",
    response_model=PoolStatsView,
    tags=["Workers"],
    summary="What an autoscaler needs of a pool (admin, metrics)",
    responses=problems(401, 403, 404, 503),
)
async def pool_figures(name: str, parts: Parts, caller: Observer) -> Response:
    """Demand and size in single numbers. 503 when they were counted more than 5 s ago: don't scale by them then."""
    caller.require_figures()
    found = await parts.record.get_figures()
    if found is None:
        raise Problem(STALE_FIGURES, "no leader has counted yet", retry_after=2)
    figures, age = found
    if age > FIGURES_FRESH:
        raise Problem(STALE_FIGURES, f"a leader last counted {age:.0f} s ago", retry_after=2)
    pool = figures.pool(name)
    if pool is None:
        raise Problem(NOT_FOUND, "there is no such pool")
    return answer(serializers.pool_figures(pool, age=age))


@router.get(
    "/pools/{name}/decisions",
    response_model=DecisionPage,
    tags=["Workers"],
    summary="How a pool was scaled, and why (admin)",
    responses=problems(401, 403, 422, 503),
)
async def pool_decisions(
    name: str,
    parts: Parts,
    caller: Caller,
    limit: Limit = 200,
    cursor: Annotated[str | None, Query(max_length=19, pattern=r"[0-9]{1,18}", description="`next` of before.")] = None,
) -> Response:
    """Newest first, of the last 30 days; empty for a pool that was never scaled."""
    caller.require_admin()
    rows = await parts.record.get_scaling_decisions(name[:63], limit=limit, before=int(cursor) if cursor else None)
    items = [serializers.decision(row) for row in rows]
    return answer(DecisionPage(items=items, next=str(rows[-1].id) if len(rows) == limit else None))


@router.get(
    "/metrics/queue-depth",
    response_model=QueueDepthView,
    tags=["Queue"],
    summary="How much waits",
    responses=problems(400, 401, 503),
)
async def queue_depth(parts: Parts, caller: Caller, reads: MayBeStale) -> Response:
    """In all, by customer, tier and pool, and the age of the oldest: from counters, never by counting rows."""
    only = None if caller.admin else caller.customer
    depth = await reads.get_queue_depth(only)
    by_customer = {name: found.pending for name, found in sorted(depth.customers.items()) if found.pending}
    tiers = await parts.pressure.tiers()
    by_tier: dict[str, int] = {}
    for name, pending in by_customer.items():
        tier = tiers.get(name, "Unknown")
        by_tier[tier] = by_tier.get(tier, 0) + pending
    by_pool: dict[str, int] = {}
    if caller.admin:
        for pool in await parts.pressure.pools():
            queued = pool.status.get("queueDepth")
            by_pool[pool.name] = queued if isinstance(queued, int) else 0
    view = QueueDepthView(
        total=depth.total.pending,
        held=depth.total.held,
        suspended=depth.total.suspended,
        by_customer=by_customer,
        by_tier=by_tier,
        by_pool=by_pool,
        oldest_age_seconds=await reads.oldest_pending(only),
    )
    return answer(view)
