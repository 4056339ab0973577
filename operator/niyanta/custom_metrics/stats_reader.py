"""The leader's figures as this replica last read them, and how old they are by now.

Read once a second into memory, so that no question to the adapter waits for Postgres. `adapter_api` answers from here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from niyanta.observability import log
from niyanta.observability.gauges import LiveGauge
from niyanta.store.errors import StoreError
from niyanta.store.leader.demand_stats import DemandStats

logger = log.get(__name__)

LONGEST_AGE_SECONDS = 5.0
"""Seconds. Older figures aren't told: an autoscaler that gets no answer leaves things as they are."""

READ_INTERVAL_SECONDS = 1.0
"""Seconds between two readings."""

AGE = LiveGauge("niyanta_adapter_figures_age_seconds", "Age of the figures the metrics adapter answers from")

Read = Callable[[], Awaitable[tuple[DemandStats, float] | None]]
"""The last figures with their age in seconds; None: there never were any. Raises StoreError."""


class StaleStatsError(Exception):
    """There are no figures young enough to be told; the message says why."""


class StatsReader:
    """Keeps reading; `current` is what may be told."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._current_stats: DemandStats | None = None
        self._counted = 0.0
        """Monotonic time at which the figures were counted."""
        self._trouble = ""
        AGE.ask(lambda: {(): time.monotonic() - self._counted} if self._current_stats else {})

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(READ_INTERVAL_SECONDS)

    async def read(self) -> None:
        """Read once; on failure the old figures stay, and grow older."""
        asked_at = time.monotonic()
        try:
            found = await self._read()
        except StoreError as error:
            if not self._trouble:
                logger.warning("the figures were not read", error=str(error))
            self._trouble = "Postgres does not answer"
            return
        self._trouble = ""
        if found is not None:
            self._current_stats, age = found
            # By the earliest moment it can have been: the age is never told as less than it is by our own waiting.
            self._counted = asked_at - age

    def current(self) -> DemandStats:
        """Figures of at most LONGEST_AGE_SECONDS seconds. Raises StaleError."""
        cause = self._trouble or "no leader has written newer ones"
        if self._current_stats is None:
            raise StaleStatsError(self._trouble or "no leader has counted yet")
        age = time.monotonic() - self._counted
        if age > LONGEST_AGE_SECONDS:
            raise StaleStatsError(
                f"the figures are {age:.1f} s old, {LONGEST_AGE_SECONDS:g} s is the most that is told: {cause}"
            )
        return self._current_stats
