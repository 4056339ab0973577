"""What changed in the cluster, for the two that keep a snapshot of it: the cycle and the figures.

The cluster tells each change once; what one of them takes is kept for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Delta = tuple[str, Any]
"""Name of a Snapshot method and its argument."""

CYCLE, FIGURES = "cycle", "figures"


class DeltaFanout:
    """Hands the same changes to both, each at its own pace. In the event loop only."""

    def __init__(self, take: Callable[[], Sequence[Delta]]) -> None:
        self._take = take
        self._waiting: dict[str, list[Delta]] = {CYCLE: [], FIGURES: []}

    def take(self, who: str) -> list[Delta]:
        """What changed since this one asked last, in order; the first call gives everything there is."""
        fresh = self._take()
        for waiting in self._waiting.values():
            waiting.extend(fresh)
        taken, self._waiting[who] = self._waiting[who], []
        return taken
