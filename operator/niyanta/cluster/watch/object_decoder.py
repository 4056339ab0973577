"""Decodes the pages and watch events of one kind for its reflector. An object that can't be decoded is left out and
counted; the others go on."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Generic

import msgspec
import structlog
from prometheus_client import Counter

from niyanta.cluster.api.errors import ApiError, ApiStatus
from niyanta.cluster.api.objects import UNDECODABLE, Key, ListMeta, Object, Page, T, WatchEvent

log = structlog.get_logger(__name__)

UNREADABLE = Counter(
    "niyanta_watch_unreadable_total", "Objects that could not be parsed and were skipped", ["resource"]
)


class ExpiredError(Exception):
    """The server no longer knows the store's version: list again."""


class _UndecodedPage(msgspec.Struct, frozen=True):
    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


_raw_pages = msgspec.json.Decoder(_UndecodedPage)


class _Status(msgspec.Struct, frozen=True):
    object: ApiStatus = ApiStatus()


_bare = msgspec.json.Decoder(WatchEvent[Object])
_bare_object = msgspec.json.Decoder(Object)
_status = msgspec.json.Decoder(_Status)


class ObjectDecoder(Generic[T]):
    """Decoders of one kind; `plural` is its name in metrics."""

    def __init__(self, plural: str, model: type[T]) -> None:
        # The decoders' types are built from a value, which type checkers can't follow.
        event_type: Any = WatchEvent
        page_type: Any = Page
        self._plural = plural
        self._items: msgspec.json.Decoder[T] = msgspec.json.Decoder(model)
        self._pages: msgspec.json.Decoder[Page[T]] = msgspec.json.Decoder(page_type[model])
        self._events: msgspec.json.Decoder[WatchEvent[T]] = msgspec.json.Decoder(event_type[model])
        self.event = self._events.decode
        """A watch event of a line. Raises one of UNDECODABLE; `unusual` handles them."""
        self.unreadable = 0
        self.kept: set[Key] = set()
        """Objects of the last page that can't be decoded but exist."""

    def page(self, body: bytes) -> Page[T]:
        """A page of the list. Items that the decoder refuses are left out and counted; a former state of theirs stays
        in the store, because they exist."""
        self.kept = set()
        try:
            return self._pages.decode(body)
        except UNDECODABLE:
            page = _raw_pages.decode(body)
        items = []
        for raw in page.items or ():
            try:
                items.append(self._items.decode(raw))
            except UNDECODABLE as error:
                self._left_out(bytes(raw), error)
                with suppress(*UNDECODABLE):
                    self.kept.add(_bare_object.decode(raw).key)
        return Page(page.metadata, items)

    def unusual(self, line: bytes, error: Exception) -> str:
        """Handle a line that isn't an object of the kind: raise for ERROR, return the version of a bookmark, else "".

        Bookmarks of pods have `"containers": null`, unlike real pods; ERROR lines carry a Status.
        """
        try:
            event = _bare.decode(line)
            if event.type == "BOOKMARK":
                return event.object.metadata.resource_version
        except UNDECODABLE:
            pass
        else:
            if event.type == "ERROR":
                raise watch_error(line)
        self._left_out(line, error)
        return ""

    def _left_out(self, text: bytes, error: Exception) -> None:
        """Count and log an object that can't be decoded."""
        self.unreadable += 1
        UNREADABLE.labels(self._plural).inc()
        shown = text[:300].decode(errors="replace")
        log.error("watch_event_unreadable", resource=self._plural, error=str(error), line=shown)


def watch_error(line: bytes) -> Exception:
    """The error of an ERROR line. After 410 and internal errors (500) events may be missing: list again."""
    try:
        status = _status.decode(line).object
    except UNDECODABLE:
        return ExpiredError(line[:300].decode(errors="replace"))
    if status.code in (429, 503, 504):
        return ApiError(status.code, status.reason, status.message)
    return ExpiredError(f"{status.code} {status.reason}: {status.message}")
