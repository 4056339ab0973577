"""The HTTP server of /metrics, /healthz and /readyz, and the measurement of the event loop's stalls.

/metrics names customers and pools: with a token (`metrics_token_file`) only callers that send it may read it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import Histogram

from niyanta.observability.gauges import CONTENT_TYPE, render
from niyanta.observability.metrics_token import MetricsToken

STALL_SECONDS = Histogram(
    "niyanta_loop_stall_seconds",
    "Delay with which a timer of the event loop fired",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)

TICK_SECONDS = 0.02
"""Period of the timer that measures stalls."""

Check = Callable[[], str]
"""Returns the problem; "" without one."""

MOST_CONNECTIONS = 128
"""A further connection takes the place of the oldest one: probes and scrapers send a request at once."""


class Exporter:
    """The HTTP server of an operator process."""

    def __init__(self, *, host: str, port: int, alive: Check, ready: Check, token_file: str = "") -> None:
        self._host = host
        self._port = port
        self._checks = {"/healthz": alive, "/readyz": ready}
        self._token = MetricsToken(token_file)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._rendering: asyncio.Task[bytes] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Start listening."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        for path in self._checks:
            app.router.add_get(path, self._check)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(self._accept, self._host, self._port)

    def _accept(self) -> asyncio.BaseProtocol:
        assert self._runner is not None
        assert self._runner.server is not None
        connections = self._runner.server.connections
        if len(connections) >= MOST_CONNECTIONS and (transport := connections[0].transport) is not None:
            transport.abort()
        return self._runner.server()

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        problem = self._token.problem(request.headers.get("Authorization", ""))
        if problem:
            return web.Response(text=problem + "\n", status=401, headers={"WWW-Authenticate": "Bearer"})
        if self._rendering is None or self._rendering.done():
            self._rendering = asyncio.create_task(asyncio.to_thread(render))
        # Requests at the same time share one rendering.
        return web.Response(body=await asyncio.shield(self._rendering), headers={"Content-Type": CONTENT_TYPE})

    async def _check(self, request: web.Request) -> web.Response:
        problem = self._checks[request.path]()
        return web.Response(text=(problem or "ok") + "\n", status=503 if problem else 200)


async def measure_stalls() -> None:
    """Measure until cancelled with which delay a timer fires."""
    while True:
        due = time.monotonic() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        STALL_SECONDS.observe(max(0.0, time.monotonic() - due))
