"""HTTP requests to the API server: concurrency limit, throttling, timeouts, metrics and typed errors.

`client`, `status_apply` and `old_objects` use it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar
from urllib.parse import urlencode

import aiohttp
from prometheus_client import Counter, Histogram
from yarl import URL

from niyanta.bounded_json import BoundedJsonError
from niyanta.cluster.api.connection import Connection
from niyanta.cluster.api.errors import ApiError, NotSentError, OutcomeUnknownError, WritesClosedError, error_from
from niyanta.cluster.api.kinds import ResourceKind

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Accept header of an object's metadata."""
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Accept header of a list of metadata."""

LIST_TIMEOUT_SECONDS = 60.0
"""Longest time for a page of a list."""

THROTTLE_ATTEMPTS = 4
THROTTLE_LONGEST_SECONDS = 5.0
"""Longest wait after one 429, even if Retry-After is longer. After the last attempt the caller gets the 429."""

T = TypeVar("T")

REQUEST_SECONDS = Histogram(
    "niyanta_kubernetes_request_seconds",
    "Latency of requests to the API server, one observation per request sent",
    ["verb", "resource", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
THROTTLED = Counter("niyanta_kubernetes_throttled_total", "Answers 429 by the API server", ["verb", "resource"])
IN_FLIGHT_WAIT = Histogram(
    "niyanta_kubernetes_slot_wait_seconds",
    "Time a request waited for one of the client's own slots",
    buckets=(0.0001, 0.001, 0.01, 0.1, 1, 10),
)


class Transport:
    """Sends requests over one session. At most `connections` run at a time; further ones wait in order."""

    def __init__(
        self, connection: Connection, *, connections: int, request_timeout: float, may_write: Callable[[], bool] | None
    ) -> None:
        self._connection = connection
        self._limit = connections
        self._timeout = request_timeout
        self._may_write = may_write
        self._slots = asyncio.Semaphore(connections)
        self._session: aiohttp.ClientSession | None = None
        self._observers: dict[tuple[str, str, int], Callable[[float], None]] = {}

    async def open(self) -> None:
        """Open the session; needs a running event loop."""
        self._session = self._connection.session(limit=self._limit)

    async def close(self) -> None:
        """Close the session; running requests fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        resource: str,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: float | None = None,  # noqa: ASYNC109 - it also goes to the server, as a query parameter
    ) -> bytes:
        """Send a request and return the body of a 2xx response; others raise ApiError or a subclass.

        After a 429 (the request wasn't carried out) it is repeated, after a 401 once with credentials read again. The
        timeout is sent to the server too, so that it drops a queued write at about the time we stop waiting for it.
        """
        seconds = timeout or self._timeout
        query = dict(params or ())
        if method != "GET":
            query["timeout"] = f"{int(seconds * 1000)}ms"
        target = f"{self._connection.host}{path}"
        url = URL(f"{target}?{urlencode(query)}" if query else target, encoded=True)
        refreshed = False
        for attempt in range(THROTTLE_ATTEMPTS):
            try:
                return await self._once(method, url, verb, resource, body, (accept, content_type), seconds)
            except ApiError as error:
                if error.status == 401 and not refreshed:
                    refreshed = True
                    credentials = self._connection.credentials
                    await credentials.refresh(older_than=credentials.read_at)
                    continue
                if error.status != 429 or attempt == THROTTLE_ATTEMPTS - 1:
                    raise
                THROTTLED.labels(verb, resource).inc()
                asked = min(error.retry_after or 1.0, THROTTLE_LONGEST_SECONDS)
            # Jitter spreads requests that were throttled together; the wait is never shorter than the server requested.
            await asyncio.sleep(asked * random.uniform(1.0, 1.5))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    async def pages(
        self,
        kind: ResourceKind,
        read: Callable[[bytes], tuple[T, str]],
        *,
        namespace: str = "",
        params: Mapping[str, str],
        accept: str = JSON,
    ) -> AsyncIterator[T]:
        """The pages of a list. `read` makes a page and the token of the next one (empty at the end) of an answer; it
        runs in a thread, because users choose the size of objects. Raises ApiError."""
        query = dict(params)
        while True:
            answer = await self.send(
                "GET",
                kind.path(namespace),
                verb="list",
                resource=kind.plural,
                params=query,
                accept=accept,
                timeout=LIST_TIMEOUT_SECONDS,
            )
            try:
                page, token = await asyncio.to_thread(read, answer)
            except BoundedJsonError as error:
                raise OutcomeUnknownError(f"the list can't be read: {error}") from error
            del answer
            yield page
            if not token:
                return
            query["continue"] = token

    async def _once(
        self,
        method: str,
        url: URL,
        verb: str,
        resource: str,
        body: bytes | None,
        types: tuple[str, str],
        seconds: float,
    ) -> bytes:
        """Send a request once. `types`: the headers Accept and, with a body, Content-Type."""
        session = self._session
        if session is None:
            raise NotSentError("the client is closed")
        headers = {**await self._connection.credentials.headers(), "Accept": types[0]}
        if body is not None:
            headers["Content-Type"] = types[1]
        waiting_since = time.monotonic()
        async with self._slots:
            started = time.monotonic()
            IN_FLIGHT_WAIT.observe(started - waiting_since)
            # Checked last, after every wait: no write may be sent after leadership was lost.
            if method != "GET" and self._may_write is not None and not self._may_write():
                raise WritesClosedError
            code = 0
            try:
                async with session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=seconds * 0.8),
                    server_hostname=self._connection.server_hostname,
                ) as response:
                    code = response.status
                    answer = await response.read()
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                raise NotSentError(str(error) or type(error).__name__) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if code >= 400:  # the status arrived, only the body was cut off
                    raise error_from(code, b"") from error
                raise OutcomeUnknownError(str(error) or f"no answer within {seconds:g} s") from error
            finally:
                self._observe(verb, resource, code, time.monotonic() - started)
        if 200 <= code < 300:
            return answer
        raise error_from(code, answer, response.headers.get("Retry-After"))

    def _observe(self, verb: str, resource: str, code: int, seconds: float) -> None:
        key = (verb, resource, code)
        observer = self._observers.get(key)
        if observer is None:  # kept, because `labels` costs more than `observe`
            observer = self._observers[key] = REQUEST_SECONDS.labels(verb, resource, str(code)).observe
        observer(seconds)
