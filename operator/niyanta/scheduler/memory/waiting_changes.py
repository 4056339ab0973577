"""A journal of what changed among the waiting workloads in memory, so that statistics look at that alone.

`WorkloadCache` writes it, `demand.waiting_classes` reads it.
"""

from __future__ import annotations


class WaitingChanges:
    """Changes since the last `take`, each class and each workload once."""

    def __init__(self) -> None:
        self._classes: dict[str, None] = {}
        self._away: dict[str, None] = {}

    def in_class(self, name: str) -> None:
        """A workload entered this class of the queue, left it, or changed there."""
        self._classes[name] = None

    def away(self, workload_id: str) -> None:
        """A pending workload left the queue, came back, or changed outside it."""
        self._away[workload_id] = None

    def take(self) -> tuple[list[str], list[str]]:
        """Classes of the queue, and ids of workloads outside it, that changed. For one reader."""
        taken = list(self._classes), list(self._away)
        self._classes, self._away = {}, {}
        return taken
