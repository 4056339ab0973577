"""Depth of JSON text, and removal of its deepest parts, without decoding and without recursion.

`bounded_objects` uses it for documents that are too deep or too costly for a decoder. The time is proportional to the
length of the text alone (some 20 ms for a megabyte), whatever it consists of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20
"""Bytes scanned at a time, which limits the memory to some 10 MiB."""

FEW_BRACKETS = 64
"""Text with fewer opening brackets than this needs no scan: it has at most as many levels."""

SMALL_BYTES = 1 << 16
"""Shorter text is scanned without numpy, whose calls cost more than such a scan."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = [1 if chr(byte) in "[{" else -1 for byte in range(256)]
_DIGITS_AS_ZERO = bytes(ord("0") if chr(byte) in "0123456789" else 1 for byte in range(256))
_LONG_NUMBER = b"0" * 19
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_OPENING = np.frombuffer(b"[{", np.uint8)
_CLOSING = np.frombuffer(b"]}", np.uint8)
_QUOTE, _ZERO, _SPACE = b'"0 '


def shape(text: bytes) -> tuple[int, int]:
    """(levels, number) of the lists and objects of a document; for text with few brackets, their number for both."""
    brackets = text.count(b"[") + text.count(b"{")
    if brackets < FEW_BRACKETS:
        return brackets, brackets
    if len(text) < SMALL_BYTES:
        plain = _STRING.sub(b"", text).translate(None, _NO_BRACKETS)
        running = accumulate(map(_STEPS.__getitem__, plain))
        return max(running, default=0), plain.count(b"[") + plain.count(b"{")
    most, number = 0, 0
    for block, levels in _scanned(text, blank_strings=True):
        most = max(most, int(levels.max()))
        number += int(np.count_nonzero(np.isin(block, _OPENING)))
    return most, number


def has_large_integer(text: bytes) -> bool:
    """True if the document may have an integer of more than 63 bits: 19 digits in a row outside of strings."""
    if _LONG_NUMBER not in text.translate(_DIGITS_AS_ZERO):
        return False
    plain = b"".join(block.tobytes() for block, _ in _scanned(text, blank_strings=True))
    return _LONG_NUMBER in plain.translate(_DIGITS_AS_ZERO)


def pruned(text: bytes, most: int) -> bytes:
    """The document with each list and object below `most` levels replaced by 0."""
    original = np.frombuffer(text, np.uint8)
    parts = []
    at, cutting = 0, False
    for block, levels in _scanned(text):
        part = original[at : at + len(block)].copy()
        cut = levels > most
        first = cut.copy()
        first[1:] &= ~cut[:-1]
        first[0] &= not cutting
        part[first] = _ZERO
        parts.append(part[~cut | first].tobytes())
        at, cutting = at + len(block), bool(cut[-1])
    return b"".join(parts)


def _scanned(text: bytes, *, blank_strings: bool = False) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """Blocks of the text, and the level of each byte: a bracket belongs to the list or object that it encloses. Escapes
    are replaced by letters; with `blank_strings`, strings by spaces."""
    plain = np.frombuffer(_ESCAPE.sub(b"__", text), np.uint8)
    level, inside = 0, False
    for start in range(0, len(plain), BLOCK_BYTES):
        block = plain[start : start + BLOCK_BYTES]
        quotes = np.cumsum(block == _QUOTE, dtype=np.int32) + inside
        string = (quotes & 1).astype(bool)
        closing = np.isin(block, _CLOSING) & ~string
        steps = (np.isin(block, _OPENING) & ~string).astype(np.int32) - closing
        after = np.cumsum(steps, dtype=np.int32) + level
        if blank_strings:
            block = np.where(string, np.uint8(_SPACE), block)
        yield block, after + closing
        level, inside = int(after[-1]), bool(string[-1])
