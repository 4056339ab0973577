"""NDJSON read as it arrives, in groups of lines that are parsed and committed together.

Groups depend on the body's bytes alone, never on how they arrive: a repeated batch has the same groups, so each group
has an idempotency key of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from niyanta.server.problems import TOO_LARGE, Problem
from niyanta.server.submit.body import MAX_MANIFEST_BYTES, memory_of

MAX_BATCH_BYTES = 32 * 1024 * 1024
MAX_ITEMS = 1000
MAX_LINES = 10 * MAX_ITEMS
"""Most lines, empty ones included: each costs time."""
GROUP_LINES = 500
GROUP_BYTES = 1024 * 1024
GROUP_MEMORY_BYTES = 8 * 1024 * 1024
"""Most memory that a group of several lines is estimated to take."""


@dataclass(slots=True)
class LineGroup:
    """Lines of a batch that are committed together: (number of the line in the body from 0, text). `digest` is of these
    lines, of empty ones among them, and of `last`, which is True for the batch's last group."""

    number: int
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    size: int = 0
    memory: int = 0
    last: bool = False
    digest: str = ""


class _Grouping:
    """Collects lines in the current group. Only the first MAX_MANIFEST_BYTES + 1 bytes of a line are kept."""

    def __init__(self) -> None:
        self.group = LineGroup(0)
        self._line_number = 0
        self._begun = bytearray()
        """The current line so far, when it comes in several parts."""
        self._rest = hashlib.sha256()
        """Of the bytes of the current line that are not kept."""
        self._rests: list[bytes] = []
        """Digests of those bytes of the group's lines."""
        self._ended = 0
        """Number of the line after the last group."""
        self._items = 0

    def extend(self, piece: bytes) -> None:
        """Add a part of the current line."""
        room = MAX_MANIFEST_BYTES + 1 - len(self._begun)
        self._begun += piece[:room]
        if len(piece) > room:
            self._rest.update(piece[room:])

    def end_line(self, piece: bytes) -> LineGroup | None:
        """Add the last part of the current line; returns the group before it if it begins another one.

        Raises Problem (413).
        """
        if self._begun or len(piece) > MAX_MANIFEST_BYTES:
            self.extend(piece)
            piece = bytes(self._begun)
            self._begun.clear()
        if self._line_number >= MAX_LINES:
            raise Problem(TOO_LARGE, f"a batch may have at most {MAX_LINES} lines, empty ones included")
        done = None
        if piece and (len(piece) > MAX_MANIFEST_BYTES or not piece.isspace()):
            self._items += 1
            if self._items > MAX_ITEMS:
                raise Problem(TOO_LARGE, f"a batch may have at most {MAX_ITEMS} items")
            done = self._add(piece)
        self._line_number += 1
        return done

    def _add(self, line: bytes) -> LineGroup | None:
        done = None
        group = self.group
        memory = memory_of(line)
        if group.lines and (
            len(group.lines) >= GROUP_LINES
            or group.size + len(line) > GROUP_BYTES
            or group.memory + memory > GROUP_MEMORY_BYTES
        ):
            done = self.finish(last=False)
            group = self.group = LineGroup(done.number + 1)
        group.lines.append((self._line_number, line))
        group.size += len(line)
        group.memory += memory
        if len(line) > MAX_MANIFEST_BYTES:
            self._rests.append(self._rest.digest())
            self._rest = hashlib.sha256()
        return done

    def finish(self, *, last: bool) -> LineGroup:
        """The current group, complete."""
        group = self.group
        first = self._ended
        places = [number - first for number, _ in group.lines]
        found = hashlib.sha256(b"last" if last else b"more")
        found.update(repr(places).encode())
        found.update(b"\n".join(line for _, line in group.lines))
        found.update(b"".join(self._rests))
        self._rests.clear()
        self._ended = group.lines[-1][0] + 1
        group.last = last
        group.digest = found.hexdigest()
        return group


async def line_groups(parts: AsyncIterator[bytes]) -> AsyncIterator[LineGroup]:
    """The groups of an NDJSON body; none for a body without lines. Raises Problem (413), and what `parts` raises.

    A group is complete when the first line of the next one has arrived, or the body has ended.
    """
    grouping = _Grouping()
    async for part in parts:
        *ended, rest = part.split(b"\n")
        for piece in ended:
            if (done := grouping.end_line(piece)) is not None:
                yield done
        grouping.extend(rest)
    if (done := grouping.end_line(b"")) is not None:
        yield done
    if grouping.group.lines:
        yield grouping.finish(last=True)
