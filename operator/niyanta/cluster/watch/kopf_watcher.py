"""Watches the custom resources with kopf, in a thread of its own, and passes on every event.

Only `on.event` is used, which neither writes to the objects nor needs finalizers. kopf ends on lasting errors; the
supervisor starts it again. Deletions that a broken watch missed are found by lists (`resource_lists`,
`deleted_workloads`).
"""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import kopf
import uvloop

from niyanta.aio import Backoff
from niyanta.cluster.api.connection import authorization, load_configuration
from niyanta.cluster.api.kinds import ResourceKind
from niyanta.cluster.watch.bounded_session import BoundedResponse
from niyanta.containment import Boundary, contained
from niyanta.observability import log
from niyanta.settings import Settings

logger = log.get(__name__)

Listener = Callable[[str, Mapping[str, Any]], None]
"""Called in kopf's thread with the event's type ("" when listed, ADDED, MODIFIED, DELETED) and the object."""

LONGEST_RESTART_SECONDS = 10.0
"""Longest pause before kopf is started again, and before it repeats a failed request."""

CHUNK_OBJECTS = 250
"""Objects in a page of kopf's lists, which limits the memory that large objects take."""

HEALTHY_SECONDS = 60.0
"""After kopf ran for longer than this, the restart pauses begin again with the shortest."""


class KopfWatcher:
    """Runs kopf under supervision; `alive` and `ready` are for probes."""

    def __init__(self, settings: Settings, listeners: Mapping[ResourceKind, Listener]) -> None:
        self._settings = settings
        self._listeners = dict(listeners)
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="kopf", daemon=True)

    @property
    def alive(self) -> bool:
        """True while the supervisor's thread runs."""
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """True once kopf has started its watches."""
        return self._ready.is_set()

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self, *, at_most_seconds: float = 5.0) -> None:
        """End the watches; waits for `at_most_seconds`."""
        self._stop.set()
        self._thread.join(at_most_seconds)

    def _supervise(self) -> None:
        backoff = Backoff(first_seconds=1.0, longest_seconds=LONGEST_RESTART_SECONDS)
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                uvloop.run(
                    kopf.operator(
                        registry=self._registry(),
                        settings=_kopf_settings(),
                        clusterwide=True,
                        standalone=True,
                        stop_flag=self._stop,
                        ready_flag=self._ready,
                    )
                )
            except Exception as error:  # kopf is started again after any error
                logger.warning("kopf ended; starting it again", error=f"{type(error).__name__}: {error}")
            if self._stop.is_set():
                return
            if time.monotonic() - started > HEALTHY_SECONDS:
                backoff.reset()
            self._stop.wait(backoff.next())

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        settings = self._settings

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            return bounded_session(await asyncio.to_thread(connection_info, settings))

        for kind, listener in self._listeners.items():
            self._watch(registry, kind, listener)
        return registry

    @staticmethod
    def _watch(registry: kopf.OperatorRegistry, kind: ResourceKind, listener: Listener) -> None:
        @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=f"event-{kind.plural}")
        async def on_event(event: Any, **_: Any) -> None:
            obj = event["object"]
            meta = obj.get("metadata") or {}
            with contained(Boundary.LISTENER, f"{kind.plural} {meta.get('namespace', '')}/{meta.get('name', '')}"):
                listener(event.get("type") or "", obj)


def connection_info(settings: Settings) -> kopf.ConnectionInfo:
    """The connection for kopf. It expires soon, because ServiceAccount tokens rotate on disk."""
    loaded = load_configuration(settings.kubeconfig)
    scheme, _, token = authorization(loaded).partition(" ")
    return kopf.ConnectionInfo(
        server=loaded.host.rstrip("/"),
        ca_path=loaded.ssl_ca_cert or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=loaded.cert_file or None,
        private_key_path=loaded.key_file or None,
        insecure=None if loaded.verify_ssl else True,
        expiration=datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=10),
    )


def bounded_session(info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
    """A session to the API server that passes on bounded JSON; call from kopf's loop. kopf closes it."""
    return kopf.AiohttpSession(
        server=info.server,
        expiration=info.expiration,
        aiohttp_session=aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=info.as_http_headers(),
            response_class=BoundedResponse,
            cookie_jar=aiohttp.DummyCookieJar(),
        ),
    )


class NoProgress(kopf.ProgressStorage):
    """No progress storage: `on.event` has no state, and looking for it takes half the time of an event."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


class NoDiffBase(kopf.DiffBaseStorage):
    """No storage of the last handled state either."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.networking.error_backoffs = Backoff(first_seconds=0.5, longest_seconds=LONGEST_RESTART_SECONDS)
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.finalizer = "niyanta.io/unused"
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    settings.scanning.disabled = True
    settings.watching.chunk_size = CHUNK_OBJECTS
    return settings
