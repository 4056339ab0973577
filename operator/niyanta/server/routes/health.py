"""/healthz, /readyz and /metrics: on the door's port, and alone on the metrics port."""

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

READY_PATIENCE = 2.0
DEPTH_PATIENCE = 1.0
"""Metrics are wanted most when Postgres is away: they don't wait for it for long."""


@router.get("/healthz", response_class=PlainTextResponse, summary="Is the process alive?")
async def healthz() -> Response:
    """It answers, so it is."""
    return PlainTextResponse("ok\n")


@router.get(
    "/readyz",
    response_class=PlainTextResponse,
    summary="Can it take requests?",
    responses={503: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Postgres is away."}},
)
async def readyz(parts: Parts) -> Response:
    """Whether Postgres answers."""
    try:
        await bounded(parts.record.clock(), READY_PATIENCE)
    except (Problem, StoreError) as error:
        return PlainTextResponse(
            f"the record can't be reached: {error}\n", status_code=503, headers={"Retry-After": "2"}
        )
    return PlainTextResponse("ok\n")


@router.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
async def metrics_endpoint(parts: Parts) -> Response:
    """Of this process; docs/metrics.md lists them."""
    try:
        metrics.QUEUE_DEPTH.set(await bounded(parts.pressure.depth(), DEPTH_PATIENCE))
    except (Problem, StoreError):
        metrics.QUEUE_DEPTH.clear()
    return Response(await asyncio.to_thread(render), media_type=CONTENT_TYPE)
