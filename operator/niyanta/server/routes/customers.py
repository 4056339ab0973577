"""Endpoints of Customers: their settings, counts and limits."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from niyanta.server.auth import Principal
from niyanta.server.dependencies import BoundedRoute, Caller, MayBeStale, Parts, answer
from niyanta.server.problems import NOT_FOUND, Problem
from niyanta.server.routes.workloads import Name
from niyanta.server.schema import serializers
from niyanta.server.schema.models import CustomerList, CustomerStats, CustomerView
from niyanta.server.schema.openapi_document import problems
from niyanta.server.submit.backpressure import limit_of
from niyanta.store.rows import Depth

router = APIRouter(prefix="/v1", tags=["Customers"], route_class=BoundedRoute)

Customer = Annotated[
    str | None, Name, Query(description="Name of the Customer; default: the key's own. Others need an admin key.")
]


def _requested(caller: Principal, customer: str | None) -> str:
    """Name of the requested Customer; Problem (404) for another one unless the caller is an admin."""
    if customer is not None and not caller.sees(customer):
        raise Problem(NOT_FOUND, f"there is no Customer {customer}")
    return customer or caller.customer


@router.get(
    "/customer",
    response_model=CustomerView,
    summary="Read the key's Customer",
    responses=problems(401, 404, 422, 503),
)
async def get_customer(parts: Parts, caller: Caller, customer: Customer = None) -> Response:
    """Tier, limits and namespaces, and the ServiceAccounts and Secrets that its workloads may use."""
    return answer(serializers.customer(await parts.known_customer(_requested(caller, customer))))


@router.get(
    "/customers",
    response_model=CustomerList,
    summary="List all Customers (admin)",
    responses=problems(400, 401, 403, 503),
)
async def list_customers(caller: Caller, reads: MayBeStale) -> Response:
    """Sorted by name."""
    caller.require_admin()
    found = [row for row in await reads.get_customers() if not row.deleted]
    return answer(CustomerList(items=[serializers.customer(row) for row in found]))


@router.get(
    "/customer/stats",
    response_model=CustomerStats,
    summary="Read a Customer's counts",
    responses=problems(400, 401, 404, 422, 503),
)
async def stats(parts: Parts, caller: Caller, reads: MayBeStale, customer: Customer = None) -> Response:
    """Workloads in each phase, the limits they count against, and the placement rate.

    The counts are kept by the transactions that change workloads, so reading them is cheap.
    """
    row = await parts.known_customer(_requested(caller, customer))
    depth = (await reads.get_queue_depth(row.name)).customers.get(row.name, Depth())
    rate = await parts.pressure.placement_rate()
    view = CustomerStats(
        customer=row.name,
        counts=serializers.counts(depth),
        waiting=depth.pending + depth.held + depth.suspended,
        max_queue_depth=limit_of(row, "maxQueueDepth"),
        concurrent=depth.scheduled + depth.running,
        max_concurrent=limit_of(row, "maxConcurrent"),
        oldest_pending_seconds=await reads.oldest_pending(row.name),
        placed_per_minute=(rate.by_customer or {}).get(row.name),
    )
    return answer(view)
