"""The custom.metrics.k8s.io adapter's server: TLS with certificates that change at run time, and limits.

When its certificate or the callers' authorities change, a new server takes over the listening socket, and the old one
ends with all its connections once it has sent its responses. `certificate_watcher` provides the certificates; `routes`
answers.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from aiohttp import web
from aiohttp.web_request import BaseRequest
from prometheus_client import Counter, Gauge, Histogram

from niyanta.custom_metrics.documents import StatusError, StatusReason
from niyanta.custom_metrics.front_proxy import FrontProxy
from niyanta.custom_metrics.routes import JSON, CustomMetricsRoutes, MetricQuery
from niyanta.observability import log

logger = log.get(__name__)

MOST_CONNECTIONS = 512
"""Further connections are closed at once, because the scheduler runs in the same process."""

MOST_OTHER_CONNECTIONS = 64
"""Most of these without a certificate of the front proxy: the rest is kept for API servers. A further one takes the
place of the oldest, and each is closed after its first response."""

HANDSHAKE_SECONDS = 10.0
"""Longest time for the TLS handshake, and again for the first request."""

IDLE_SECONDS = 120.0
"""Time for which an idle connection is kept; API servers send requests every 15 s."""

SHUTDOWN_SECONDS = 3.0
"""Time in which a replaced server finishes its responses."""

LONGEST_LINE_BYTES = 4096
"""Longest request line, and longest header."""

REQUESTS = Counter(
    "niyanta_adapter_requests_total",
    "Requests to the custom.metrics.k8s.io adapter by subject and status code",
    ["about", "code"],
)
SECONDS = Histogram(
    "niyanta_adapter_request_seconds",
    "Time the custom.metrics.k8s.io adapter took to answer",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 1.0),
)
EXPIRY = Gauge(
    "niyanta_adapter_certificate_expiry_timestamp_seconds", "Time at which the adapter's serving certificate expires"
)

PROBES = frozenset({"/healthz", "/readyz", "/livez"})


class AggregatedApiServer:
    """Listens once it has a certificate (`use`), until `stop`."""

    def __init__(self, api: CustomMetricsRoutes, *, host: str, port: int) -> None:
        self._api = api
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._serving: _Serving | None = None
        self._ends_at: dt.datetime | None = None
        self._trouble = "it has no certificate yet"

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it doesn't listen."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def problem(self) -> str:
        """The reason for which this replica can't serve API servers; "" if it can."""
        if self._serving is None:
            return self._trouble
        if self._ends_at is not None and dt.datetime.now(dt.UTC) > self._ends_at:
            return "its certificate has expired"
        return ""

    async def use(
        self, *, certificate: bytes, key: bytes, ends_at: dt.datetime, authentication: Mapping[str, str]
    ) -> None:
        """Serve with this certificate, and authenticate callers by the ConfigMap's data `authentication`.

        A certificate that can't be used is logged, and the former one stays in use.
        """
        front_proxy = FrontProxy.parse(authentication)
        if not front_proxy.authorities:
            logger.error("without authorities of callers, the metrics adapter refuses every request")
        try:
            context = await asyncio.to_thread(_context, certificate, key, front_proxy.authorities)
            await self._serve(context, front_proxy)
        except (ssl.SSLError, ValueError, OSError) as error:
            self._trouble = f"it can't serve: {error}"
            logger.error("the metrics adapter can't use its certificate", error=str(error))
            return
        self._ends_at = ends_at
        EXPIRY.set(ends_at.timestamp())
        logger.info("the metrics adapter serves", port=self.port, certificate_ends=ends_at.isoformat())

    async def stop(self) -> None:
        """Stop listening; running requests are finished."""
        if self._serving is not None:
            await self._serving.stop()
            self._serving = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _serve(self, context: ssl.SSLContext, front_proxy: FrontProxy) -> None:
        if self._socket is None:
            self._socket = _listen(*self._address)
        serving = _Serving(self._api, front_proxy)
        # Both servers accept from one queue for a moment, so that no connection is refused.
        await serving.start(self._socket.dup(), context)
        self._api.front_proxy = front_proxy
        old, self._serving = self._serving, serving
        if old is not None:
            await old.stop()


class _Serving:
    """One server with one TLS context. It never changes; it is replaced."""

    def __init__(self, api: CustomMetricsRoutes, front_proxy: FrontProxy) -> None:
        self._api = api
        self._front_proxy = front_proxy
        self._loop = asyncio.get_running_loop()
        self._http = web.Server(
            self._answer,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=0,
            max_line_size=LONGEST_LINE_BYTES,
            max_field_size=LONGEST_LINE_BYTES,
        )
        self._silent: set[asyncio.BaseProtocol] = set()
        """Connections without a request so far."""
        self._others: dict[web.RequestHandler, None] = {}
        """Connections that are not the front proxy's, the oldest first."""
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        self._server = await self._loop.create_server(
            self._accept, sock=listener, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS, backlog=128
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._http.pre_shutdown()  # idle connections
        await self._http.shutdown(SHUTDOWN_SECONDS)

    def _accept(self) -> asyncio.BaseProtocol:
        return _Entry(self._enter)

    def _enter(self, transport: asyncio.BaseTransport) -> None:
        """Give a connection whose handshake is done to the HTTP server, if there is room for it."""
        trusted = self._front_proxy.trusts(transport.get_extra_info("peercert"))
        if not trusted:
            self._make_room()
        elif len(self._http.connections) >= MOST_CONNECTIONS:
            transport.close()
            return
        protocol = self._http()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if not trusted:
            self._others[protocol] = None
        self._silent.add(protocol)
        self._loop.call_later(2 * HANDSHAKE_SECONDS, self._close_silent, protocol)

    def _make_room(self) -> None:
        """Close the oldest connection that is not the front proxy's, if there are too many of them."""
        for protocol in [other for other in self._others if other.transport is None]:  # closed
            del self._others[protocol]
        if len(self._others) >= MOST_OTHER_CONNECTIONS:
            oldest = next(iter(self._others))
            del self._others[oldest]
            if oldest.transport is not None:
                oldest.transport.abort()

    def _close_silent(self, protocol: web.RequestHandler) -> None:
        """Close a connection that has sent no request; aiohttp would wait for ever."""
        if protocol in self._silent:
            self._silent.discard(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()

    async def _answer(self, request: BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        self._silent.discard(request.protocol)
        if request.path in PROBES:
            return self._closing(request, web.Response(text="ok"))
        query = MetricQuery(
            method=request.method,
            path=request.rel_url.raw_path,
            query=request.query,
            headers=request.headers,
            certificate=request.get_extra_info("peercert"),
        )
        try:
            answer = self._api.answer(query)
        except Exception:
            logger.exception("the metrics adapter failed to answer", path=query.path[:200])
            failure = StatusError(StatusReason.INTERNAL_ERROR, "the metrics adapter failed; its log has the error")
            return self._closing(request, web.json_response(failure.document(), status=500))
        REQUESTS.labels(answer.about, str(answer.status)).inc()
        SECONDS.observe(time.perf_counter() - started)
        response = web.Response(
            status=answer.status, body=answer.body or None, headers={"Content-Type": JSON, **answer.headers}
        )
        return self._closing(request, response)

    def _closing(self, request: BaseRequest, response: web.Response) -> web.Response:
        """The response, which ends the connection unless it is the front proxy's."""
        if request.protocol in self._others:
            response.force_close()
        return response


class _Entry(asyncio.Protocol):
    """A connection until the end of its TLS handshake, when its certificate is known."""

    def __init__(self, enter: Callable[[asyncio.BaseTransport], None]) -> None:
        self._enter = enter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._enter(transport)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=host == "::")
    listener.setblocking(False)
    return listener


def _context(certificate: bytes, key: bytes, authorities: str) -> ssl.SSLContext:
    """TLS context for a certificate and the authorities of callers. Raises ssl.SSLError, ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if authorities:
        # Optional, so that a client without a certificate gets an explanation; an invalid one ends the handshake.
        context.verify_mode = ssl.CERT_OPTIONAL
        # Trust intermediate authorities in the ConfigMap, as API servers do.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=authorities)
    with tempfile.TemporaryDirectory() as folder:  # the ssl module reads only files
        chain = Path(folder) / "tls.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(key + b"\n" + certificate)
        context.load_cert_chain(chain)
    return context
