"""/healthz and /readyz, on the REST door's port and on the metrics port, and /metrics on the latter alone: it names
customers, and who may scrape is limited by port."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from niyanta.observability.gauges import CONTENT_TYPE, render
from niyanta.server import metrics
from niyanta.server.dependencies import Dependencies, Parts, bounded
from niyanta.server.problems import UNAUTHORIZED, Problem
from niyanta.store.errors import StoreError

router = APIRouter(tags=["Operations"])
metrics_router = APIRouter()

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
        await bounded(parts.shared("clock", parts.store.clock), READY_TIMEOUT_SECONDS)
    except (Problem, StoreError) as error:
        return PlainTextResponse(f"Postgres can't be reached: {error}\n", status_code=503, headers={"Retry-After": "2"})
    return PlainTextResponse("ok\n")


@metrics_router.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
async def metrics_endpoint(request: Request, parts: Parts) -> Response:
    """The metrics of this process; docs/metrics.md lists them. Needs a token if `NIYANTA_METRICS_TOKEN_FILE` is set."""
    problem = parts.metrics_token.problem(request.headers.get("authorization", ""))
    if problem:
        raise Problem(UNAUTHORIZED, problem)
    return Response(await parts.shared("metrics", lambda: _metrics_page(parts)), media_type=CONTENT_TYPE)


async def _metrics_page(parts: Dependencies) -> bytes:
    try:
        metrics.QUEUE_DEPTH.set(await bounded(parts.pressure.depth(), DEPTH_TIMEOUT_SECONDS))
    except (Problem, StoreError):
        metrics.QUEUE_DEPTH.clear()
    return await asyncio.to_thread(render)
