"""The REST door as an ASGI application. `create_app` needs settings and a pool of connections, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from niyanta import __version__
from niyanta.observability import log
from niyanta.server.dependencies import Dependencies
from niyanta.server.middleware import InflightLimiter
from niyanta.server.problems import BAD_REQUEST, INTERNAL, METHOD, NOT_FOUND, UNAVAILABLE, Problem, ProblemType
from niyanta.server.routes import batches, customers, health, pools, queue, submissions, workers, workloads
from niyanta.server.schema import docs_pages
from niyanta.server.schema.openapi_document import schema_of
from niyanta.settings import Settings
from niyanta.store.errors import ConflictError, StoreError, StoreUnavailableError
from niyanta.store.reads.router import open_router

logger = log.get(__name__)

PRUNE_INTERVAL_SECONDS = 60.0
_RETRY_AFTER_SECONDS = 2.0


def create_app(settings: Settings) -> FastAPI:
    """The application; its lifespan opens and closes the connection pools."""
    app = _bare("Niyanta")
    for module in (submissions, batches, workloads, customers, workers, pools, queue, health):
        app.include_router(module.router)
    app.router.lifespan_context = _lifespan(settings)
    app.openapi = lambda: schema_of(app)  # type: ignore[method-assign]

    @cache
    def document() -> bytes:
        return orjson.dumps(app.openapi())

    @cache
    def page() -> str:
        return docs_pages.page(app.openapi())

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(document(), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page())

    app.add_middleware(InflightLimiter, settings=settings)
    return app


def create_ops_app(main: FastAPI) -> FastAPI:
    """Only health and metrics, of the process that serves `main`."""
    app = _bare("Niyanta operations")
    app.include_router(health.router)
    app.include_router(health.metrics_router)
    app.state = main.state
    return app


def _bare(title: str) -> FastAPI:
    app = FastAPI(
        title=title, version=__version__, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(StoreError, _store_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)
    return app


def _lifespan(settings: Settings) -> Any:
    sized = settings.model_copy(update={"db_pool_max": settings.api_pool_max})

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        async with await open_router(sized) as router:
            parts = Dependencies.on(router, sized)
            app.state.dependencies = parts
            parts.batcher.start()
            pruning = asyncio.create_task(_prune(parts), name="prune")
            try:
                yield
            finally:
                pruning.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pruning
                await parts.batcher.stop()

    return live


async def _prune(parts: Dependencies) -> None:
    """Delete expired idempotency keys and rate windows once a minute."""
    while True:
        await asyncio.sleep(PRUNE_INTERVAL_SECONDS)
        with contextlib.suppress(StoreError):
            await parts.store.prune()


# --- Errors ----------------------------------------------------------------------------------------------------------


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _store_error(_: Request, error: Exception) -> Response:
    if isinstance(error, StoreUnavailableError):
        logger.warning("Postgres can't be reached", error=str(error))
        return Problem(UNAVAILABLE, "Postgres doesn't answer", retry_after=_RETRY_AFTER_SECONDS).response()
    if isinstance(error, ConflictError):
        return Problem(
            UNAVAILABLE, "other transactions changed the same rows several times; try again", retry_after=1
        ).response()
    logger.error("Postgres refused a statement", exc_info=error)
    return Problem(INTERNAL, "the database refused a statement; the server's log has the error").response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {"field": ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0]), "message": item["msg"]}
        for item in error.errors()
    ]
    kind = ProblemType(BAD_REQUEST.name, 422, BAD_REQUEST.title)
    return Problem(kind, "; ".join(f"{item['field']}: {item['message']}" for item in found[:3]), found).response()


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {404: NOT_FOUND, 405: METHOD}
    kind = kinds.get(error.status_code, ProblemType(BAD_REQUEST.name, error.status_code, BAD_REQUEST.title))
    detail = "no endpoint has this path" if kind is NOT_FOUND else str(error.detail)
    return Problem(kind, detail, headers=dict(error.headers or {})).response()


async def _bug(_: Request, error: Exception) -> Response:
    logger.error("a request could not be handled", exc_info=error)
    return Problem(INTERNAL, "this is a bug; the server's log has the error").response()
