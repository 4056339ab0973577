"""The database's clock, read from time to time and extrapolated by the monotonic clock."""

from __future__ import annotations

import time
from typing import Protocol


class _Source(Protocol):
    async def clock(self) -> int: ...


class Clock:
    """`now()` is the database's time in microseconds without a query; `refresh` queries it."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._offset: int | None = None

    async def refresh(self) -> None:
        """Read the database's clock; raises StoreUnavailableError."""
        before = time.monotonic_ns()
        now = await self._source.clock()
        middle = (before + time.monotonic_ns()) // 2
        self._offset = now - middle // 1000

    def now(self) -> int:
        """Microseconds of the database's clock; `refresh` must have run once."""
        if self._offset is None:
            msg = "the database's clock was never read"
            raise RuntimeError(msg)
        return self._offset + time.monotonic_ns() // 1000
