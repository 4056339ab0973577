"""Positions in the primary's log, as numbers that can be compared and as Postgres writes them (`16/B374D848`)."""

from __future__ import annotations

import re

HEADER = "Niyanta-Position"
"""Of answers to writes, and of reads that must show them."""
UNKNOWN = 2**64 - 1
"""Beyond every position: where a write is whose position could not be asked for."""
_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse(text: str) -> int:
    """The number of a position (a pg_lsn); ValueError for what is none."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no position in a log of Postgres")
    return int(match[1], 16) << 32 | int(match[2], 16)


def show(position: int) -> str:
    """As Postgres writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
