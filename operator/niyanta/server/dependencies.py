"""What the handlers of one API process share, and the small things they all do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Header
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from niyanta.lsn import HEADER
from niyanta.server.auth import Authenticator, Principal
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

PATIENCE = 4.8
"""Every answer comes within this many seconds (a body's arrival not counted)."""
CLOCK_EVERY = 60.0

T = TypeVar("T")


@dataclass(slots=True)
class Dependencies:
    """One API process's parts."""

    settings: Settings
    record: RestStore
    router: ReadRouter
    positions: ReadYourWrites
    auth: Authenticator
    reader: ManifestReader
    gatherer: SubmissionBatcher
    pressure: Backpressure
    rate: SubmitRate
    keys: QueueKeys
    clock: Clock
    clock_read_at: float = float("-inf")

    @classmethod
    def on(cls, router: ReadRouter, settings: Settings) -> Dependencies:
        """Parts that share a pool of connections to the primary."""
        pool = router.primary
        record = RestStore(pool, settings)
        return cls(
            settings=settings,
            record=record,
            router=router,
            positions=ReadYourWrites(settings),
            auth=Authenticator(ApiKeys(pool)),
            reader=ManifestReader(operator_namespace=settings.namespace),
            gatherer=SubmissionBatcher(record, router.position),
            pressure=Backpressure(record, settings),
            rate=SubmitRate(record),
            keys=QueueKeys(settings),
            clock=Clock(record),
        )

    async def now(self) -> int:
        """The database's time in µs."""
        loop = asyncio.get_running_loop()
        if loop.time() - self.clock_read_at > CLOCK_EVERY:
            await self.clock.refresh()
            self.clock_read_at = loop.time()
        return self.clock.now()

    async def visible(self, id_: str, principal: Principal, reads: Reads) -> WorkloadRow:
        """The workload, if the principal may know of it; else Problem (404)."""
        row = await reads.get_workload(id_)
        if row is None or not principal.sees(row.customer):
            raise Problem(NOT_FOUND, "there is no workload with this id")
        return row

    async def known_customer(self, name: str) -> CustomerRow:
        """A Customer; Problem (404) when the leader knows none of that name."""
        found = await self.pressure.customer(name)
        if found is None:
            raise Problem(NOT_FOUND, f"there is no Customer {name}")
        return found


async def bounded(work: Coroutine[Any, Any, T], seconds: float = PATIENCE) -> T:
    """The result of `work`, or Problem (503) in time. Late work goes on by itself: cancelling it would make the driver
    ask a hung server to cancel, and wait for that.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(_forget)
        detail = "no answer in time; whether a change was made is not known, send it again with its Idempotency-Key"
        raise Problem(UNAVAILABLE, detail, retry_after=2)
    return task.result()


def _forget(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


class BoundedRoute(APIRoute):
    """A route without a body to wait for: the whole handler answers within PATIENCE."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            return await bounded(handler(request))

        return answer


async def dependencies(request: Request) -> Dependencies:
    """The process's parts. (Not a plain function: FastAPI would send it to a thread.)"""
    found: Dependencies = request.app.state.services
    return found


async def anyone(request: Request) -> Principal:
    """Who asks, autoscalers too; Problem (401)."""
    return await bounded((await dependencies(request)).auth.principal(request))


async def principal(request: Request) -> Principal:
    """Who asks; Problem (401), and 403 for the keys of autoscalers: what they may read takes `Observer`."""
    found = await anyone(request)
    if found.observer:
        raise Problem(FORBIDDEN, "a key of role metrics reads the figures of pools and nothing else")
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
            description="From the answer to a write: show at least that.",
            json_schema_extra={"pattern": PATTERN},
        ),
    ] = None,
) -> Reads:
    """Reads that may be up to max_replica_lag behind, though never behind the caller's own writes; Problem (400)."""
    return parts.router.reads(parts.positions.wanted(position, caller.customer))


MayBeStale = Annotated[Reads, Depends(stale_reads)]
"""For what is only looked at. What is decided on is read from `Services.record`."""
Observer = Annotated[Principal, Depends(anyone)]


def answer(view: ResponseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A view as JSON; it isn't validated again."""
    return raw(view.model_dump(mode="json", by_alias=True), status, headers)


def raw(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON values as they are."""
    return Response(orjson.dumps(body), status, headers, "application/json")
