"""Decoding of JSON from outside, with bounds on size, depth and integers.

A document within the bounds can be encoded again by every encoder of the project (orjson refuses integers over 64 bits
and more than 254 levels) and stored by Postgres. Python's own recursion is never used on a document.
"""

from __future__ import annotations

from typing import Any

import orjson

MAX_DEPTH = 64
"""Most levels of lists and objects; the deepest legal pod template has fewer than 20."""

MAX_BYTES = 3 * 1024 * 1024
"""Largest document; the API server's own limit on an object is below it."""

VIOLATION_KEY = "niyantaViolation"
"""Top-level key of the stub that stands for a watched object out of bounds: the violation as text. The stub has the
object's identity and an empty spec."""

ROOT = "the document"
"""Stands for the path of a violation that concerns the document as a whole."""

MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**63 - 1


class BoundedJsonError(ValueError):
    """The document is not JSON, or exceeds a bound. The text names what and, where it is known, the path."""


def decode(text: bytes | str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON document of at most `max_bytes` bytes. Raises BoundedJsonError."""
    if len(text) > max_bytes:
        raise BoundedJsonError(f"the document has {len(text)} bytes; at most {max_bytes} are allowed")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # Too deep for the decoder is an error of the decoder too.
        raise BoundedJsonError(f"not valid JSON: {str(error)[:200]}") from error
    if not _clearly_within(text if isinstance(text, bytes) else text.encode(), max_depth):
        check(value, max_depth=max_depth)
    return value


_NUMBERS_ONLY = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBER = b"0" * 19
_EXPONENT = b"0e"


def _clearly_within(text: bytes, max_depth: int) -> bool:
    """True if a look at the text shows that the value is within the bounds: most documents need no walk."""
    if text.count(b"{") + text.count(b"[") > max_depth:
        return False
    numbers = text.translate(_NUMBERS_ONLY)
    return _LONG_NUMBER not in numbers and _EXPONENT not in numbers


def check(value: Any, *, max_depth: int = MAX_DEPTH) -> None:
    """Raise BoundedJsonError if a decoded value is deeper than `max_depth` levels, or has an integer of more than 64
    bits. Integers between 2**63 and 2**64 are refused too: Postgres' bigint and Kubernetes have none."""
    problem = violation(value, max_depth=max_depth)
    if problem is not None:
        raise BoundedJsonError(problem)


def violation(value: Any, *, max_depth: int = MAX_DEPTH, max_values: int | None = None) -> str | None:
    """The first violation of a bound in a decoded value, level by level, as text with its path; None if there is
    none. `max_values`: most values of all kinds, at all levels."""
    if _within(value, max_depth, max_values):
        return None
    level: list[tuple[Any, _Path]] = [(value, None)]
    depth = 0
    while level:
        below: list[tuple[Any, _Path]] = []
        for item, path in level:
            if type(item) is dict:
                below += [(child, (path, key)) for key, child in item.items() if type(child) in _CHECKED]
            elif type(item) is list:
                below += [(child, (path, index)) for index, child in enumerate(item) if type(child) in _CHECKED]
            elif type(item) in _NUMBERS and not MIN_INTEGER <= item <= MAX_INTEGER:
                # The decoder makes floats of integers that are larger still.
                return f"{_text(path)}: integers need 64 bits at most"
        depth += 1
        if depth >= max_depth:
            deep = next((path for item, path in below if type(item) not in _NUMBERS), None)
            if deep is not None:
                return f"{_text(deep)}: at most {max_depth} levels of lists and objects are allowed"
        level = below
    if max_values is None:
        return None
    return f"{ROOT}: at most {max_values} values (objects, lists, strings, ...) are allowed"


def _within(value: Any, max_depth: int, max_values: int | None = None) -> bool:
    """True if there is no violation: the same walk without paths, which takes a tenth of the time."""
    level = [value]
    depth = number = 0
    while level:
        depth += 1
        number += len(level)
        if max_values is not None and number > max_values:
            return False
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict or kind is list:
                if depth > max_depth:
                    return False
                if item:
                    below.extend(item.values() if kind is dict else item)
            elif (kind is int or kind is float) and not MIN_INTEGER <= item <= MAX_INTEGER:
                return False
        level = below
    return True


_Path = Any
"""A path as linked pairs, (path of the parent, key or index); None at the root. Text is made only for an error."""

_NUMBERS = frozenset({int, float})

_CHECKED = _NUMBERS | {dict, list}


def _text(path: _Path) -> str:
    keys: list[Any] = []
    while path is not None:
        path, key = path
        keys.append(key)
    text = ""
    for key in reversed(keys[-12:]):
        text += f"[{key}]" if isinstance(key, int) else f".{str(key)[:64]}" if text else str(key)[:64]
    return (text or ROOT) + ("..." if len(keys) > 12 else "")
