"""The backlog: pending rows of the REST door by stored class; how many Postgres has, and which of them are in memory.

The first rows of each class are in memory, one at the start and more with each placement. `WorkloadCache` tells what
enters and leaves memory; `loader` counts, asks what to load, and loads. Without I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from niyanta.scheduler.backlog import stored_class
from niyanta.scheduler.backlog.outside_counts import OutsideCounts
from niyanta.scheduler.backlog.room import MOST_ROWS, HasRoom, Room
from niyanta.scheduler.backlog.stored_class import ClassName, OutsideRows, StoredClass
from niyanta.store.queue_classes import ClassHeads, ClassRequest, WaitingClass
from niyanta.store.rows import WorkloadRow


class Backlog:
    """Stored classes with pending REST rows."""

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self.room = Room(most_rows)
        self._classes: dict[ClassName, StoredClass] = {}
        self._class_of: dict[str, StoredClass] = {}
        """Row in memory -> its class."""
        self._known: Counter[str] = Counter()
        """Customer -> its classes that are known."""
        self._pending: Counter[str] = Counter()
        self._uncounted: dict[ClassName, None] = {}
        """Classes whose count may be out of date, oldest first."""
        self._loading: set[str] = set()
        self._promised: dict[ClassName, list[int]] = {}
        """Queue keys of the rows that `hear` let in and that aren't loaded yet, by class."""
        self._promises: Counter[str] = Counter()
        """Customer -> the number of these rows."""
        self.outside_counts = OutsideCounts(self.find)
        """Running sums of `outside`."""
        self._pass = 0
        self._last_known: dict[str, str] = {}
        """Customer with too many classes -> the last one that became known; the next ones come after it."""
        self._went_on: set[str] = set()
        """Customers of whom further classes became known in this pass."""

    # --- reading ---

    @property
    def total(self) -> int:
        """Pending REST rows in memory."""
        return self.room.total

    @property
    def due(self) -> int:
        """Number of classes that are to be loaded."""
        return self.room.due

    @property
    def is_deep(self) -> bool:
        """True if Postgres has pending rows that aren't in memory."""
        return sum(self._pending.values()) > self.total

    def outside(self) -> Iterator[OutsideRows]:
        """Classes with rows that only Postgres has. O(classes)."""
        return (found.outside_rows() for found in list(self._classes.values()) if found.outside)

    def pending_by_customer(self) -> dict[str, int]:
        """Pending REST rows by customer, in memory or not."""
        return {customer: count for customer, count in self._pending.items() if count > 0}

    @property
    def oldest_us(self) -> int | None:
        """The smallest `queued_at` of all pending REST rows, µs; None without any. O(classes)."""
        return min((found.oldest_us for found in self._classes.values() if found.pending), default=None)

    def names(self) -> list[ClassName]:
        """All classes with pending REST rows."""
        return list(self._classes)

    def find(self, customer: str, name: str) -> StoredClass | None:
        """A class with pending REST rows; None: none is known."""
        return self._classes.get((customer, name))

    # --- what enters and leaves memory ---

    def enter(self, row: WorkloadRow) -> None:
        """A pending REST row is in memory, or changed there."""
        found = self._class_of.get(row.id)
        if found is not None and (found.customer, found.name) == (row.customer, row.queue_class):
            found.rows[row.id] = row.queue_key
            return
        if found is not None:
            self._take(found, row.id)
            self._change(found, -1)
            self._doubt(found)
        found = self._class(row.customer, row.queue_class)
        self._describe(found, row)
        self.room.add(found, row.id, row.queue_key)
        self._class_of[row.id] = found
        self.outside_counts.touch(found)
        if row.id not in self._loading or found.pending < len(found.rows):
            self._change(found, 1)
            self._doubt(found)

    def leave(self, workload_id: str, *, placed: bool = False) -> None:
        """A row is no longer pending."""
        found = self._class_of.get(workload_id)
        if found is None:
            return
        self._take(found, workload_id)
        self._change(found, -1)
        self._doubt(found)
        if placed:
            found.wanted = min(2 * found.wanted, stored_class.GROWN_ROWS_OF_CLASS)
        self._look_at(found)

    def unload(self, workload_id: str) -> None:
        """A row that is still pending is no longer in memory. Its class is loaded again after the others."""
        found = self._class_of.get(workload_id)
        if found is not None:
            self._take(found, workload_id)
            found.complete = False
            self.room.put_again(found)

    def _take(self, found: StoredClass, workload_id: str) -> None:
        self.room.take(found, workload_id)
        del self._class_of[workload_id]
        self.outside_counts.touch(found)

    # --- classes ---

    def _class(self, customer: str, name: str) -> StoredClass:
        found = self._classes.get((customer, name))
        if found is None:
            found = self._classes[customer, name] = StoredClass(customer, name, counted_in=self._pass)
            self._known[customer] += 1
        return found

    def _describe(self, found: StoredClass, row: WorkloadRow) -> None:
        if not found.namespace:
            found.namespace, found.replicas, found.oldest_us = row.namespace, row.replicas, row.queued_at_us

    def _may_know(self, customer: str, name: str) -> bool:
        """True if one more class of the customer can be known. Beyond the bound, they take turns in the order of their
        names, and each takes the place of one that was in memory and isn't now."""
        most = stored_class.MOST_CLASSES
        if len(self._classes) < most or self._known[customer] <= most // (len(self._known) + 1):
            self._last_known[customer] = name
            return True
        if name <= self._last_known.get(customer, ""):
            return False
        tried = self.room.take_tried(customer)
        if tried is None:
            return False
        self._change(tried, -tried.pending)
        self._last_known[customer] = name
        self._went_on.add(customer)
        return True

    def _change(self, found: StoredClass, by: int) -> None:
        """Change the number of pending rows; a class without any is forgotten."""
        by = max(by, -found.pending)
        found.pending += by
        if by:
            self.outside_counts.touch(found)
        self._pending[found.customer] += by
        if not self._pending[found.customer]:
            del self._pending[found.customer]
        name = found.customer, found.name
        if not found.pending and not found.rows and self._classes.get(name) is found:
            del self._classes[name]
            self._known[found.customer] -= 1
            if not self._known[found.customer]:
                del self._known[found.customer]

    def doubt(self, customer: str, name: str) -> None:
        """Rows of a class that aren't in memory were moved: its count is out of date."""
        if name:
            self._uncounted[customer, name] = None

    def _doubt(self, found: StoredClass) -> None:
        self.doubt(found.customer, found.name)

    # --- counts ---

    def begin_pass(self) -> None:
        """A pass over all classes in Postgres begins; `counted` follows for each page."""
        self._pass += 1
        self._went_on.clear()

    def end_pass(self) -> None:
        """The pass is over: classes that it didn't find have no pending row in Postgres."""
        for found in list(self._classes.values()):
            if found.name and found.counted_in < self._pass:
                self._change(found, len(found.rows) - found.pending)
        for customer in self._last_known.keys() - self._went_on:
            del self._last_known[customer]

    def take_uncounted(self, most: int) -> list[ClassName]:
        """At most `most` classes to count anew."""
        names = [name for name, _ in zip(list(self._uncounted), range(most), strict=False)]
        for name in names:
            del self._uncounted[name]
        return names

    def counted(self, counts: Iterable[WaitingClass], asked: Collection[ClassName] = ()) -> None:
        """Take over what Postgres counted. `asked`: the classes that were counted, of which some may have no row."""
        missing = dict.fromkeys(asked)
        for one in counts:
            missing.pop((one.customer, one.queue_class), None)
            self._count(one)
        for name in missing:
            found = self._classes.get(name)
            if found is not None:
                self._change(found, len(found.rows) - found.pending)

    def _count(self, one: WaitingClass) -> None:
        if (one.customer, one.queue_class) not in self._classes and not (
            one.pending_rest and self._may_know(one.customer, one.queue_class)
        ):
            return
        found = self._class(one.customer, one.queue_class)
        if not found.pending and one.customer in self._went_on:
            found.turn = self._pass
        found.counted_in = self._pass
        before = found.oldest_us, found.namespace, found.replicas
        found.namespace, found.replicas = one.namespace, one.replicas
        is_older = bool(found.oldest_us) and one.oldest_us < found.oldest_us
        if (one.oldest_us, one.namespace, one.replicas) != before:
            self.outside_counts.touch(found)
        is_better = one.key is not None and one.key > found.key
        found.oldest_us, found.key = one.oldest_us, found.key if one.key is None else one.key
        grew = one.pending_rest > found.pending
        self._change(found, max(one.pending_rest, len(found.rows)) - found.pending)
        if found.outside and (is_older or is_better or grew or len(found.rows) < found.wanted):
            found.complete = False
        if found.outside and (is_older or is_better):
            self.room.put(found)
        self._look_at(found)

    # --- what other processes wrote ---

    def hear(self, row: WorkloadRow, has_room: HasRoom) -> bool:
        """A pending REST row that isn't in memory was added or changed; True: it is to be loaded now.

        That is so for the first rows of a class, as long as memory has much room, and for a row that is in front of all
        that memory has of its class.
        """
        name = row.customer, row.queue_class
        if not row.queue_class or (name not in self._classes and not self._may_know(*name)):
            return False
        found = self._class(*name)
        self._describe(found, row)
        found.complete = False
        self._doubt(found)
        promised = self._promised.setdefault(name, [])
        few = stored_class.MOST_ROWS_OF_CLASS if self.total < self.room.most_rows // 2 else found.wanted
        rows = len(found.rows) + len(promised)
        best = max((*found.rows.values(), *promised), default=row.queue_key)
        if rows >= few and (row.queue_key <= best or rows >= stored_class.GROWN_ROWS_OF_CLASS):
            return False
        if not self.room.left(row.customer, self._promises) or not has_room(row.customer, row.namespace):
            return False
        promised.append(row.queue_key)
        self._promises[row.customer] += 1
        return True

    # --- loading ---

    def _look_at(self, found: StoredClass) -> None:
        """Make a class due if it lacks rows."""
        if found.lacks:
            self.room.put(found)

    def to_load(self, most: int, has_room: HasRoom) -> list[ClassRequest]:
        """As `Room.to_load`."""
        return self.room.to_load(most, has_room)

    def to_unload(self, most: int, is_parked: Callable[[str], bool]) -> list[str]:
        """As `Room.to_unload`."""
        return self.room.to_unload(most, is_parked)

    def loading(self, ids: Collection[str]) -> None:
        """These rows are read and will enter; Postgres counts them already. Empty: the reading is over."""
        self._loading = set(ids)
        if not ids:
            self._promised.clear()
            self._promises.clear()

    def loaded(self, heads: ClassHeads) -> list[str]:
        """The first rows of a class, as Postgres gave them; returns those that memory lacks."""
        found = self._classes.get((heads.customer, heads.queue_class))
        if found is None:
            return []
        named = [*heads.ids, heads.oldest, heads.highest_priority]
        ids = [id_ for id_ in dict.fromkeys(named) if id_ is not None and id_ not in self._class_of]
        found.complete = heads.is_complete
        if ids:
            self._doubt(found)  # a row that can't be read stays outside
        return ids
