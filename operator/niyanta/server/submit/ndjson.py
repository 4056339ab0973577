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
GROUP_LINES = 250
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
        self._hash = hashlib.sha256()
        self._line_number = 0
        self._line = bytearray()
        self._line_hash = hashlib.sha256()
        self._blank = True
        self._blank_lines = 0
        self._items = 0

    def extend(self, piece: bytes) -> None:
        """Add bytes without a newline to the current line."""
        self._line_hash.update(piece)
        self._line += piece[: MAX_MANIFEST_BYTES + 1 - len(self._line)]
        self._blank = self._blank and not piece.strip()

    def end_line(self) -> LineGroup | None:
        """End the current line; returns the group before it if the line begins another. Raises Problem (413)."""
        done = None
        if self._line_number >= MAX_LINES:
            raise Problem(TOO_LARGE, f"a batch may have at most {MAX_LINES} lines, empty ones included")
        if self._blank:
            self._blank_lines += 1
        else:
            self._items += 1
            if self._items > MAX_ITEMS:
                raise Problem(TOO_LARGE, f"a batch may have at most {MAX_ITEMS} items")
            done = self._add(bytes(self._line))
        self._line_number += 1
        self._line = bytearray()
        self._line_hash = hashlib.sha256()
        self._blank = True
        return done

    def _add(self, line: bytes) -> LineGroup | None:
        done = None
        memory = memory_of(line)
        if self.group.lines and (
            len(self.group.lines) >= GROUP_LINES
            or self.group.size + len(line) > GROUP_BYTES
            or self.group.memory + memory > GROUP_MEMORY_BYTES
        ):
            done = self.finish(last=False)
            self.group = LineGroup(done.number + 1)
            self._hash = hashlib.sha256()
        self.group.lines.append((self._line_number, line))
        self.group.size += len(line)
        self.group.memory += memory
        self._hash.update(b"%d " % self._blank_lines)
        self._hash.update(self._line_hash.digest())
        self._blank_lines = 0
        return done

    def finish(self, *, last: bool) -> LineGroup:
        """The current group, complete."""
        self._hash.update(b"last" if last else b"more")
        self.group.last = last
        self.group.digest = self._hash.hexdigest()
        return self.group


async def line_groups(parts: AsyncIterator[bytes]) -> AsyncIterator[LineGroup]:
    """The groups of an NDJSON body; none for a body without lines. Raises Problem (413), and what `parts` raises.

    A group is complete when the first line of the next one has arrived, or the body has ended.
    """
    grouping = _Grouping()
    async for part in parts:
        *ended, rest = part.split(b"\n")
        for piece in ended:
            grouping.extend(piece)
            if (done := grouping.end_line()) is not None:
                yield done
        grouping.extend(rest)
    if (done := grouping.end_line()) is not None:
        yield done
    if grouping.group.lines:
        yield grouping.finish(last=True)
