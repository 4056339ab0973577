"""Positions in the primary's log: as comparable numbers, and as Postgres writes them (`16/B374D848`)."""

from __future__ import annotations

import re

HEADER = "Niyanta-Position"
"""HTTP header of responses to writes, and of reads that must include these writes."""
UNKNOWN = 2**64 - 1
"""Position of a write when the query for it failed: beyond every real position."""
_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse(text: str) -> int:
    """The number of a position (a pg_lsn); ValueError for any other text."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a position in a log of Postgres")
    return int(match[1], 16) << 32 | int(match[2], 16)


def show(position: int) -> str:
    """The position as Postgres writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
