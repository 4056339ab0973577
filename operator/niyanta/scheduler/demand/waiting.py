"""All waiting workloads at one moment, for sizing and statistics: in the queue, in backoff, and in Postgres alone.

The first ones of each class are sized one by one; all others of the class count for the same pool. The cost is that of
the classes, not of the workloads, and nothing when nothing changed.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from niyanta.containment import Boundary, contained
from niyanta.engine.queue.class_queue import ClassQueue
from niyanta.engine.queue.order import Entry
from niyanta.engine.sizing.pool_fit import IdenticalWorkloads
from niyanta.engine.types import PendingWorkload
from niyanta.lifecycle import Phase
from niyanta.scheduler.backlog.stored_class import ClassName, OutsideRows
from niyanta.scheduler.cluster_api import ClusterReads, pods_of
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.workload_cache import WorkloadCache, pending

SIZED_WORKLOADS = 4000
SIZED_WORKLOADS_PER_CLASS = 2000
SIZED_CLASSES = 1000
"""Bounds of one sizing. Customers take turns in the choice of classes, half of which are those that no sizing had yet;
a class that isn't among them counts for the pool that it had last."""


@dataclass(slots=True)
class Count:
    """Number of workloads and of their pods, and the earliest time at which one was queued (microseconds)."""

    workloads: int = 0
    pods: int = 0
    oldest: int | None = None

    def add(self, workloads: int, replicas: int, queued_at: int | None) -> None:
        """Count workloads of so many replicas."""
        self.workloads += workloads
        self.pods += workloads * replicas
        self.see(queued_at)

    def see(self, queued_at: int | None) -> None:
        """Take the time at which a workload was queued into account."""
        if queued_at is not None:
            self.oldest = queued_at if self.oldest is None else min(self.oldest, queued_at)

    def age(self, now: int) -> float:
        """Seconds since the earliest one was queued; 0 without any."""
        return 0.0 if self.oldest is None else round(max(now - self.oldest, 0) / 1e6, 3)


@dataclass(frozen=True, slots=True)
class WaitingSince:
    """Times at which the oldest waiting workloads were queued, microseconds: by customer, and of all. `outside`: number
    of waiting workloads that only Postgres has."""

    customers: Mapping[str, int] = field(default_factory=dict)
    oldest: int | None = None
    outside: int = 0


@dataclass(slots=True)
class WaitingWork:
    """The waiting workloads. Classes are named as in the queue; a workload that isn't in it has the class it had."""

    sized: list[PendingWorkload] = field(default_factory=list)
    likes: dict[str, PendingWorkload] = field(default_factory=dict)
    """Class -> its last workload in `sized`."""
    rest: dict[str, Count] = field(default_factory=dict)
    """Classes with a workload in `sized` -> their other workloads."""
    unsized: dict[str, Count] = field(default_factory=dict)
    """Classes without one -> their workloads."""
    spaces: dict[str, Count] = field(default_factory=dict)
    """Namespace -> the workloads that only Postgres has, and the oldest of all waiting ones."""
    customers: dict[str, int] = field(default_factory=dict)
    """Customer -> time at which its oldest waiting workload was queued, microseconds."""
    outside: int = 0
    """Workloads that only Postgres has."""

    @property
    def oldest(self) -> int | None:
        """Time at which the oldest waiting workload was queued, microseconds."""
        return min(self.customers.values(), default=None)

    def bulk(self) -> tuple[IdenticalWorkloads, ...]:
        """The workloads that count like a sized one."""
        return tuple(IdenticalWorkloads(name, self.likes[name], count.workloads) for name, count in self.rest.items())

    def _see(self, customer: str, namespace: str, queued_at: int) -> None:
        self.customers[customer] = min(self.customers.get(customer, queued_at), queued_at)
        self.spaces.setdefault(namespace, Count()).see(queued_at)

    def _count(self, name: str, workloads: int, replicas: int, queued_at: int | None) -> None:
        counts = self.rest if name in self.likes else self.unsized
        counts.setdefault(name, Count()).add(workloads, replicas, queued_at)

    def _size(self, name: str, workload: PendingWorkload) -> None:
        self.sized.append(workload)
        self.likes[name] = workload


class WaitingReader:
    """Reads the waiting workloads of one leadership."""

    def __init__(self, workloads: WorkloadCache, cluster: ClusterReads) -> None:
        self._workloads = workloads
        self._cluster = cluster
        self._names: dict[ClassName, str] = {}
        """Stored class -> the class that its rows had in the queue."""
        self._last: tuple[tuple[int, int, int], WaitingWork] | None = None

    def read(self, known: Collection[str], *, now: int) -> WaitingWork:
        """The waiting workloads. `known`: classes that were sized before."""
        workloads = self._workloads
        changes = workloads.queue.changes, workloads.backlog.changes, workloads.tally.changes
        if self._last is not None and self._last[0] == changes and not workloads.away:
            return self._last[1]
        found = WaitingWork()
        chosen = self._choose(known)
        self._size_queued(found, chosen)
        self._add_away(found, now)
        self._add_outside(found)
        self._last = changes, found
        return found

    # --- the queue ---

    def _choose(self, known: Collection[str]) -> list[ClassQueue]:
        """The classes to size, customer by customer in turn, each in queue order."""
        classes = self._workloads.queue.classes()
        if len(classes) <= SIZED_CLASSES:
            return classes
        unknown = _in_turn([found for found in classes if found.name not in known])
        first = [found for found, _ in zip(unknown, range(SIZED_CLASSES // 2), strict=False)]
        names = {found.name for found in first}
        rest = (found for found in _in_turn(classes) if found.name not in names)
        return [found for found, _ in zip(chain(first, rest), range(SIZED_CLASSES), strict=False)]

    def _size_queued(self, found: WaitingWork, chosen: Iterable[ClassQueue]) -> None:
        sized: list[tuple[Entry, PendingWorkload, str]] = []
        further: list[tuple[Entry, PendingWorkload, str]] = []
        taken: dict[str, int] = {}
        for one in chosen:
            places = one.after(None, SIZED_WORKLOADS_PER_CLASS)
            sized += [(entry, workload, one.name) for entry, workload in places[:1]]
            further += [(entry, workload, one.name) for entry, workload in places[1:]]
        further.sort(key=lambda place: place[0])
        sized += further[: max(0, SIZED_WORKLOADS - len(sized))]
        sized.sort(key=lambda place: place[0])
        for _, workload, name in sized:
            found._size(name, workload)
            taken[name] = taken.get(name, 0) + 1
        for one in self._workloads.queue.classes():
            oldest, first = one.oldest(), one.first()
            if oldest is None or first is None:
                continue
            found._see(one.customer, one.namespace, oldest.queued_at)
            left = len(one) - taken.get(one.name, 0)
            if left:
                found._count(one.name, left, first.replicas, oldest.queued_at)

    # --- beside the queue ---

    def _add_away(self, found: WaitingWork, now: int) -> None:
        """Workloads that aren't in the queue; those whose last pods are still stopping stand for themselves there."""
        away = [tracked for id_ in self._workloads.away if (tracked := self._workloads.get(id_)) is not None]
        for tracked in sorted(away, key=lambda tracked: (tracked.row.queued_at_us, tracked.id)):
            row = tracked.row
            found._see(row.customer, row.namespace, row.queued_at_us)
            waiting: PendingWorkload | None = None
            with contained(Boundary.STATISTICS, tracked.id):
                waiting = self._waiting(tracked, now)
            if waiting is None:
                continue
            name = tracked.class_name or tracked.id
            is_first = name not in found.likes and len(found.likes) < SIZED_CLASSES
            if is_first or len(found.sized) < SIZED_WORKLOADS:
                found._size(name, waiting)
            else:
                found._count(name, 1, row.replicas, row.queued_at_us)

    def _waiting(self, tracked: TrackedWorkload, now: int) -> PendingWorkload | None:
        if tracked.requirements is None or tracked.applying or tracked.row.phase is not Phase.PENDING:
            return None
        if not all(pod.over for pod in pods_of(self._cluster, tracked.row)):
            return None
        return pending(tracked.row, tracked.requirements, tracked.subject, now=now)

    def _add_outside(self, found: WaitingWork) -> None:
        names, self._names = self._names, {}
        for rows in self._workloads.backlog.outside():
            found.outside += rows.workloads
            found._see(rows.customer, rows.namespace, rows.oldest_us)
            found.spaces[rows.namespace].add(rows.workloads, rows.replicas, None)
            stored = rows.customer, rows.queue_class
            name = self._class_of(rows) or names.get(stored, "")
            if name:
                self._names[stored] = name
                found._count(name, rows.workloads, rows.replicas, rows.oldest_us)

    def _class_of(self, rows: OutsideRows) -> str:
        """The class in the queue of a row of a stored class; empty: none is in memory."""
        tracked = None if rows.like is None else self._workloads.get(rows.like)
        return "" if tracked is None else tracked.class_name or tracked.id


def _in_turn(classes: Iterable[ClassQueue]) -> Iterator[ClassQueue]:
    """Classes of each customer in turn, those of a customer in the order of their first workloads."""
    by_customer: defaultdict[str, list[ClassQueue]] = defaultdict(list)
    for found in classes:
        by_customer[found.customer].append(found)
    turns = deque(iter(sorted(mine, key=lambda found: found.entries()[0])) for _, mine in sorted(by_customer.items()))
    while turns:
        following = next(turns[0], None)
        if following is None:
            turns.popleft()
        else:
            turns.rotate(-1)
            yield following
