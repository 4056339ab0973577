"""The age of the oldest open transaction on the Postgres server, as a metric with an alert.

Dead rows that are younger than it stay in every table. The leader itself is not held up by it (`store/changes.py`).
"""

from __future__ import annotations

import time

from niyanta.aio import Timer
from niyanta.observability.gauges import LeaderGauge, Values
from niyanta.store.state import StateManager

MEASURE_EVERY_SECONDS = 10.0

SHOWN_SECONDS = 60.0
"""The gauge shows nothing when the age was not measured for this time."""


class HorizonGauge:
    """Measures the age at most every MEASURE_EVERY_SECONDS."""

    def __init__(self, store: StateManager) -> None:
        self._store = store
        self._due = Timer(MEASURE_EVERY_SECONDS)
        self._shown: tuple[float, float] | None = None
        """Monotonic time of the last measurement, and the age in seconds."""

    async def measure(self) -> None:
        """Measure, if it is due. Raises StoreUnavailableError."""
        if self._due.due():
            self._shown = (time.monotonic(), await self._store.measure_horizon())
            HORIZON_AGE.ask(self._samples)

    def _samples(self) -> Values:
        if self._shown is None or time.monotonic() - self._shown[0] > SHOWN_SECONDS:
            return {}
        return {(): self._shown[1]}


HORIZON_AGE = LeaderGauge(
    "niyanta_database_horizon_age_seconds",
    "Age of the oldest open transaction on the Postgres server, in any database, as the leader sees it; dead rows that "
    "are younger stay",
)
