"""Keeps the objects of one kind in memory: a chunked list, then watches.

`ClusterCache` owns the reflectors and gets their changes in batches. Every change of the store is reported as one
`ObjectChange`, also the deletions that a list finds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic
from urllib.parse import urlencode

import aiohttp
import structlog
from prometheus_client import Counter
from yarl import URL

from niyanta.aio import Backoff, in_slices
from niyanta.cluster.api.connection import Connection
from niyanta.cluster.api.errors import ApiError, NotSentError, error_from
from niyanta.cluster.api.kinds import ResourceKind
from niyanta.cluster.api.objects import UNDECODABLE, Key, Page, T
from niyanta.cluster.watch.object_decoder import ExpiredError, ObjectDecoder, watch_error
from niyanta.cluster.watch.object_store import ObjectChange, ObjectStore
from niyanta.containment import Boundary, contained

log = structlog.get_logger(__name__)

EVENTS = Counter("niyanta_watch_events_total", "Watch events taken in, bookmarks too", ["resource"])
RESTARTS = Counter("niyanta_watch_restarts_total", "Watches that ended, by why", ["resource", "why"])
RELISTS = Counter("niyanta_relists_total", "Complete lists", ["resource"])


@dataclass(frozen=True, slots=True)
class ReflectorSettings:
    """Sizes and times (seconds). Only tests change them."""

    chunk: int = 500
    slice_events: int = 256
    """Events parsed and reported before other tasks of the event loop run (about 10 ms)."""
    watch_seconds: float = 300.0
    """Time after which the server ends a watch, so that watches spread over API servers again."""
    idle_seconds: float = 100.0
    """A watch without data for longer than this is dead; bookmarks come about every minute."""
    list_seconds: float = 60.0
    backoff_first: float = 0.2
    backoff_longest: float = 10.0


METADATA_ONLY = "application/json;as={form};g=meta.k8s.io;v=v1"
"""Accept header for metadata alone. A server answers a watch for the form of lists with errors, so each has its own
form."""

HEALTHY_SECONDS = 5.0
"""After a watch that lived longer than this, the pauses begin again with the shortest."""


class Reflector(Generic[T]):
    """Keeps `store` equal to the API server's objects of one kind. Run `run()` as a task; cancel it to stop."""

    def __init__(
        self,
        connection: Connection,
        kind: ResourceKind,
        model: type[T],
        on_changes: Callable[[list[ObjectChange[T]]], None],
        *,
        label_selector: str = "",
        metadata_only: bool = False,
        slim: Callable[[T], T] | None = None,
        settings: ReflectorSettings | None = None,
    ) -> None:
        """`on_changes` is called in the event loop with each batch, after the store has changed. `metadata_only`: the
        server sends the metadata of the objects alone. `slim` drops what nobody reads from an object."""
        self._connection = connection
        self._kind = kind
        self._on_changes = on_changes
        self._selector = {"labelSelector": label_selector} if label_selector else {}
        self._metadata_only = metadata_only
        self._settings = settings or ReflectorSettings()
        self._slim = slim
        self._decoder = ObjectDecoder(kind.plural, model)
        self._session: aiohttp.ClientSession | None = None
        self._response: aiohttp.ClientResponse | None = None

        self.objects: ObjectStore[T] = ObjectStore()
        self.synced = asyncio.Event()
        self.last_contact = 0.0
        """Monotonic time of the last bytes from the server; 0 before the first."""
        self.events = 0
        self.relists = 0

        self._wanted = 0
        self._done = 0
        self._relisted = asyncio.Condition()
        self._wake = asyncio.Event()
        self._interrupted = False
        self._watching_since = 0.0

    # --- public methods ----------------------------------------------------------------------------------------------

    @property
    def resource(self) -> str:
        """Name of the resource, in the plural."""
        return self._kind.plural

    @property
    def unreadable(self) -> int:
        """Number of objects that could not be decoded."""
        return self._decoder.unreadable

    @property
    def store(self) -> dict[Key, T]:
        """All objects by (namespace, name). Read only."""
        return self.objects.store

    def assume(self, obj: T) -> bool:
        """Take in an object from the response to a create, ahead of the watch (see ObjectStore.assume)."""
        changes: list[ObjectChange[T]] = []
        taken = self.objects.assume(obj, changes)
        self._report(changes)
        return taken

    async def relist_consistent(self) -> None:
        """List again by a quorum read and return when the store is at least as new as this call. Interrupts the
        watch."""
        self._wanted += 1
        mine = self._wanted
        self._interrupted = True
        self._wake.set()
        if self._response is not None:
            self._response.close()
        async with self._relisted:
            await self._relisted.wait_for(lambda: self._done >= mine)

    async def run(self) -> None:
        """List and watch until cancelled. No error ends it: each is followed by a jittered wait of at most 10 s."""
        settings = self._settings
        backoff = Backoff(first_seconds=settings.backoff_first, longest_seconds=settings.backoff_longest)
        async with self._connection.session(limit=4) as session:
            self._session = session
            while True:
                events, self._watching_since = self.events, 0.0
                why, asked = await self._list_and_watch()
                RESTARTS.labels(self._kind.plural, why).inc()
                if self._interrupted:
                    self._interrupted = False
                    continue
                # A watch that brought events or lived for a while was healthy.
                lived = self._watching_since and time.monotonic() - self._watching_since > HEALTHY_SECONDS
                healthy = lived or self.events > events
                if healthy:
                    backoff.reset()
                if not healthy or why != "ended":
                    await self._pause(max(backoff.next(), min(asked, settings.backoff_longest)))

    async def _list_and_watch(self) -> tuple[str, float]:
        """Run one watch, after a list if one is due. Returns the cause of its end, and the seconds for which the server
        requests a pause."""
        try:
            if not self.objects.version or self._done < self._wanted:
                await self._relist()
            await self._watch()
        except ExpiredError as error:
            log.info("watch_expired", resource=self._kind.plural, error=str(error))
            self.objects.version = ""
            return "expired", 0.0
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
            asked = error.retry_after if isinstance(error, ApiError) else None
            return self._failed(error), asked or 0.0
        except Exception:  # a bug or an unexpected body must not end the watch for ever
            log.exception("watch_failed", resource=self._kind.plural)
            self.objects.version = ""
            return "error", 0.0
        return "ended", 0.0

    # --- list --------------------------------------------------------------------------------------------------------

    async def _relist(self) -> None:
        """List all objects, then delete those that are missing. Without resourceVersion, the list is a quorum read.

        `resourceVersion=0` would be cheaper but may return an older state of another API server, with pods that are
        gone or without pods that exist.
        """
        serving = self._wanted
        seen: set[Key] = set()
        version = ""
        async for page in self._chunks():
            if not version:
                version = page.metadata.resource_version
            position = int(version)
            items = page.items or []
            async for part in in_slices(items, self._settings.slice_events):
                changes: list[ObjectChange[T]] = []
                for obj in part:
                    seen.add(obj.key)
                    with contained(Boundary.LISTENER, f"{self._kind.plural} {'/'.join(obj.key)}"):
                        self.objects.listed(self._slim(obj) if self._slim else obj, position, changes)
                self._report(changes)
            seen |= self._decoder.kept
        await self._sweep(seen, int(version))
        self.objects.moved_to(version)
        self.relists += 1
        RELISTS.labels(self._kind.plural).inc()
        self.synced.set()
        async with self._relisted:
            self._done = serving
            self._relisted.notify_all()

    async def _sweep(self, seen: set[Key], position: int) -> None:
        """Delete the objects that the list of that version doesn't contain, in slices."""
        if position < self.objects.position:
            was = self.objects.position
            log.warning("resource_version_went_back", resource=self._kind.plural, was=was, now=position)
            self.objects.distrust()
        missing = [key for key in self.store if key not in seen]
        async for part in in_slices(missing, self._settings.slice_events):
            changes: list[ObjectChange[T]] = []
            self.objects.unlisted(part, position, changes)
            self._report(changes)

    async def _chunks(self) -> AsyncIterator[Page[T]]:
        """The list's pages. Raises ExpiredError if the continue token expires in between."""
        params = {"limit": str(self._settings.chunk), **self._selector}
        timeout = aiohttp.ClientTimeout(total=self._settings.list_seconds, sock_connect=10)
        while True:
            async with await self._get(params, timeout) as response:
                body = await response.read()
            self.last_contact = time.monotonic()
            page = self._decoder.page(body)
            yield page
            if not page.metadata.continue_token:
                return
            params["continue"] = page.metadata.continue_token

    # --- watch -------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        seconds = self._settings.watch_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self.objects.version,
            "timeoutSeconds": str(max(1, round(seconds))),
            **self._selector,
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self._settings.idle_seconds)
        async with await self._get(params, timeout) as response:
            self._response, self._watching_since = response, time.monotonic()
            try:
                await self._read(response)
            finally:
                self._response = None

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        """Apply lines as they arrive. A partial line at the end is dropped: the next watch sends it again."""
        pending: list[bytes] = []
        while self._done >= self._wanted:
            data = await response.content.readany()
            if not data:
                return
            self.last_contact = time.monotonic()
            head, newline, rest = data.rpartition(b"\n")
            if not newline:
                pending.append(rest)  # joined later, because a line may span many reads
                continue
            pending.append(head)
            lines = b"".join(pending).split(b"\n")
            pending = [rest] if rest else []
            async for part in in_slices(lines, self._settings.slice_events):
                self._take(part)

    def _take(self, lines: Sequence[bytes]) -> None:
        """Parse some lines, apply them to the store, and report the changes once."""
        changes: list[ObjectChange[T]] = []
        decode, apply = self._decoder.event, self.objects.event
        taken, version, bookmarked = 0, "", False
        try:
            for line in lines:
                if not line:
                    continue
                try:
                    event = decode(line)
                except UNDECODABLE as error:
                    found = self._decoder.unusual(line, error)
                    if not found:
                        continue
                    version, bookmarked = found, True
                else:
                    if event.type == "ERROR":
                        raise watch_error(line)
                    version = event.object.metadata.resource_version
                    if event.type == "BOOKMARK":
                        bookmarked = True
                    else:
                        with contained(Boundary.LISTENER, f"{self._kind.plural} {'/'.join(event.object.key)}"):
                            apply(event.type, self._slim(event.object) if self._slim else event.object, changes)
                taken += 1
        finally:
            if version:
                self.objects.moved_to(version)
            if bookmarked and self.objects.assumed:
                self.objects.drop_ghosts(changes)
            self.events += taken
            EVENTS.labels(self._kind.plural).inc(taken)
            self._report(changes)

    # --- the store ---------------------------------------------------------------------------------------------------

    def _report(self, changes: list[ObjectChange[T]]) -> None:
        if not changes:
            return
        with contained(Boundary.LISTENER, self._kind.plural):
            self._on_changes(changes)

    # --- the wire ----------------------------------------------------------------------------------------------------

    async def _get(self, params: dict[str, str], timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:  # noqa: ASYNC109
        """A response with status 200; 410 raises ExpiredError, others ApiError."""
        assert self._session is not None
        credentials = self._connection.credentials
        response = await self._session.get(
            URL(f"{self._connection.host}{self._kind.path()}?{urlencode(params)}", encoded=True),
            headers={**self._accept("watch" in params), **await credentials.headers()},
            timeout=timeout,
            allow_redirects=False,
            server_hostname=self._connection.server_hostname,
        )
        if response.status == 200:
            return response
        async with response:
            body = await response.read()
        error = error_from(response.status, body, response.headers.get("Retry-After"))
        if response.status == 410:
            raise ExpiredError(str(error))
        if response.status == 401:
            await credentials.refresh(older_than=credentials.read_at)
        raise error

    def _accept(self, watch: bool) -> dict[str, str]:
        if not self._metadata_only:
            return {}
        return {"Accept": METADATA_ONLY.format(form="PartialObjectMetadata" if watch else "PartialObjectMetadataList")}

    def _failed(self, error: Exception) -> str:
        """Log a failure and return its name. The version is kept, so that the watch resumes there."""
        if self._interrupted:
            return "interrupted"
        log.warning("watch_interrupted", resource=self._kind.plural, error=str(error) or type(error).__name__)
        if isinstance(error, aiohttp.SocketTimeoutError):
            return "idle"
        return "refused" if isinstance(error, ApiError) and not isinstance(error, NotSentError) else "cut"

    async def _pause(self, seconds: float) -> None:
        """Wait, but at most until a new list is requested."""
        self._wake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
