"""Limits on connections, which uvicorn lacks: their number, in all and from one address, and the time and size of
request headers, of what follows an early response, and of unread responses.

A connection is in one state at a time, and each state but that of a request in progress has a deadline. One timer
compares the deadlines; so a connection costs an assignment for each change of state, and no timers of its own.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter as Multiset
from collections.abc import Callable
from typing import Any

from prometheus_client import Gauge
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from niyanta.server.limits.budgets import LIMITED
from niyanta.settings import Settings

CONNECTIONS = Gauge("niyanta_api_connections", "Open connections to the REST door")

CHECK_SECONDS = 0.5
"""Time between two comparisons of the deadlines."""
LINGER_SECONDS = 5.0
"""Time in which a client sends the rest of a body that was refused, so that it can read the response before."""
UNREAD_SECONDS = 30.0
"""Time in which a client reads the part of a response that is ready."""
MAX_HEAD_BYTES = 64 * 1024
"""Most bytes of a request's line and headers, and of what a body has beside its content, such as trailers."""
FRAMING_BYTES_PER_BYTE = 8
"""Further bytes beside a body's content for each byte of it: a chunk of one byte has five."""

_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class ConnectionState(enum.Enum):
    """Part of a request that a connection is at."""

    IDLE = "idle"
    """Between requests, or before the first one."""
    HEADERS = "headers"
    """Part of a request's headers has arrived."""
    REQUEST = "request"
    """The application has the request; it limits the time of the body."""
    REST = "rest"
    """The response was sent before the end of the body."""


class ConnectionGuard:
    """All connections of one server. `run` closes those whose deadline has passed."""

    def __init__(self, settings: Settings) -> None:
        self.header_seconds = settings.api_header_timeout
        self.idle_seconds = settings.api_keep_alive
        self._most = settings.api_max_connections
        self._most_of_peer = settings.api_max_connections_per_peer
        self._open: dict[GuardedConnection, str] = {}
        """Connection -> peer's address, in order of opening."""
        self._of_peer: Multiset[str] = Multiset()

    def admit(self, connection: GuardedConnection, peer: str) -> bool:
        """Count a new connection. At a limit, it takes the place of the one that has been without a request in progress
        for longest; False if all have one."""
        if self._of_peer[peer] >= self._most_of_peer:
            LIMITED.labels("peer_connections").inc()
            if not self._evict(peer):
                return False
        elif len(self._open) >= self._most:
            LIMITED.labels("connections").inc()
            if not self._evict(None):
                return False
        self._open[connection] = peer
        self._of_peer[peer] += 1
        CONNECTIONS.set(len(self._open))
        return True

    def remove(self, connection: GuardedConnection) -> None:
        """The connection is closed."""
        peer = self._open.pop(connection, None)
        if peer is not None:
            self._of_peer[peer] -= 1
            if not self._of_peer[peer]:
                del self._of_peer[peer]
            CONNECTIONS.set(len(self._open))

    def _evict(self, peer: str | None) -> bool:
        """Close the connection (of one peer) that has been without a request for longest; False if all have one."""
        waiting = [
            connection
            for connection, its_peer in self._open.items()
            if connection.state is not ConnectionState.REQUEST and peer in (None, its_peer)
        ]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda connection: connection.since)
        self.remove(oldest)
        oldest.transport.abort()
        return True

    async def run(self) -> None:
        """Close connections whose deadline has passed, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = loop.time()
            for connection in list(self._open):
                if connection.deadline is not None and connection.deadline < now:
                    if connection.state is not ConnectionState.IDLE:
                        LIMITED.labels(f"connection_{connection.state.value}").inc()
                    connection.transport.abort()


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's protocol with the guard's limits."""

    def __init__(self, guard: ConnectionGuard, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._guard = guard
        self.state = ConnectionState.IDLE
        self.since = self.loop.time()
        """Time of the last change of state."""
        self.deadline: float | None = None
        self._before_pause: float | None = None
        self._body_ended = True
        self._overhead = 0
        """Bytes that arrived since the last request began, less those of its body that count."""

    def _enter(self, state: ConnectionState, seconds: float | None) -> None:
        self.state = state
        self.since = self.loop.time()
        self.deadline = None if seconds is None else self.since + seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # A connection that sends nothing has the time of a header only.
        self._enter(ConnectionState.IDLE, self._guard.header_seconds)
        if not self._guard.admit(self, self.client[0] if self.client else ""):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.remove(self)
        self.deadline = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.state is ConnectionState.IDLE:
            self._overhead = 0
            self._enter(ConnectionState.HEADERS, self._guard.header_seconds)
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > MAX_HEAD_BYTES and not self.transport.is_closing():
            LIMITED.labels("header_bytes").inc()
            if self.state is ConnectionState.HEADERS:
                self.transport.write(_TOO_LONG)
                self.transport.close()
            else:
                self.transport.abort()

    # --- The parser's callbacks --------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        self._body_ended = False
        self._enter(ConnectionState.REQUEST, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead = max(-MAX_HEAD_BYTES, self._overhead - len(body) * (1 + FRAMING_BYTES_PER_BYTE))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_ended = True
        self._overhead = min(self._overhead, 0)
        if self.state is ConnectionState.REST:
            self._enter(ConnectionState.IDLE, self._guard.idle_seconds)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        another = bool(self.pipeline)
        super().on_response_complete()
        if another:
            return
        if self._body_ended:
            self._enter(ConnectionState.IDLE, self._guard.idle_seconds)
        else:
            self._enter(ConnectionState.REST, LINGER_SECONDS)

    # --- Responses that are not read ---------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._before_pause = self.deadline
        self.deadline = self.loop.time() + UNREAD_SECONDS
        super().pause_writing()

    def resume_writing(self) -> None:
        self.deadline = self._before_pause
        super().resume_writing()


def guarded(guard: ConnectionGuard, **kwargs: Any) -> Callable[[], asyncio.Protocol]:
    """Factory of the protocols of one server; `kwargs` are uvicorn's."""
    return lambda: GuardedConnection(guard, **kwargs)
