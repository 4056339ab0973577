"""/healthz, /readyz and /metrics: on the door's port, and alone on the metrics port."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse, Response

from niyanta.server.problems import Problem
from niyanta.server.services import Parts, bounded
from niyanta.store.errors import StoreError

router = APIRouter(tags=["Operations"])

READY_PATIENCE = 2.0


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
async def metrics() -> Response:
    """Of this process."""
    return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)
