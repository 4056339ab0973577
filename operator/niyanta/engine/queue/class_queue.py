"""One class of the queue: workloads of a customer whose placement depends on equal facts, so that a decision about one
holds for all.

Only its first workloads may be in memory. There are three orders, each with a head: by key, by waited time and by base
priority. The last two are sorted at their first use, because most classes have one priority, and then all orders agree.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from niyanta.engine.queue.order import Entry, QueueSettings, entry_of
from niyanta.engine.queue.watch import Park
from niyanta.engine.types import PendingWorkload

Age = tuple[int, str]
"""(queued_at, id), oldest first."""

Rank = tuple[int, int, str]
"""(-priority, queued_at, id), highest base priority first."""


class ClassQueue:
    """The workloads of one class in memory. `Queue` makes and changes it; all others read."""

    __slots__ = ("_ages", "_order", "_ranks", "_workloads", "customer", "name", "namespace", "park", "wakes")

    def __init__(self, name: str, workload: PendingWorkload) -> None:
        self.name = name
        """The queue class."""
        self.customer = workload.subject.customer
        self.namespace = workload.subject.namespace
        self.park: Park | None = None
        """The refusal after which nothing changed that could let a workload of the class be placed; None: active."""
        self.wakes = 0
        """Changes of the class, its customer or its namespace that could change a decision; it only grows."""
        self._workloads: dict[str, tuple[Entry, PendingWorkload]] = {}
        self._order: list[Entry] = []
        self._ages: list[Age] | None = None
        self._ranks: list[Rank] | None = None

    def __len__(self) -> int:
        return len(self._order)

    def get(self, workload_id: str) -> PendingWorkload | None:
        """The workload with this id; None if it isn't in the class."""
        found = self._workloads.get(workload_id)
        return None if found is None else found[1]

    # --- heads ---

    def first(self) -> PendingWorkload | None:
        """The workload with the highest key; None if none is in memory."""
        return self._at(0)

    def oldest(self) -> PendingWorkload | None:
        """The workload that has waited longest."""
        ages = self._by_age()
        return self.get(ages[0][1]) if ages else None

    def highest(self) -> PendingWorkload | None:
        """The workload of the highest base priority; of several the oldest."""
        if self._ranks is None:
            self._ranks = sorted(_rank(workload) for _, workload in self._workloads.values())
        return self.get(self._ranks[0][2]) if self._ranks else None

    def in_order(self) -> Iterator[PendingWorkload]:
        """All workloads in memory at the time of the call, highest key first."""
        return self._existing([entry[2] for entry in self._order])

    def by_age(self) -> Iterator[PendingWorkload]:
        """All workloads in memory at the time of the call, oldest first."""
        return self._existing([age[1] for age in self._by_age()])

    def _by_age(self) -> list[Age]:
        if self._ages is None:
            self._ages = sorted((entry[1], entry[2]) for entry in self._order)
        return self._ages

    def after(self, last: Entry | None, most: int) -> list[tuple[Entry, PendingWorkload]]:
        """At most `most` workloads behind a place in the order (None: from the first), with their places. It may be
        called while another thread adds and removes workloads."""
        start = 0 if last is None else bisect_right(self._order, last)
        found = [self._workloads.get(entry[2]) for entry in self._order[start : start + most]]
        return [one for one in found if one is not None]

    def entries(self) -> list[Entry]:
        """Places of all workloads, in order. Not to be changed."""
        return self._order

    def _at(self, place: int) -> PendingWorkload | None:
        return self.get(self._order[place][2]) if place < len(self._order) else None

    def _existing(self, ids: list[str]) -> Iterator[PendingWorkload]:
        for workload_id in ids:
            found = self._workloads.get(workload_id)
            if found is not None:
                yield found[1]

    # --- changes, by the queue ---

    def put(self, workload: PendingWorkload, settings: QueueSettings) -> PendingWorkload | None:
        """Add a workload or replace the one with its id; returns the replaced one."""
        entry = entry_of(workload, settings)
        known = self._workloads.get(workload.id)
        self._workloads[workload.id] = entry, workload
        if known is not None:
            if known[0] == entry and known[1].priority == workload.priority:
                return known[1]
            self._forget(*known)
        insort(self._order, entry)
        if self._ages is not None:
            insort(self._ages, (entry[1], entry[2]))
        if self._ranks is not None:
            insort(self._ranks, _rank(workload))
        return None if known is None else known[1]

    def take(self, workload_id: str) -> PendingWorkload | None:
        """Remove a workload; None if it isn't in the class."""
        known = self._workloads.pop(workload_id, None)
        if known is None:
            return None
        self._forget(*known)
        return known[1]

    def _forget(self, entry: Entry, workload: PendingWorkload) -> None:
        del self._order[bisect_left(self._order, entry)]
        if self._ages is not None:
            del self._ages[bisect_left(self._ages, (entry[1], entry[2]))]
        if self._ranks is not None:
            del self._ranks[bisect_left(self._ranks, _rank(workload))]


def _rank(workload: PendingWorkload) -> Rank:
    return -workload.priority, workload.queued_at, workload.id
