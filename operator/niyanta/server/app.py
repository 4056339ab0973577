"""The REST door as an ASGI application. `create_app` needs settings and a pool of connections, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from niyanta import __version__
from niyanta.observability import log
from niyanta.server.dependencies import Dependencies, raw
from niyanta.server.middleware import InflightLimiter
from niyanta.server.problems import BAD_REQUEST, INTERNAL, METHOD, NOT_FOUND, UNAVAILABLE, Problem, ProblemType
from niyanta.server.routes import fleet, health, submissions, workloads
from niyanta.server.schema import docs_pages
from niyanta.server.schema.openapi_document import schema_of
from niyanta.settings import Settings
from niyanta.store.errors import ConflictError, StoreError, StoreUnavailableError
from niyanta.store.reads.router import open_router

logger = log.get(__name__)

PRUNE_EVERY = 60.0
_AGAIN = 2.0


def create_app(settings: Settings) -> FastAPI:
    """The application; its life begins and ends the pools of connections."""
    app = _bare("Niyanta")
    for router in (submissions.router, workloads.router, fleet.router, health.router):
        app.include_router(router)
    app.router.lifespan_context = _lifespan(settings)
    app.openapi = lambda: schema_of(app)  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return raw(app.openapi())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_pages.page(app.openapi()))

    app.add_middleware(InflightLimiter, most=settings.api_max_inflight)
    return app


def create_ops_app(main: FastAPI) -> FastAPI:
    """Health and metrics alone, of the process that `main` lives in."""
    app = _bare("Niyanta operations")
    app.include_router(health.router)
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
            app.state.services = parts
            parts.gatherer.start()
            pruning = asyncio.create_task(_prune(parts), name="prune")
            try:
                yield
            finally:
                pruning.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pruning
                await parts.gatherer.stop()

    return live


async def _prune(parts: Dependencies) -> None:
    """Forget what is out of date, for ever."""
    while True:
        await asyncio.sleep(PRUNE_EVERY)
        with contextlib.suppress(StoreError):
            await parts.record.prune()


# --- Errors ----------------------------------------------------------------------------------------------------------


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _store_error(_: Request, error: Exception) -> Response:
    if isinstance(error, StoreUnavailableError):
        logger.warning("the record can't be reached", error=str(error))
        return Problem(UNAVAILABLE, "Postgres doesn't answer now", retry_after=_AGAIN).response()
    if isinstance(error, ConflictError):
        return Problem(UNAVAILABLE, "lost a race several times over", retry_after=1).response()
    logger.error("the record refused a request", exc_info=error)
    return Problem(INTERNAL, "the record refused what the server asked of it").response()


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
    detail = "there is nothing at this path" if kind is NOT_FOUND else str(error.detail)
    return Problem(kind, detail, headers=dict(error.headers or {})).response()


async def _bug(_: Request, error: Exception) -> Response:
    logger.error("a request could not be handled", exc_info=error)
    return Problem(INTERNAL, "this is a bug; the log has more").response()
