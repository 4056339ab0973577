"""The heads of the active classes in the order of one cycle: customers by their best head, and each customer's classes
by theirs.

While other customers have active heads, a customer's refused decisions are limited to its part of the cycle's budget,
counted in work and not by a clock; then it is put off until the others are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from niyanta.engine.queue.class_queue import ClassQueue
from niyanta.engine.queue.order import Entry
from niyanta.engine.types import PendingWorkload

REFUSED_WORK = 40_000_000
"""Work of refused decisions in one cycle, in comparisons of one worker with one check: about 0.1 s."""

DECISION_WORK = 30_000
"""What a refused decision costs beside its comparisons, in the same unit: on a small cluster that is nearly all."""

_MOST_READ = 64


class HeadCursor:
    """One class's place in the cycle."""

    __slots__ = ("_at", "_read", "_size", "queue")

    def __init__(self, queue: ClassQueue) -> None:
        self.queue = queue
        self._read: list[tuple[Entry, PendingWorkload]] = []
        self._at = -1
        self._size = 1

    def workload(self) -> PendingWorkload:
        """The head."""
        return self._read[self._at][1]

    def move(self) -> Entry | None:
        """Go to the next workload; returns its place in the order, None at the end."""
        self._at += 1
        if self._at == len(self._read):
            self._read = self.queue.after(self._read[-1][0] if self._read else None, self._size)
            self._at, self._size = 0, min(4 * self._size, _MOST_READ)
            if not self._read:
                return None
        return self._read[self._at][0]


class _Customer:
    """One customer's active classes in the cycle, by their heads."""

    __slots__ = ("heads", "name", "spent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.heads: list[tuple[Entry, HeadCursor]] = []
        self.spent = 0


class Heads:
    """Gives out heads one by one. After each, exactly one of `go_on`, `leave` and `leave_customer` is called."""

    def __init__(self, classes: Mapping[str, Sequence[ClassQueue]]) -> None:
        """`classes`: customer -> its classes to decide."""
        self.deferred = 0
        """Customers that were put off until the others were done."""
        self._queue: list[tuple[Entry, _Customer]] = []
        self._waiting: list[tuple[Entry, _Customer]] = []
        """Customers whose part of the budget is spent."""
        for name, queues in classes.items():
            customer = _Customer(name)
            for queue in queues:
                cursor = HeadCursor(queue)
                entry = cursor.move()
                if entry is not None:
                    customer.heads.append((entry, cursor))
            if customer.heads:
                heapify(customer.heads)
                self._queue.append((customer.heads[0][0], customer))
        heapify(self._queue)
        self._part = max(REFUSED_WORK // max(len(self._queue), 1), 1)

    def next(self) -> HeadCursor | None:
        """The class whose head is decided next; None when all are done."""
        if not self._queue:
            if not self._waiting:
                return None
            self._queue, self._waiting = self._waiting, []
            heapify(self._queue)
            for _, customer in self._queue:
                customer.spent = 0
        return self._queue[0][1].heads[0][1]

    def go_on(self) -> None:
        """The class's next workload is its head now."""
        customer = self._queue[0][1]
        cursor = customer.heads[0][1]
        entry = cursor.move()
        if entry is None:
            heappop(customer.heads)
        else:
            heapreplace(customer.heads, (entry, cursor))
        self._settle(customer)

    def leave(self, work: int = 0) -> None:
        """The class is done in this cycle. `work`: comparisons of its refused decision; 0 if it cost nothing."""
        customer = self._queue[0][1]
        heappop(customer.heads)
        customer.spent += work + DECISION_WORK if work else 0
        self._settle(customer)

    def leave_customer(self) -> list[tuple[ClassQueue, PendingWorkload]]:
        """The customer is done in this cycle; returns its classes that were not decided, with their heads."""
        _, customer = heappop(self._queue)
        return [(cursor.queue, cursor.workload()) for _, cursor in customer.heads]

    def left(self) -> list[HeadCursor]:
        """Classes whose heads were not decided."""
        return [cursor for _, customer in (*self._queue, *self._waiting) for _, cursor in customer.heads]

    def _settle(self, customer: _Customer) -> None:
        if not customer.heads:
            heappop(self._queue)
        elif customer.spent >= self._part and (len(self._queue) > 1 or self._waiting):
            heappop(self._queue)
            self.deferred += 1
            heappush(self._waiting, (customer.heads[0][0], customer))
        else:
            heapreplace(self._queue, (customer.heads[0][0], customer))
