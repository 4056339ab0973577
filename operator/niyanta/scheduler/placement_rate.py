"""Placements per minute over the last ten minutes; the REST door computes Retry-After and estimates from them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable

from niyanta.store.rows import WorkloadRow

SPAN_SECONDS = 600.0
"""Length of the window."""

BUCKET_SECONDS = 5.0
"""Time covered by one bucket."""


class PlacementRate:
    """Placements of the last ten minutes by pool and by customer; monotonic time."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._ring: deque[tuple[float, Counter[str], Counter[str]]] = deque()

    def placed(self, rows: Iterable[WorkloadRow]) -> None:
        """Count rows that have just been placed."""
        now = time.monotonic()
        if not self._ring or now - self._ring[-1][0] > BUCKET_SECONDS:
            self._ring.append((now, Counter(), Counter()))
        _, pools, customers = self._ring[-1]
        for row in rows:
            pools[row.pool] += 1
            customers[row.customer] += 1
        while self._ring and now - self._ring[0][0] > SPAN_SECONDS:
            self._ring.popleft()

    def per_minute(self) -> tuple[float, dict[str, float], dict[str, float]]:
        """Placements per minute: all, by pool, by customer. The window is shorter in the first minutes of a leader."""
        now = time.monotonic()
        minutes = max(min(SPAN_SECONDS, now - self._started), BUCKET_SECONDS) / 60
        pools: Counter[str] = Counter()
        customers: Counter[str] = Counter()
        for at, by_pool, by_customer in self._ring:
            if now - at <= SPAN_SECONDS:
                pools += by_pool
                customers += by_customer
        return (
            round(pools.total() / minutes, 3),
            {name: round(count / minutes, 3) for name, count in pools.items()},
            {name: round(count / minutes, 3) for name, count in customers.items()},
        )
