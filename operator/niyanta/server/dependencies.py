"""Objects that the handlers of one API process share, and helpers that all of them use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Header
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from niyanta.lsn import HEADER
from niyanta.observability.metrics_token import MetricsToken
from niyanta.server.auth import Authenticator, Principal
from niyanta.server.limits.budgets import budget_of
from niyanta.server.limits.turns import Turns
from niyanta.server.problems import FORBIDDEN, NOT_FOUND, UNAVAILABLE, Problem
from niyanta.server.read_your_writes import PATTERN, ReadYourWrites
from niyanta.server.schema.models import ResponseModel
from niyanta.server.submit.backpressure import Backpressure
from niyanta.server.submit.batcher import SubmissionBatcher
from niyanta.server.submit.manifest import ManifestReader
from niyanta.server.submit.rate_limit import SubmitRate
from niyanta.settings import Settings
from niyanta.store.postgres.clock import Clock
from niyanta.store.reads.reads import Reads
from niyanta.store.reads.router import ReadRouter
from niyanta.store.rest.api_keys import ApiKeys
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import CustomerRow, WorkloadRow
from niyanta.store.workloads.queue_key import QueueKeys

ANSWER_TIMEOUT_SECONDS = 4.8
"""Every request is answered within this time; receiving its body is not counted."""
CLOCK_REFRESH_SECONDS = 60.0

T = TypeVar("T")


@dataclass(slots=True)
class Dependencies:
    """Objects that live as long as one API process."""

    settings: Settings
    store: RestStore
    router: ReadRouter
    read_your_writes: ReadYourWrites
    auth: Authenticator
    reader: ManifestReader
    batcher: SubmissionBatcher
    pressure: Backpressure
    rate: SubmitRate
    keys: QueueKeys
    clock: Clock
    metrics_token: MetricsToken
    clock_read_at: float = float("-inf")
    turns: Turns = field(default_factory=Turns)
    running: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    @classmethod
    def on(cls, router: ReadRouter, settings: Settings) -> Dependencies:
        """All objects, on one pool of connections to the primary."""
        pool = router.primary
        store = RestStore(pool, settings)
        return cls(
            settings=settings,
            store=store,
            router=router,
            read_your_writes=ReadYourWrites(settings),
            auth=Authenticator(ApiKeys(pool)),
            reader=ManifestReader(operator_namespace=settings.namespace, topology_keys=settings.shared_topology_keys),
            batcher=SubmissionBatcher(store, router.position),
            pressure=Backpressure(store, settings),
            rate=SubmitRate(store),
            keys=QueueKeys(settings),
            clock=Clock(store),
            metrics_token=MetricsToken(settings.metrics_token_file),
        )

    async def shared(self, name: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `make`; callers at the same time share one run of it. For endpoints that need no key."""
        task: asyncio.Task[T] | None = self.running.get(name)
        if task is None or task.done():
            task = self.running[name] = asyncio.create_task(make(), name=name)
            task.add_done_callback(_consume_result)
        return await asyncio.shield(task)

    async def now(self) -> int:
        """The database's time in µs."""
        loop = asyncio.get_running_loop()
        if loop.time() - self.clock_read_at > CLOCK_REFRESH_SECONDS:
            await self.clock.refresh()
            self.clock_read_at = loop.time()
        return self.clock.now()

    async def visible(self, id_: str, principal: Principal, reads: Reads) -> WorkloadRow:
        """The workload, if the principal may see it; else Problem (404)."""
        row = await reads.get_workload(id_)
        if row is None or not principal.sees(row.customer):
            raise Problem(NOT_FOUND, "there is no workload with this id")
        return row

    async def known_customer(self, name: str) -> CustomerRow:
        """The Customer of that name; Problem (404) when there is none."""
        found = await self.pressure.customer(name)
        if found is None:
            raise Problem(NOT_FOUND, f"there is no Customer {name}")
        return found


async def bounded(work: Coroutine[Any, Any, T], seconds: float = ANSWER_TIMEOUT_SECONDS) -> T:
    """The result of `work`, or Problem (503) after `seconds`.

    Late work continues in the background: cancelling it would make the driver ask a hung server to cancel, and wait.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(_consume_result)
        detail = "timed out; a change may or may not have been made: repeat it with the same Idempotency-Key"
        raise Problem(UNAVAILABLE, detail, retry_after=2)
    return task.result()


def _consume_result(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


class BoundedRoute(APIRoute):
    """A route without a request body: the whole handler is bounded by ANSWER_TIMEOUT_SECONDS."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            return await bounded(handler(request))

        return answer


async def dependencies(request: Request) -> Dependencies:
    """The process's shared objects. Asynchronous, because FastAPI would run a plain function in a thread."""
    found: Dependencies = request.app.state.dependencies
    return found


async def any_principal(request: Request) -> Principal:
    """The caller, with a key of any role; Problem (401), and 429 when its customer has too many requests in flight."""
    found = await bounded((await dependencies(request)).auth.principal(request))
    budget_of(request).charge(found.customer)
    return found


async def principal(request: Request) -> Principal:
    """The caller; Problem (401), and 403 for keys of role metrics: endpoints open to those use `Observer`."""
    found = await any_principal(request)
    if found.observer:
        raise Problem(FORBIDDEN, "a key of role metrics may read pool statistics and nothing else")
    return found


Parts = Annotated[Dependencies, Depends(dependencies)]
Caller = Annotated[Principal, Depends(principal)]


async def stale_reads(
    parts: Parts,
    caller: Caller,
    position: Annotated[
        str | None,
        Header(
            alias=HEADER,
            description="Header of the response to a write; the answer includes at least that write.",
            json_schema_extra={"pattern": PATTERN},
        ),
    ] = None,
) -> Reads:
    """Reads that may be up to max_replica_lag behind, though never behind the caller's own writes; Problem (400)."""
    return parts.router.reads(parts.read_your_writes.required(position, caller.customer))


MayBeStale = Annotated[Reads, Depends(stale_reads)]
"""Reads for display. Reads that a decision depends on use `Dependencies.store`, which is on the primary."""
Observer = Annotated[Principal, Depends(any_principal)]


def answer(view: ResponseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response with the model as JSON, without validating it again."""
    return raw(view.model_dump(mode="json", by_alias=True), status, headers)


def raw(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response with JSON values."""
    return Response(orjson.dumps(body), status, headers, "application/json")
