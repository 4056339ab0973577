"""The HTTP server of /metrics, /healthz and /readyz, and the measurement of the event loop's stalls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import Histogram

from niyanta.observability.gauges import CONTENT_TYPE, render

STALL_SECONDS = Histogram(
    "niyanta_loop_stall_seconds",
    "Delay with which a timer of the event loop fired",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)

TICK_SECONDS = 0.02
"""Period of the timer that measures stalls."""

Check = Callable[[], str]
"""Returns the problem; "" without one."""


class Exporter:
    """The HTTP server of an operator process."""

    def __init__(self, *, host: str, port: int, alive: Check, ready: Check) -> None:
        self._host = host
        self._port = port
        self._checks = {"/healthz": alive, "/readyz": ready}
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Start listening."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        for path in self._checks:
            app.router.add_get(path, self._check)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await asyncio.to_thread(render), headers={"Content-Type": CONTENT_TYPE})

    async def _check(self, request: web.Request) -> web.Response:
        problem = self._checks[request.path]()
        return web.Response(text=(problem or "ok") + "\n", status=503 if problem else 200)


async def measure_stalls() -> None:
    """Measure until cancelled with which delay a timer fires."""
    while True:
        due = time.monotonic() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        STALL_SECONDS.observe(max(0.0, time.monotonic() - due))
