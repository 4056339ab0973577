"""A circuit breaker: failures in a row open it, and single probes after growing pauses close it again.

`namespace_gate` has one for the creates of each namespace.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from niyanta.aio import Backoff
from niyanta.observability.gauges import LeaderGauge

OPEN_BREAKERS = LeaderGauge(
    "niyanta_open_breakers",
    "Namespaces in which pods can't be created, and workers whose kubelets reject pods, which get no work for now",
    ["kind"],
)


class Breaker:
    """One breaker. While it is open, one try is made when `seconds_to_probe` is 0."""

    def __init__(
        self,
        *,
        failures: int,
        first_seconds: float,
        longest_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`failures` in a row open it. `clock`: monotonic seconds."""
        self._most_failures = failures
        self._clock = clock
        self._backoff = Backoff(first_seconds=first_seconds, longest_seconds=longest_seconds)
        self._probe_at = 0.0
        self.failures = 0
        """Failures since the last success."""

    @property
    def open(self) -> bool:
        """True from the last of the failures in a row to the next success."""
        return self.failures >= self._most_failures

    def seconds_to_probe(self) -> float:
        """Time until the next try may be made; 0 while it is closed."""
        return max(0.0, self._probe_at - self._clock()) if self.open else 0.0

    def failed(self) -> None:
        """A try failed."""
        if self.open and self.seconds_to_probe() > 0:
            return  # a try that began before it opened
        self.failures += 1
        if self.open:
            self._probe_at = self._clock() + self._backoff.next()

    def succeeded(self) -> None:
        """A try succeeded: it is closed."""
        self.failures = 0
        self._backoff.reset()
