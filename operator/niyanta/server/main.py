"""`niyanta api`: the application under uvicorn, with health and metrics on a second port."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import uvicorn

from niyanta.server.app import create_app, create_ops_app
from niyanta.settings import Settings

SHUTDOWN_GRACE_SECONDS = 10
"""Time that requests in flight have after SIGTERM."""


class _Server(uvicorn.Server):
    """A server without signal handlers: `serve` handles the signals, and exits with 0 after SIGTERM."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    app = create_app(settings)
    main = _Server(_config(app, settings, host=settings.api_host, port=settings.api_port, tls=True))
    ops = _Server(_config(create_ops_app(app), settings, host=settings.metrics_host, port=settings.metrics_port))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, main)
    side = asyncio.create_task(_after_start(main, ops), name="ops-server")
    try:
        await main.serve()
    finally:
        ops.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await side
    return 0 if main.started else 1


def _stop(server: uvicorn.Server) -> None:
    """Finish requests in flight and stop; a second signal stops at once."""
    server.force_exit = server.should_exit
    server.should_exit = True


async def _after_start(main: uvicorn.Server, ops: uvicorn.Server) -> None:
    """Open the second port once the application on the first one has started."""
    while not main.started:
        if main.should_exit or ops.should_exit:
            return
        await asyncio.sleep(0.02)
    await ops.serve()


def _config(app: object, settings: Settings, *, host: str, port: int, tls: bool = False) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
        lifespan="on" if tls else "off",
        ssl_certfile=(settings.api_tls_cert or None) if tls else None,
        ssl_keyfile=(settings.api_tls_key or None) if tls else None,
    )
