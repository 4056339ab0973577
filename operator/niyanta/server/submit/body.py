"""Request bodies: limits of size, time and depth that apply before parsing."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from niyanta.server.problems import BAD_REQUEST, MEDIA, TIMEOUT, TOO_LARGE, Problem

MAX_MANIFEST_BYTES = 256 * 1024
"""Of one manifest; its template may have 64 KiB as compact JSON."""
MAX_BATCH_BYTES = 32 * 1024 * 1024
MAX_ITEMS = 1000
MAX_DEPTH = 32
BODY_TIMEOUT_SECONDS = 30.0
"""Time within which a body must arrive."""

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


async def read_body(request: Request, most: int) -> bytes:
    """The body; raises Problem when it is longer than `most` bytes or arrives too slowly."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise Problem(TOO_LARGE, f"the body may have at most {most} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Problem(TOO_LARGE, f"the body may have at most {most} bytes")
                parts.append(part)
    except TimeoutError:
        raise Problem(TIMEOUT, f"the body must arrive within {BODY_TIMEOUT_SECONDS:g} seconds") from None
    except ClientDisconnect:
        raise Problem(BAD_REQUEST, "the client disconnected") from None
    return b"".join(parts)


def require_media(request: Request, *words: str) -> None:
    """Raises Problem when a Content-Type is given that contains none of `words`."""
    given = request.headers.get("content-type", "").lower()
    if given and not any(word in given for word in words):
        raise Problem(MEDIA, f"the media type must be {' or '.join(words)}; convert YAML to JSON first")


def too_deep(text: bytes, most: int = MAX_DEPTH) -> bool:
    """True when JSON text nests deeper than `most`; also safe for text that isn't JSON."""
    if text.count(b"{") + text.count(b"[") <= most:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_TEXT.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > most:
            return True
    return False


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object; raises Problem for anything else."""
    if len(text) > MAX_MANIFEST_BYTES:
        raise Problem(TOO_LARGE, f"a manifest may have at most {MAX_MANIFEST_BYTES} bytes")
    if too_deep(text):
        raise Problem(BAD_REQUEST, f"the JSON is nested deeper than {MAX_DEPTH} levels")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Problem(BAD_REQUEST, f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(BAD_REQUEST, "the body must be a JSON object")
    return found
