"""Endpoint of the queue's depth."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from niyanta.server.dependencies import BoundedRoute, Caller, MayBeStale, Parts, answer
from niyanta.server.schema.models import QueueDepthView
from niyanta.server.schema.openapi_document import problems

router = APIRouter(prefix="/v1", tags=["Queue"], route_class=BoundedRoute)


@router.get(
    "/metrics/queue-depth",
    response_model=QueueDepthView,
    summary="Read the depth of the queue",
    responses=problems(400, 401, 503),
)
async def queue_depth(parts: Parts, caller: Caller, reads: MayBeStale) -> Response:
    """Pending workloads in total and by customer, tier and pool, and the age of the oldest.

    A customer's key sees its own workloads only.
    """
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
