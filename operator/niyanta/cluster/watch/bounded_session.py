"""The HTTP session that kopf uses: it passes on bounded JSON only.

kopf decodes lists and watches with Python's own decoder, which fails on depth and on long integers, and then kopf ends.
kopf takes a session from the login handler, and aiohttp takes a class of responses from the session; so each list and
each line of a watch is read by `bounded_objects` first, and kopf decodes the result.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
from aiohttp.connector import Connection

from niyanta import bounded_json
from niyanta.bounded_json import BoundedJsonError
from niyanta.cluster.api import bounded_objects

LONGEST_LINE_BYTES = 2 * bounded_json.MAX_BYTES
"""A longer line of a watch is skipped. The API server's own limit on objects is below half of it."""


class BoundedResponse(aiohttp.ClientResponse):
    """A response whose JSON is bounded."""

    async def start(self, connection: Connection) -> BoundedResponse:
        """As aiohttp's; the content is read in bounded lines from here on."""
        await super().start(connection)
        self.content = BoundedLines(self.content)  # type: ignore[assignment] # it delegates to a StreamReader
        return self

    async def json(self, **_: Any) -> Any:
        """The decoded body; items of lists are bounded objects. Raises json.JSONDecodeError, as aiohttp does."""
        body = await self.read()
        try:
            if bounded_objects.is_page(body):
                return bounded_objects.read_page(body)
            return bounded_json.decode(body, max_bytes=LONGEST_LINE_BYTES)
        except BoundedJsonError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class BoundedLines:
    """The content of a response; `iter_chunked` gives bounded events, one line each. Lines that can't be read are left
    out and counted."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """The lines of a watch, read in chunks of `size` bytes."""
        pending: list[bytes] = []
        length = 0
        async for data in self._content.iter_chunked(size):
            *lines, rest = data.split(b"\n")
            for line in lines:
                whole = b"".join((*pending, line))
                overlong = length + len(line) > LONGEST_LINE_BYTES
                pending, length = [], 0
                event = _overlong() if overlong else _bounded(whole)
                if event:
                    yield event
            length += len(rest)
            if length <= LONGEST_LINE_BYTES:
                pending.append(rest)
            else:
                pending.clear()
        if length <= LONGEST_LINE_BYTES and (event := _bounded(b"".join(pending))):
            yield event


def _bounded(line: bytes) -> bytes:
    """The line with a bounded object; empty if it can't be read."""
    if not line.strip():
        return b""
    try:
        return orjson.dumps(bounded_objects.read_event(line)) + b"\n"
    except (BoundedJsonError, orjson.JSONEncodeError) as error:
        bounded_objects.dropped("an event of a watch", error)
        return b""


def _overlong() -> bytes:
    bounded_objects.dropped("an event of a watch", BoundedJsonError(f"more than {LONGEST_LINE_BYTES} bytes"))
    return b""
