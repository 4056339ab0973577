"""Creates of pods under way. Writes of statuses wait for them: a late status harms less than a late pod."""

from __future__ import annotations

import asyncio
from types import TracebackType

BUSY_CREATES = 4
"""Creates, waiting for a connection or sent, from which on other writes wait."""


class PodLane:
    """Counts creates: `with lane:` around each."""

    def __init__(self) -> None:
        self._creates = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def __enter__(self) -> None:
        self._creates += 1
        if self._creates >= BUSY_CREATES:
            self._quiet.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._creates -= 1
        if self._creates < BUSY_CREATES:
            self._quiet.set()

    @property
    def busy(self) -> bool:
        """True while other writes should wait."""
        return not self._quiet.is_set()

    async def quiet(self, seconds: float) -> bool:
        """Wait until it is not busy, for at most this long; True if it is not busy."""
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True
