"""The waiting workloads by class: in the queue, in backoff, and in Postgres alone.

`follow` looks at what changed and at nothing else. `select` chooses the workloads of one sizing: the first ones of
some classes, customers in turn. The other classes count for the first pool that could hold a pod of theirs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import merge, nsmallest
from itertools import islice

from niyanta.aio import in_slices
from niyanta.containment import Boundary, contained
from niyanta.engine.sizing.pool_fit import FitKind, PoolFit
from niyanta.engine.types import PendingWorkload
from niyanta.lifecycle import Phase
from niyanta.scheduler.backlog.stored_class import ClassName, StoredClass
from niyanta.scheduler.cluster_api import ClusterReads, pods_of
from niyanta.scheduler.demand.pool_counts import PoolCounts
from niyanta.scheduler.demand.waiting import Count, Selection
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.workload_cache import WorkloadCache, pending

SIZED_WORKLOADS = 4000
SIZED_WORKLOADS_PER_CLASS = 2000
SIZED_CLASSES = 1000
"""Bounds of one sizing."""

FITTED_CLASSES = 10_000
FITTED_REQUIREMENTS = 500
"""Most classes beyond the sized ones whose pool is looked for at once, and most different requirements of theirs: each
costs about 0.2 ms on 5,000 workers."""

SLICE_CLASSES = 500
"""Classes or workloads that are looked at before other tasks of the event loop run."""

ROUNDS = 3
"""Most rounds over what changed, when more changes while other tasks run."""

Place = tuple[int, int, int, str]
"""A class's place among those of its customer: 0 and the place of its first workload in the queue; for one with
workloads in backoff alone 1, 0, time queued and id."""

_OUTSIDE_ONLY: Place = (2, 0, 0, "")
"""The place of a class whose workloads only Postgres has."""


@dataclass(slots=True, eq=False)
class _Class:
    """One class of the queue, and its waiting workloads."""

    name: str
    like: PendingWorkload
    """One of its workloads, which may be gone by now."""
    place: Place | None = None
    """None: it has no waiting workloads."""
    away: dict[str, PendingWorkload] = field(default_factory=dict)
    """Workloads that aren't in the queue, and whose pods are all over: none appears before the next attempt."""
    stored: dict[ClassName, tuple[int, int]] = field(default_factory=dict)
    """Its stored classes -> their workloads outside memory, and the earliest time, µs."""
    count: Count = field(default_factory=Count)
    """All its workloads; replaced, never changed."""

    @property
    def customer(self) -> str:
        """The customer of all its workloads."""
        return self.like.subject.customer


class WaitingClasses:
    """The waiting workloads of one leadership by class. It is the reader of the journals of memory."""

    def __init__(self, workloads: WorkloadCache, cluster: ClusterReads) -> None:
        self._workloads = workloads
        self._cluster = cluster
        self.fits: dict[str, PoolFit] = {}
        """Class -> its pool by the last sizing that it was in, else the first pool that could hold a pod of it."""
        self.unsized = PoolCounts()
        """Classes that aren't in the selection."""
        self._classes: dict[str, _Class] = {}
        self._orders: dict[str, list[tuple[Place, str]]] = {}
        """Customer -> its classes in order."""
        self._class_of_away: dict[str, str] = {}
        self._stopping: dict[str, None] = {}
        """Workloads whose last pods still stop; these pods stand for them."""
        self._class_of_stored: dict[ClassName, str] = {}
        self._unfitted: dict[str, None] = {}
        """Classes whose pool isn't known, or is that of earlier pools."""
        self._selection: Selection | None = None
        """None: the workloads changed since it was made."""
        self._chosen: frozenset[str] = frozenset()
        # What is there is read as a change; the journals may go back further, which does no harm.
        self._changed = dict.fromkeys(queue.name for queue in workloads.queue.classes())
        self._away = dict.fromkeys(workloads.away)
        self._stored = dict.fromkeys(workloads.backlog.names())

    # --- changes ------------------------------------------------------------------------------------------------------

    async def follow(self, *, now: int) -> None:
        """Look at what changed. Other tasks run in between."""
        for _ in range(ROUNDS):
            names, ids = self._workloads.changes.take()
            self._changed.update(dict.fromkeys(names))
            self._away.update(dict.fromkeys(ids))
            self._stored.update(dict.fromkeys(self._workloads.backlog.outside_counts.take_changed()))
            away = list(self._away | self._stopping)
            async for part in in_slices(away, SLICE_CLASSES):
                for id_ in part:
                    self._away.pop(id_, None)
                    self._follow_away(id_, now)
            stored = list(self._stored)
            async for stored_names in in_slices(stored, SLICE_CLASSES):
                for stored_name in stored_names:
                    self._stored.pop(stored_name, None)
                    self._follow_stored(stored_name)
            changed = list(self._changed)
            async for part in in_slices(changed, SLICE_CLASSES):
                for name in part:
                    self._changed.pop(name, None)
                    self._count(name)
            if max(len(away), len(stored), len(changed)) <= SLICE_CLASSES:
                return  # no other task ran

    def _follow_away(self, id_: str, now: int) -> None:
        """A workload left the queue, came back, or changed outside it."""
        known = self._class_of_away.pop(id_, None)
        if known is not None:
            del self._classes[known].away[id_]
            self._changed[known] = None
        self._stopping.pop(id_, None)
        tracked = self._workloads.get(id_) if id_ in self._workloads.away else None
        if tracked is None or tracked.requirements is None or tracked.row.phase is not Phase.PENDING:
            return
        self._stopping[id_] = None
        with contained(Boundary.STATISTICS, id_):
            if not tracked.applying and all(pod.over for pod in pods_of(self._cluster, tracked.row)):
                del self._stopping[id_]
                waiting = pending(tracked.row, tracked.requirements, tracked.subject, now=now)
                found = self._class(self._workloads.name_class(tracked), waiting)
                found.away[id_] = waiting
                self._class_of_away[id_] = found.name

    def _follow_stored(self, name: ClassName) -> None:
        """The rows of a stored class changed, or those of them that are in memory."""
        found = self._workloads.backlog.find(*name)
        before = self._class_of_stored.get(name)
        after = None if found is None else self._class_like(found) or before
        if before is not None and before != after:
            del self._class_of_stored[name], self._classes[before].stored[name]
            self._changed[before] = None
        if found is not None and after is not None:
            self._class_of_stored[name] = after
            counted = found.outside, found.oldest_us
            if self._classes[after].stored.get(name) != counted:
                self._classes[after].stored[name] = counted
                self._changed[after] = None

    def _class_like(self, found: StoredClass) -> str | None:
        """The class in the queue of the rows of a stored class; None: no row that tells it is in memory."""
        for id_ in islice(found.rows, 3):
            tracked = self._workloads.get(id_)
            if tracked is not None and tracked.requirements is not None:
                return self._class_of(tracked, tracked.class_name or self._workloads.name_class(tracked))
        return None

    def _class_of(self, tracked: TrackedWorkload, name: str) -> str:
        if name not in self._classes:
            assert tracked.requirements is not None
            self._class(name, pending(tracked.row, tracked.requirements, tracked.subject, now=0, queue_class=name))
        return name

    def _class(self, name: str, like: PendingWorkload) -> _Class:
        found = self._classes.get(name)
        if found is None:
            found = self._classes[name] = _Class(name, like)
            self._unfitted[name] = None
        self._changed[name] = None
        return found

    def _count(self, name: str) -> None:
        """Count the workloads of a class anew, and give it its place."""
        queue = self._workloads.queue.find_class(name)
        first = None if queue is None else queue.first()
        found = self._classes.get(name)
        if found is None:
            if first is None:
                return
            found = self._class(name, first)
            del self._changed[name]
        if first is None and not found.away:
            self._move_stored(found)
        count, place = Count(), None
        for outside, oldest_us in found.stored.values():
            if outside:
                count.add(outside, found.like.replicas, oldest_us)
                place = _OUTSIDE_ONLY
        if found.away:
            found.like = min(found.away.values(), key=_age)
            for workload in found.away.values():
                count.add(1, workload.replicas, workload.queued_at)
            place = 1, 0, *_age(found.like)
        if queue is not None and first is not None:
            found.like = first
            oldest = queue.oldest()
            count.add(len(queue), first.replicas, None if oldest is None else oldest.queued_at)
            place = 0, *queue.entries()[0]
        found.count = count
        self._selection = None
        self._put(found, place)

    def _move_stored(self, found: _Class) -> None:
        """Its workloads in memory are gone, or belong to other classes now."""
        for name in list(found.stored):
            stored = self._workloads.backlog.find(*name)
            if stored is not None and self._class_like(stored) not in (None, found.name):
                self._follow_stored(name)

    def _put(self, found: _Class, place: Place | None) -> None:
        if place != found.place:
            order = self._orders.setdefault(found.customer, [])
            if found.place is not None:
                del order[bisect_left(order, (found.place, found.name))]
            if place is not None:
                insort(order, (place, found.name))
            if not order:
                del self._orders[found.customer]
            found.place = place
        self._count_unsized(found.name)
        if place is None and not found.stored:
            del self._classes[found.name]
            self.fits.pop(found.name, None)
            self._unfitted.pop(found.name, None)

    def _count_unsized(self, name: str) -> None:
        found, fit = self._classes.get(name), self.fits.get(name)
        if found is None or name in self._chosen or not found.count.workloads or fit is None or not fit.pool:
            self.unsized.remove(name)
        else:
            self.unsized.put(name, found.customer, fit.pool, found.count)

    # --- pools of classes ---------------------------------------------------------------------------------------------

    @property
    def has_unfitted(self) -> bool:
        """True if the pool of some class outside the selection isn't known."""
        return any(name not in self._chosen for name in self._unfitted)

    def unfitted(self) -> list[tuple[str, PendingWorkload]]:
        """Some classes outside the selection whose pool isn't known, each with one of its workloads. Classes share
        requirements, so the bound is that of different ones."""
        found: list[tuple[str, PendingWorkload]] = []
        different: set[int] = set()
        for name in self._unfitted:
            if name in self._chosen:
                continue
            like = self._classes[name].like
            different.add(id(like.requirements))
            if len(different) > FITTED_REQUIREMENTS or len(found) >= FITTED_CLASSES:
                break
            found.append((name, like))
        return found

    def fit(self, fits: Mapping[str, PoolFit]) -> None:
        """Take over pools of classes. A class that its customer's limit keeps waiting has the pool that it had."""
        for name, fit in fits.items():
            if name in self._classes and fit.fit is not FitKind.LIMITED:
                self._unfitted.pop(name, None)
                self.fits[name] = fit
                self._count_unsized(name)

    def outdate_fits(self) -> None:
        """The pools are others now. Until `fit`, classes keep the pool that they had."""
        self._unfitted.update(dict.fromkeys(self._classes))

    # --- selection ----------------------------------------------------------------------------------------------------

    def select(self) -> Selection:
        """The workloads to size: of each customer in turn the next class in its order, as the workloads are now."""
        if self._selection is None:
            chosen = self._choose()
            sized, taken = self._take(chosen)
            before, self._chosen = self._chosen, frozenset(found.name for found in chosen)
            for name in before ^ self._chosen:
                self._count_unsized(name)
            self._selection = self._selection_of(chosen, sized, taken)
        return self._selection

    def _choose(self) -> list[_Class]:
        turns = deque(iter(order) for order in sorted(self._orders.values(), key=lambda order: order[0]))
        chosen: list[_Class] = []
        while turns and len(chosen) < SIZED_CLASSES:
            following = next(turns[0], None)
            if following is None or following[0] == _OUTSIDE_ONLY:
                turns.popleft()
            else:
                turns.rotate(-1)
                chosen.append(self._classes[following[1]])
        return chosen

    def _take(self, chosen: Iterable[_Class]) -> tuple[list[PendingWorkload], list[str]]:
        """The workloads to size in queue order, those in backoff last, and the class of each."""
        queue = self._workloads.queue
        queued = [one for found in chosen if (one := queue.find_class(found.name)) is not None]
        away: list[tuple[PendingWorkload, str]] = []
        further: list[tuple[PendingWorkload, str]] = []
        for found in chosen:
            mine = [(workload, found.name) for workload in found.away.values()]
            if mine and queue.find_class(found.name) is None:
                first = min(mine, key=lambda one: _age(one[0]))
                away.append(first)
                mine.remove(first)
            further += mine
        left = max(0, SIZED_WORKLOADS - len(queued) - len(away))
        entries = [one.entries()[0] for one in queued]
        entries += islice(merge(*(islice(one.entries(), 1, SIZED_WORKLOADS_PER_CLASS) for one in queued)), left)
        left = max(0, SIZED_WORKLOADS - len(entries) - len(away))
        away += nsmallest(left, further, key=lambda one: _age(one[0]))
        found_in = [(queue.class_of(entry[2]), entry[2]) for entry in sorted(entries)]
        sized = [(one.get(id_), one.name) for one, id_ in found_in if one is not None]
        taken = [(workload, name) for workload, name in sized if workload is not None]
        taken += sorted(away, key=lambda one: _age(one[0]))
        return [workload for workload, _ in taken], [name for _, name in taken]

    def _selection_of(self, chosen: Iterable[_Class], sized: list[PendingWorkload], names: list[str]) -> Selection:
        likes: dict[str, PendingWorkload] = {}
        numbers: dict[str, int] = {}
        refused: set[str] = set()
        for workload, name in zip(sized, names, strict=True):
            numbers[name] = numbers.get(name, 0) + 1
            tracked = self._workloads.get(workload.id)
            if tracked is not None and tracked.turned_down:
                refused.add(workload.id)
                likes.setdefault(name, workload)
            else:
                likes[name] = workload
        rest: dict[str, Count] = {}
        for found in chosen:
            others = found.count.workloads - numbers.get(found.name, 0)
            if found.name in likes and others > 0:
                rest[found.name] = Count(others, others * found.like.replicas, found.count.oldest)
        return Selection(tuple(sized), tuple(names), likes, rest, frozenset(refused))


def _age(workload: PendingWorkload) -> tuple[int, str]:
    return workload.queued_at, workload.id
