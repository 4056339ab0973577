"""The leader's demand statistics as last read by this replica, with their age.

They are read into memory once a second, so that no request to the adapter waits for Postgres. `routes` answers from
them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from niyanta.containment import Boundary, record
from niyanta.observability import log
from niyanta.observability.gauges import LiveGauge
from niyanta.store.errors import StoreError
from niyanta.store.leader.demand_stats import DemandStats

logger = log.get(__name__)

LONGEST_AGE_SECONDS = 5.0
"""Older statistics aren't served: an autoscaler without an answer changes nothing."""

READ_INTERVAL_SECONDS = 1.0
"""Time between two reads."""

AGE = LiveGauge("niyanta_adapter_figures_age_seconds", "Age of the demand statistics that the metrics adapter serves")

Read = Callable[[], Awaitable[tuple[DemandStats, float] | None]]
"""Returns the last statistics with their age in seconds; None if none were ever written. Raises StoreError."""


class StaleStatsError(Exception):
    """The statistics are missing or too old; the message has the cause."""


class StatsReader:
    """Reads the statistics once a second; `current` returns them."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._current_stats: DemandStats | None = None
        self._counted = 0.0
        """Monotonic time at which the statistics were made."""
        self._trouble = ""
        AGE.ask(lambda: {(): time.monotonic() - self._counted} if self._current_stats else {})

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(READ_INTERVAL_SECONDS)

    async def read(self) -> None:
        """Read once. After a failure the former statistics stay and grow older."""
        asked_at = time.monotonic()
        try:
            found = await self._read()
        except StoreError as error:
            if not self._trouble:
                logger.warning("demand statistics were not read", error=str(error))
            self._trouble = "Postgres does not answer"
            return
        except Exception as error:  # such as a row of another version
            if not self._trouble:  # counted once, because the reads are frequent
                record(Boundary.METRICS_ADAPTER, "demand statistics", error)
            self._trouble = "they can't be read"
            return
        self._trouble = ""
        if found is not None:
            self._current_stats, age = found
            # The age is of the time of the read, and the request was sent before: so the age is never too small.
            self._counted = asked_at - age

    def current(self) -> DemandStats:
        """Statistics that are at most LONGEST_AGE_SECONDS old. Raises StaleStatsError."""
        cause = self._trouble or "no leader has written newer ones"
        if self._current_stats is None:
            raise StaleStatsError(self._trouble or "no leader has counted yet")
        age = time.monotonic() - self._counted
        if age > LONGEST_AGE_SECONDS:
            raise StaleStatsError(
                f"the figures are {age:.1f} s old, more than the limit of {LONGEST_AGE_SECONDS:g} s: {cause}"
            )
        return self._current_stats
