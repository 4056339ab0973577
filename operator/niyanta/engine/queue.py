"""The queue's order: a heap with constant keys.

    effective = priority * tier_weight + boost * minutes_waited            minutes_waited = (now - queued_at) / 60e6

All workloads age at the same rate, so `boost * now / 60e6` is equal in every effective priority and can be left out
of the comparison. The rest, times 60,000,000, is an integer that does not change with time:

    key = priority * tier_weight * 60_000_000 - boost * queued_at          larger first

With priorities off the first term is 0, with aging off the second; with both off all keys are equal and the tie-break,
`queued_at` then id, makes the queue first in, first out.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from niyanta.engine.types import PendingWorkload

MINUTE_US: Final = 60_000_000
"""One minute in microseconds."""


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Settings of the order. `aging_boost_per_minute` is in units of effective priority."""

    enable_priority: bool = True
    enable_aging: bool = True
    aging_boost_per_minute: int = 5


_DEFAULTS = QueueSettings()
_Entry = tuple[int, int, str]
"""(-key, queued_at, id), which sorts ascending into queue order."""


def queue_key(priority: int, tier_weight: int, *, queued_at: int, settings: QueueSettings = _DEFAULTS) -> int:
    """The constant key, larger first; equal keys go by `queued_at` (microseconds), then id."""
    key = 0
    if settings.enable_priority:
        key = priority * tier_weight * MINUTE_US
    if settings.enable_aging:
        key -= settings.aging_boost_per_minute * queued_at
    return key


def effective_priority(
    priority: int, tier_weight: int, *, queued_at: int, now: int, settings: QueueSettings = _DEFAULTS
) -> float:
    """Effective priority at `now` (microseconds), for display; a clock behind `queued_at` counts as no wait."""
    effective = 0.0
    if settings.enable_priority:
        effective = float(priority * tier_weight)
    if settings.enable_aging:
        effective += settings.aging_boost_per_minute * max(now - queued_at, 0) / MINUTE_US
    return effective


class Queue:
    """Pending workloads by effective priority. Removal is lazy: entries that are no longer current are skipped."""

    def __init__(self, settings: QueueSettings = _DEFAULTS, workloads: Iterable[PendingWorkload] = ()) -> None:
        self.settings = settings
        self._current: dict[str, tuple[_Entry, PendingWorkload]] = {}
        self._heap: list[_Entry] = []
        self._order: list[_Entry] | None = None
        for workload in workloads:
            self._current[workload.id] = (self._entry(workload), workload)
        self._tidy()

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, workload_id: object) -> bool:
        return workload_id in self._current

    def get(self, workload_id: str) -> PendingWorkload | None:
        """The workload with this id; None if it is not in the queue."""
        found = self._current.get(workload_id)
        return None if found is None else found[1]

    def push(self, workload: PendingWorkload) -> None:
        """Add a workload, or replace the one with the same id. O(log n)."""
        entry = self._entry(workload)
        known = self._current.get(workload.id)
        self._current[workload.id] = (entry, workload)
        if known is not None:
            if known[0] == entry:
                return
            self._forget(known[0])
        heappush(self._heap, entry)
        if self._order is not None:
            insort(self._order, entry)

    update = push

    def remove(self, workload_id: str) -> PendingWorkload | None:
        """Remove a workload at any position; None if it is not in the queue."""
        known = self._current.pop(workload_id, None)
        if known is None:
            return None
        self._forget(known[0])
        return known[1]

    def pop(self) -> PendingWorkload:
        """Remove and return the first workload; IndexError when empty."""
        while True:
            entry = heappop(self._heap)
            known = self._current.get(entry[2])
            if known is not None and known[0] == entry:
                del self._current[entry[2]]
                self._forget(entry)
                return known[1]

    def in_order(self) -> Iterator[PendingWorkload]:
        """All workloads at the time of the call, first to last; the queue is not changed."""
        return iter([self._current[entry[2]][1] for entry in self._sorted()])

    def long_waiting(self, before: int, *, most: int = 5000, per_kind: int = 1024) -> list[PendingWorkload]:
        """Workloads queued at `before` or earlier, oldest first: the expedited lane's candidates. O(n).

        At most `per_kind` of a kind (same customer, same requirements object), so that one kind does not hide others.
        """
        found = [(entry[1], entry[2]) for entry, _ in self._current.values() if entry[1] <= before]
        chosen: list[PendingWorkload] = []
        kinds: Counter[tuple[str, int]] = Counter()
        for _, name in sorted(found):
            workload = self._current[name][1]
            kind = (workload.subject.customer, id(workload.requirements))
            kinds[kind] += 1
            if kinds[kind] <= per_kind:
                chosen.append(workload)
                if len(chosen) == most:
                    break
        return chosen

    def position(self, workload_id: str) -> int | None:
        """Number of workloads ahead of this one (0 when it is next); None if it is not in the queue."""
        known = self._current.get(workload_id)
        return None if known is None else bisect_left(self._sorted(), known[0])

    def _entry(self, workload: PendingWorkload) -> _Entry:
        key = queue_key(workload.priority, workload.tier_weight, queued_at=workload.queued_at, settings=self.settings)
        return -key, workload.queued_at, workload.id

    def _sorted(self) -> list[_Entry]:
        # Sorted at the first use and then kept sorted by bisection: moving 100,000 pointers takes 20 us.
        if self._order is None:
            self._order = sorted(entry for entry, _ in self._current.values())
        return self._order

    def _forget(self, entry: _Entry) -> None:
        if self._order is not None:
            del self._order[bisect_left(self._order, entry)]
        if len(self._heap) > 2 * len(self._current) + 64:
            self._tidy()

    def _tidy(self) -> None:
        self._heap = [entry for entry, _ in self._current.values()]
        heapify(self._heap)
