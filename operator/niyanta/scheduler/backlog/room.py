"""Room for pending REST rows in memory, shared by customers, and the turns in which their classes are loaded.

No backlog of one customer keeps the others out, and no class of a customer keeps its other classes out. Pure.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from heapq import heappop, heappush

from niyanta.scheduler.backlog.stored_class import StoredClass
from niyanta.store.queue_classes import ClassRequest

MOST_ROWS = 50_000
"""Most pending REST rows in memory."""

RESERVE = 0.25
"""Part of MOST_ROWS for customers that have less than an equal share of it."""

HasRoom = Callable[[str, str], bool]
"""(customer, namespace) -> True if their budget of bytes has room."""


class _Turns:
    """The classes of one customer that are due: first those by their highest key, then those that were in memory before
    and had to make room."""

    __slots__ = ("_by_key", "_number", "again")

    def __init__(self) -> None:
        self._by_key: list[tuple[int, int, int, StoredClass]] = []
        """(turn, -key, number of the entry, class)"""
        self._number = 0
        self.again: deque[StoredClass] = deque()

    def __len__(self) -> int:
        return len(self._by_key) + len(self.again)

    def put(self, found: StoredClass) -> None:
        self._number += 1
        heappush(self._by_key, (found.turn, -found.key, self._number, found))

    def next(self) -> tuple[StoredClass, bool]:
        """The next class, and True if it had to make room before."""
        return (self.again.popleft(), True) if not self._by_key else (heappop(self._by_key)[3], False)


class Room:
    """Rows in memory by customer and class, and the classes that are due."""

    def __init__(self, most_rows: int) -> None:
        self.most_rows = most_rows
        self.total = 0
        """Pending REST rows in memory."""
        self.no_bytes: set[tuple[str, str]] = set()
        """Customers and namespaces whose budget of bytes is used up while rows of theirs wait outside."""
        self._loaded: dict[str, dict[StoredClass, None]] = {}
        """Customer -> its classes with rows in memory, those that came first at the front."""
        self._rows: Counter[str] = Counter()
        """Customer -> its rows in memory."""
        self._due: dict[str, _Turns] = {}
        self._no_room: dict[str, None] = {}
        """Customers of whom a class could not be loaded."""

    # --- rows in memory ---

    def add(self, found: StoredClass, workload_id: str, key: int) -> None:
        """A row is in memory."""
        found.rows[workload_id] = key
        self._loaded.setdefault(found.customer, {})[found] = None
        self._rows[found.customer] += 1
        self.total += 1

    def take(self, found: StoredClass, workload_id: str) -> None:
        """A row is no longer in memory."""
        del found.rows[workload_id]
        self.total -= 1
        self._rows[found.customer] -= 1
        if not self._rows[found.customer]:
            del self._rows[found.customer]
        if not found.rows:
            classes = self._loaded[found.customer]
            del classes[found]
            if not classes:
                del self._loaded[found.customer]

    def rows_of(self, customer: str) -> int:
        """Number of the customer's rows in memory."""
        return self._rows[customer]

    def _share(self, customer: str) -> int:
        # One share more than there are customers, so that a new one finds room.
        return self.most_rows // (1 + len(self._loaded.keys() | self._due.keys() | {customer}))

    def left(self, customer: str, taken: Counter[str] | None = None) -> int:
        """Rows of the customer that memory has room for, besides those that were `taken` by customers already."""
        mine, total = self._rows[customer], self.total
        if taken is not None:
            mine, total = mine + taken[customer], total + taken.total()
        beyond = int(self.most_rows * (1 - RESERVE)) - total
        return max(0, beyond, min(self._share(customer) - mine, self.most_rows - total))

    # --- what to load ---

    @property
    def due(self) -> int:
        """Number of classes that are due."""
        return sum(map(len, self._due.values()))

    def put(self, found: StoredClass) -> None:
        """Make a class due."""
        if found.name and not found.is_due:
            found.is_due = True
            self._due.setdefault(found.customer, _Turns()).put(found)

    def put_again(self, found: StoredClass) -> None:
        """Make a class due after the others of its customer."""
        if found.name and not found.is_due:
            found.is_due = True
            self._due.setdefault(found.customer, _Turns()).again.append(found)

    def take_tried(self, customer: str) -> StoredClass | None:
        """A class of the customer that was in memory and isn't now; it is no longer due."""
        turns = self._due.get(customer)
        while turns is not None and turns.again:
            found = turns.again.popleft()
            found.is_due = False
            if not found.rows and found.pending:
                return found
        return None

    def to_load(self, most: int, has_room: HasRoom) -> list[ClassRequest]:
        """At most `most` classes to load now. Customers take turns, each with the class of its highest key first; one
        without room waits for `to_unload`."""
        chosen: list[ClassRequest] = []
        taken: Counter[str] = Counter()
        later: list[tuple[StoredClass, bool]] = []
        customers = deque(customer for customer in self._due if customer not in self._no_room)
        while customers and len(chosen) < most:
            customer = customers.popleft()
            turns = self._due[customer]
            found, again = turns.next()
            found.is_due = False
            if found.outside:
                room = min(self.left(customer, taken), found.outside)
                if room <= 0:
                    self._no_room[customer] = None
                    later.append((found, again))
                    continue
                if has_room(customer, found.namespace):
                    more = max(1, min(room, found.wanted - len(found.rows)))
                    taken[customer] += more
                    chosen.append(ClassRequest(customer, found.name, len(found.rows) + more))
                else:
                    later.append((found, again))
                    self.no_bytes.add((customer, found.namespace))
            if turns:
                customers.append(customer)
        for found, again in reversed(later):
            found.is_due = True
            if again:
                self._due[found.customer].again.appendleft(found)
            else:
                self._due[found.customer].put(found)
        for customer in [customer for customer, turns in self._due.items() if not turns]:
            del self._due[customer]
        return chosen

    # --- making room ---

    def to_unload(self, most: int, is_parked: Callable[[str], bool]) -> list[str]:
        """About `most` rows to unload for each customer without room, so that its other classes get their turn: rows of
        its classes that have been in memory longest, when all of them are parked (`is_parked` of a row).

        Also rows of customers that hold more than their share while memory is full, and of customers and namespaces
        whose budget of bytes is used up.
        """
        ids: list[str] = []
        waiting, self._no_room = list(self._no_room), {}
        full = [customer for customer in waiting if self._rows[customer] >= self._share(customer)]
        if self.total >= self.most_rows:
            full += [customer for customer, rows in self._rows.items() if rows > self._share(customer)]
        for customer in dict.fromkeys(full):
            ids += self._oldest_parked(customer, most, is_parked)
        no_bytes, self.no_bytes = self.no_bytes, set()
        for customer, namespace in no_bytes:
            ids += self._oldest_parked(customer, most, is_parked, namespace)
        return list(dict.fromkeys(ids))

    def _oldest_parked(
        self, customer: str, most: int, is_parked: Callable[[str], bool], namespace: str | None = None
    ) -> list[str]:
        ids: list[str] = []
        classes = self._loaded.get(customer, {})
        for found in list(classes):
            if len(ids) >= most:
                break
            if namespace is not None and found.namespace != namespace:
                continue
            del classes[found]
            classes[found] = None
            if found.name and all(map(is_parked, found.rows)):
                ids += found.rows
                found.wanted = 1
        return ids
