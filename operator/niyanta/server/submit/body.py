"""Request bodies: bounded in size, time and depth before anything parses them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from niyanta.server.problems import BAD_REQUEST, MEDIA, TIMEOUT, TOO_LARGE, Problem

MAX_MANIFEST = 256 * 1024
"""Bytes of one manifest; its template may have 64 KiB as compact JSON."""
MAX_BATCH = 32 * 1024 * 1024
MAX_ITEMS = 1000
MAX_DEPTH = 32
PATIENCE = 30.0
"""Seconds within which a body must arrive."""

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


async def read_body(request: Request, most: int) -> bytes:
    """The body; raises Problem when it is longer than `most` bytes or too slow."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise Problem(TOO_LARGE, f"at most {most} bytes are taken")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Problem(TOO_LARGE, f"at most {most} bytes are taken")
                parts.append(part)
    except TimeoutError:
        raise Problem(TIMEOUT, f"the body must arrive within {PATIENCE:g} seconds") from None
    except ClientDisconnect:
        raise Problem(BAD_REQUEST, "the client went away") from None
    return b"".join(parts)


def require_media(request: Request, *words: str) -> None:
    """Raises Problem when a content type is given that holds none of `words`."""
    given = request.headers.get("content-type", "").lower()
    if given and not any(word in given for word in words):
        raise Problem(MEDIA, f"the body must be {' or '.join(words)}, as JSON; turn YAML into JSON first")


def too_deep(text: bytes, most: int = MAX_DEPTH) -> bool:
    """Whether JSON text nests deeper than `most`; also right for text that is no JSON."""
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
    if len(text) > MAX_MANIFEST:
        raise Problem(TOO_LARGE, f"a manifest may have at most {MAX_MANIFEST} bytes")
    if too_deep(text):
        raise Problem(BAD_REQUEST, f"the JSON is nested deeper than {MAX_DEPTH}")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Problem(BAD_REQUEST, f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(BAD_REQUEST, "a JSON object is wanted")
    return found
