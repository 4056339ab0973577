"""Request bodies: limits of size, time and memory that apply before parsing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request

from niyanta import bounded_json
from niyanta.server.limits.budgets import LIMITED
from niyanta.server.problems import BAD_REQUEST, MEDIA, TIMEOUT, TOO_LARGE, Problem
from niyanta.settings import Settings

MAX_MANIFEST_BYTES = 256 * 1024
"""Of one manifest; its template may have 64 KiB as compact JSON."""
MAX_DEPTH = 32
PACE_GRACE_SECONDS = 5.0
"""Time waited for a body before its rate counts."""

BYTES_PER_VALUE = 64
"""Estimated memory of a decoded JSON value beside its text: an empty list has 56 bytes, and 8 in the list around it."""


def memory_of(text: bytes) -> int:
    """Estimated memory in bytes of JSON text and of the value decoded from it."""
    return len(text) + BYTES_PER_VALUE * (text.count(b",") + text.count(b"[") + text.count(b"{"))


class _Pace:
    """Time waited for a body's bytes. Only waiting counts, so the time of the server's own work is not the client's."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.api_body_timeout
        self._rate = settings.api_min_body_rate
        self._size = 0
        self._waited = 0.0

    async def receive(self, request: Request) -> tuple[bytes, bool]:
        """The next part, and True if more follow. Raises Problem when the client is too slow or gone."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        patience = min(self._timeout, PACE_GRACE_SECONDS + self._size / self._rate) - self._waited
        try:
            async with asyncio.timeout(max(0.0, patience)):
                message = await request.receive()
        except TimeoutError:
            LIMITED.labels("body_time").inc()
            text = f"the body must arrive within {self._timeout:g} seconds, with at least {self._rate} bytes per second"
            raise Problem(TIMEOUT, text) from None
        if message["type"] == "http.disconnect":
            raise Problem(BAD_REQUEST, "the client disconnected")
        self._waited += loop.time() - started
        part: bytes = message.get("body", b"")
        self._size += len(part)
        return part, message.get("more_body", False)


def announced_size(request: Request, *, most: int) -> int:
    """Bytes of the body by its Content-Length, at most `most`; `most` if it has none."""
    text = request.headers.get("content-length", "")
    return min(most, int(text[:20])) if text.isdecimal() else most


async def body_parts(request: Request, settings: Settings, *, most: int) -> AsyncIterator[bytes]:
    """The body in parts as they arrive; raises Problem when it is longer than `most` bytes or arrives too slowly."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise Problem(TOO_LARGE, f"the body may have at most {most} bytes")
    pace = _Pace(settings)
    size, more = 0, True
    while more:
        part, more = await pace.receive(request)
        size += len(part)
        if size > most:
            raise Problem(TOO_LARGE, f"the body may have at most {most} bytes")
        yield part


async def read_body(request: Request, settings: Settings, *, most: int) -> bytes:
    """The whole body; raises Problem as `body_parts` does."""
    return b"".join([part async for part in body_parts(request, settings, most=most)])


def require_media(request: Request, *words: str) -> None:
    """Raises Problem when a Content-Type is given that contains none of `words`."""
    given = request.headers.get("content-type", "").lower()
    if given and not any(word in given for word in words):
        raise Problem(MEDIA, f"the media type must be {' or '.join(words)}; convert YAML to JSON first")


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object; raises Problem for anything else."""
    if len(text) > MAX_MANIFEST_BYTES:
        raise Problem(TOO_LARGE, f"a manifest may have at most {MAX_MANIFEST_BYTES} bytes")
    try:
        found = bounded_json.decode(text, max_bytes=MAX_MANIFEST_BYTES, max_depth=MAX_DEPTH)
    except bounded_json.BoundedJsonError as error:
        raise Problem(BAD_REQUEST, str(error)) from None
    if not isinstance(found, dict):
        raise Problem(BAD_REQUEST, "the body must be a JSON object")
    return found
