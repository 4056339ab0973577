"""Address, certificates and credentials of the API server, from a kubeconfig or from the pod's ServiceAccount.

The `kubernetes` package reads the configuration; `transport` and `reflector` open their sessions here.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import structlog
from kubernetes.client import Configuration
from kubernetes.config import load_incluster_config, load_kube_config

from niyanta import __version__
from niyanta.settings import Settings

TOKEN_LIFETIME_SECONDS = 60.0
"""Time after which credentials are read again, because ServiceAccount tokens rotate on disk."""

log = structlog.get_logger(__name__)


class Credentials:
    """The Authorization header, read again every minute in a thread (a file, a kubeconfig or an exec plugin)."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._value = read()
        self._read_at = time.monotonic()
        self._refreshing = asyncio.Lock()

    async def headers(self) -> dict[str, str]:
        """Headers to send; empty with client certificates alone."""
        if self._value and time.monotonic() - self._read_at > TOKEN_LIFETIME_SECONDS:
            await self.refresh(older_than=self._read_at)
        return {"Authorization": self._value} if self._value else {}

    @property
    def read_at(self) -> float:
        """Monotonic time of the last reading."""
        return self._read_at

    async def refresh(self, *, older_than: float) -> None:
        """Read again unless it was done since `older_than`. If reading fails, the old value stays for a minute more."""
        async with self._refreshing:
            if self._read_at > older_than:
                return
            try:
                self._value = await asyncio.to_thread(self._read)
            except Exception as error:  # plugins and files fail in many ways, and the old token may still be valid
                log.warning("credentials_not_read", error=str(error))
            self._read_at = time.monotonic()


@dataclass(frozen=True, slots=True)
class Connection:
    """Everything needed to talk to one API server. `tls` is None for plain http (tests, kubectl proxy)."""

    host: str
    tls: ssl.SSLContext | None
    credentials: Credentials
    server_hostname: str | None = None

    def session(self, *, limit: int) -> aiohttp.ClientSession:
        """A new session with at most `limit` connections; call from a running loop, close it yourself."""
        connector = aiohttp.TCPConnector(limit=limit, ssl=self.tls or True, keepalive_timeout=30.0, ttl_dns_cache=60)
        return aiohttp.ClientSession(
            connector=connector,
            # Compression costs both sides more CPU than a local network saves.
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"niyanta/{__version__}",
            },
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=2**18,
        )


def connect(settings: Settings) -> Connection:
    """Load the configuration that `settings` names. Raises kubernetes.config.ConfigException if it doesn't exist."""
    configuration = load_configuration(settings.kubeconfig)
    return Connection(
        host=configuration.host.rstrip("/"),
        tls=_tls(configuration),
        credentials=Credentials(lambda: authorization(load_configuration(settings.kubeconfig))),
        server_hostname=configuration.tls_server_name,
    )


def load_configuration(kubeconfig: str) -> Configuration:
    """The configuration of a kubeconfig file; "": of the pod's own ServiceAccount."""
    configuration = Configuration()
    if kubeconfig:
        load_kube_config(config_file=kubeconfig, client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return configuration


def authorization(configuration: Configuration) -> str:
    """Value of the Authorization header; empty with client certificates alone."""
    for key in ("BearerToken", "authorization"):
        token = configuration.get_api_key_with_prefix(key)
        if token:
            return str(token).strip()
    if configuration.username and configuration.password:
        return str(configuration.get_basic_auth_token())
    return ""


def _tls(configuration: Configuration) -> ssl.SSLContext | None:
    if not configuration.host.startswith("https:"):
        return None
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    # Cluster CAs of older tools lack key identifiers, which Python requires since 3.13.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context
