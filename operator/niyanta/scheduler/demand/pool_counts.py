"""Running sums of classes that are counted whole, by customer and pool. A change costs O(log classes)."""

from __future__ import annotations

from collections.abc import Iterator

from niyanta.scheduler.demand.waiting import Count
from niyanta.scheduler.memory.earliest import Earliest

CustomerPool = tuple[str, str]


class PoolCounts:
    """Workloads, pods and the earliest time by customer and pool."""

    def __init__(self) -> None:
        self._sums: dict[CustomerPool, Count] = {}
        self._counted: dict[str, tuple[CustomerPool, Count]] = {}
        """Class -> where and how it is counted."""
        self._oldest: Earliest[CustomerPool, str] = Earliest(self._queued_at)

    def put(self, name: str, customer: str, pool: str, count: Count) -> None:
        """Count a class, instead of what was counted for it before. `count` has workloads; it isn't changed after."""
        known = self._counted.get(name)
        group = customer, pool
        if known == (group, count):
            return
        self.remove(name)
        self._counted[name] = group, count
        sums = self._sums.setdefault(group, Count())
        sums.workloads += count.workloads
        sums.pods += count.pods
        self._oldest.enter(group, name, count.oldest or 0)

    def remove(self, name: str) -> None:
        """Count a class no longer."""
        known = self._counted.pop(name, None)
        if known is None:
            return
        group, count = known
        sums = self._sums[group]
        sums.workloads -= count.workloads
        sums.pods -= count.pods
        self._oldest.leave(group)
        if not sums.workloads:
            del self._sums[group]

    def __contains__(self, name: object) -> bool:
        return name in self._counted

    def __iter__(self) -> Iterator[tuple[str, str, Count]]:
        """Customer, pool, and the sums of the classes there. O(customers x pools)."""
        for (customer, pool), sums in list(self._sums.items()):
            yield customer, pool, Count(sums.workloads, sums.pods, self._oldest.of((customer, pool)))

    def _queued_at(self, group: CustomerPool, name: str) -> int | None:
        known = self._counted.get(name)
        return known[1].oldest or 0 if known is not None and known[0] == group else None
