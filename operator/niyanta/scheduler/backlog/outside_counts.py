"""Running sums of the backlog that only Postgres has, by customer and namespace, and a journal of the classes that
changed. `Backlog` reports the changes; statistics read, at a cost of what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from niyanta.scheduler.backlog.stored_class import ClassName, OutsideRows, StoredClass
from niyanta.scheduler.memory.earliest import Earliest
from niyanta.scheduler.memory.tally import Account


class OutsideCounts:
    """Workloads and pods outside memory, and the earliest time at which one was queued."""

    def __init__(self, find: Callable[[str, str], StoredClass | None]) -> None:
        """`find` returns the stored class of a customer; None: it has no pending rows."""
        self._find = find
        self._uncounted: dict[ClassName, None] = {}
        self._changed: dict[ClassName, None] = {}
        self._counted: dict[ClassName, OutsideRows] = {}
        self._workloads: Counter[Account] = Counter()
        self._pods: Counter[Account] = Counter()
        self._oldest: Earliest[Account, ClassName] = Earliest(self._queued_at)

    def touch(self, found: StoredClass) -> None:
        """The number of a class's rows changed, or its rows in memory."""
        self._uncounted[found.customer, found.name] = None
        self._changed[found.customer, found.name] = None

    def workloads(self) -> Counter[Account]:
        """Workloads by customer and namespace. Not to be changed."""
        self._count()
        return self._workloads

    def pods(self) -> Counter[Account]:
        """Their pods."""
        self._count()
        return self._pods

    def oldest(self) -> Earliest[Account, ClassName]:
        """The smallest `queued_at` of classes with workloads outside memory, µs."""
        self._count()
        return self._oldest

    def take_changed(self) -> list[ClassName]:
        """Classes that changed since the last call. For one reader."""
        changed, self._changed = self._changed, {}
        return list(changed)

    def _count(self) -> None:
        uncounted, self._uncounted = self._uncounted, {}
        for name in uncounted:
            before = self._counted.pop(name, None)
            if before is not None:
                self._add(before, -1)
                self._oldest.leave(_account(before))
            found = self._find(*name)
            if found is not None and found.outside:
                after = self._counted[name] = found.outside_rows()
                self._add(after, 1)
                self._oldest.enter(_account(after), name, after.oldest_us)

    def _add(self, rows: OutsideRows, sign: int) -> None:
        account = _account(rows)
        self._workloads[account] += sign * rows.workloads
        self._pods[account] += sign * rows.workloads * rows.replicas
        if not self._workloads[account]:
            del self._workloads[account], self._pods[account]

    def _queued_at(self, account: Account, name: ClassName) -> int | None:
        found = self._counted.get(name)
        return found.oldest_us if found is not None and _account(found) == account else None


def _account(rows: OutsideRows) -> Account:
    return rows.customer, rows.namespace
