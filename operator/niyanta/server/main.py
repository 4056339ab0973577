"""`niyanta api`: the application under uvicorn, with health and metrics on a second port.

`limits.connections` bounds the connections of both ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from niyanta.observability import log
from niyanta.server.app import create_app, create_ops_app
from niyanta.server.limits.connections import ConnectionGuard, guarded
from niyanta.settings import Settings

logger = log.get(__name__)

SHUTDOWN_GRACE_SECONDS = 10
"""Time that requests in flight have after SIGTERM."""


class ApiServer(uvicorn.Server):
    """A server with guarded connections, and without signal handlers: `serve` handles the signals, and exits with 0
    after SIGTERM."""

    def __init__(self, config: uvicorn.Config, guard: ConnectionGuard) -> None:
        super().__init__(config)
        self._guard = guard
        self._guarding: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with a limit on the time of a TLS handshake, which uvicorn has no option for."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        config = self.config
        make = guarded(self._guard, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        try:
            server = await asyncio.get_running_loop().create_server(
                make,
                host=config.host,
                port=config.port,
                ssl=config.ssl,
                ssl_handshake_timeout=self._guard.header_seconds if config.ssl else None,
                backlog=config.backlog,
            )
        except OSError as error:
            logger.error("the server can't listen", host=config.host, port=config.port, error=str(error))
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self.servers = [server]
        self._guarding = asyncio.create_task(self._guard.run(), name="connection-guard")
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; connections are guarded until the end."""
        await super().shutdown(sockets)
        if self._guarding is not None:
            self._guarding.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    app = create_app(settings)
    main = ApiServer(
        server_config(app, settings, host=settings.api_host, port=settings.api_port, tls=True),
        ConnectionGuard(settings),
    )
    ops = ApiServer(
        server_config(create_ops_app(app), settings, host=settings.metrics_host, port=settings.metrics_port),
        ConnectionGuard(settings),
    )
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


def server_config(app: object, settings: Settings, *, host: str, port: int, tls: bool = False) -> uvicorn.Config:
    """uvicorn's configuration for an ASGI application; `tls`: with its lifespan, and TLS if there is a certificate."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=round(settings.api_keep_alive) + 1,  # the guard is earlier
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
        lifespan="on" if tls else "off",
        ssl_certfile=(settings.api_tls_cert or None) if tls else None,
        ssl_keyfile=(settings.api_tls_key or None) if tls else None,
    )
