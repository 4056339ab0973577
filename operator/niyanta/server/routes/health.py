"""/healthz, /readyz and /metrics, on the REST door's port and on the metrics port."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from niyanta.observability.gauges import CONTENT_TYPE, render
from niyanta.server import metrics
from niyanta.server.dependencies import Parts, bounded
from niyanta.server.problems import Problem
from niyanta.store.errors import StoreError

router = APIRouter(tags=["Operations"])

READY_TIMEOUT_SECONDS = 2.0
DEPTH_TIMEOUT_SECONDS = 1.0
"""Short, because metrics are needed most while Postgres is unreachable."""


@router.get("/healthz", response_class=PlainTextResponse, summary="Liveness")
async def healthz() -> Response:
    """Always `ok` while the process serves requests."""
    return PlainTextResponse("ok\n")


@router.get(
    "/readyz",
    response_class=PlainTextResponse,
    summary="Readiness",
    responses={
        503: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Postgres does not answer."}
    },
)
async def readyz(parts: Parts) -> Response:
    """`ok` while Postgres answers."""
    try:
        await bounded(parts.store.clock(), READY_TIMEOUT_SECONDS)
    except (Problem, StoreError) as error:
        return PlainTextResponse(f"Postgres can't be reached: {error}\n", status_code=503, headers={"Retry-After": "2"})
    return PlainTextResponse("ok\n")


@router.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
async def metrics_endpoint(parts: Parts) -> Response:
    """The metrics of this process; docs/metrics.md lists them."""
    try:
        metrics.QUEUE_DEPTH.set(await bounded(parts.pressure.depth(), DEPTH_TIMEOUT_SECONDS))
    except (Problem, StoreError):
        metrics.QUEUE_DEPTH.clear()
    return Response(await asyncio.to_thread(render), media_type=CONTENT_TYPE)
