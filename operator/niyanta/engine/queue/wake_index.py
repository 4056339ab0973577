"""Finds the parked classes that a change of the cluster concerns, without deciding them.

First by worker: classes that the same workers could take, apart from amounts, share one set of workers. Then by amount:
the class's request is compared with what is free on the changed workers. What passes both is decided again; peers and
ports are left to that decision.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from niyanta.engine.placement.domains import room_for_pods, total
from niyanta.engine.placement.feasibility import static_mask
from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.placer import MAX_UNANCHORED_TERMS
from niyanta.engine.queue.class_queue import ClassQueue
from niyanta.engine.queue.watch import Park, Watch
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, IntArray, iterate, minus, to_indices
from niyanta.engine.snapshot.cluster_changes import ClusterChanges
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE, SLOTS_RESOURCE, Snapshot
from niyanta.engine.snapshot.worker_index import WorkerIndex

_FEW_COMPARISONS = 24
"""Up to this number of classes times workers, Python loops are faster than array operations."""

_MAX_COMPARISONS = 1 << 22
"""Most classes times workers in one array operation: 4 MiB for each resource."""

_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Woken:
    """A parked class that may have room now."""

    queue: ClassQueue
    park: Park
    source: str
    """Kind of the change: worker, term or retry."""
    within: Bits | None
    """The workers that have room for a pod of it; None: any."""


class _Group:
    """Parked classes that the same workers could take, apart from amounts."""

    __slots__ = ("_places", "_sample", "_unused", "amounts", "classes", "mask", "users", "version")

    def __init__(self, sample: Watch) -> None:
        self._sample = sample
        self.classes: list[tuple[ClassQueue, Watch] | None] = []
        self.amounts: IntArray = np.zeros((0, 0), np.int64)
        """Requested amounts, shape (places, resources); a place that is not in use asks for more than there is."""
        self.mask: Bits = 0
        self.users = 0
        """Parked classes, also those that are kept apart from `classes`."""
        self.version = -1
        self._places: dict[str, int] = {}
        self._unused: list[int] = []

    def follow(self, index: WorkerIndex) -> Bits:
        """Bring the workers up to date; returns those that joined."""
        if self.version == index.version:
            return 0
        before, self.version = self.mask, index.version
        self.mask = minus(static_mask(index, self._sample.requirements), index.closed_to(self._sample.subject.customer))
        return minus(self.mask, before)

    def add(self, queue: ClassQueue, watch: Watch, amounts: list[tuple[int, int]], resources: int) -> None:
        """Add a class that needs these amounts, (resource, amount)."""
        place = self._unused.pop() if self._unused else len(self.classes)
        rows, columns = self.amounts.shape
        if place >= rows or resources > columns:
            grown = np.full((max(rows, 2 * place, 4), max(columns, resources)), 0, np.int64)
            grown[rows:, SLOTS_RESOURCE] = _NEVER
            grown[:rows, :columns] = self.amounts
            self.amounts = grown
        if place == len(self.classes):
            self.classes.append(None)
        self.classes[place] = queue, watch
        self._places[queue.name] = place
        row = self.amounts[place]
        row[:] = 0
        for resource, amount in amounts:
            row[resource] = amount

    def remove(self, name: str) -> None:
        """Remove a class."""
        place = self._places.pop(name)
        self.classes[place] = None
        self.amounts[place, SLOTS_RESOURCE] = _NEVER
        self._unused.append(place)

    def fitting(self, overlay: Overlay, workers: Bits) -> list[tuple[ClassQueue, Watch, Bits]]:
        """Classes that some of the workers have room for, with these workers."""
        workers &= self.mask
        if not workers:
            return []
        if len(self._places) * workers.bit_count() <= _FEW_COMPARISONS:
            return self._fitting_singly(overlay, iterate(workers))
        columns = to_indices(workers, overlay.snapshot.capacity)
        step = max(_MAX_COMPARISONS // max(len(columns), 1), 1)
        found: list[tuple[ClassQueue, Watch, Bits]] = []
        for start in range(0, len(self.classes), step):
            found += self._fitting_at_once(overlay, columns, start, start + step)
        return found

    def _fitting_singly(self, overlay: Overlay, workers: list[int]) -> list[tuple[ClassQueue, Watch, Bits]]:
        found = []
        for name, place in list(self._places.items()):
            entry = self.classes[place]
            if entry is None or entry[0].name != name:
                continue
            amounts = [(resource, amount) for resource, amount in enumerate(self.amounts[place].tolist()) if amount]
            bits = _with_room(overlay, amounts, workers)
            if bits:
                found.append((*entry, bits))
        return found

    def _fitting_at_once(
        self, overlay: Overlay, columns: np.typing.NDArray[np.intp], start: int, end: int
    ) -> list[tuple[ClassQueue, Watch, Bits]]:
        amounts = self.amounts[start : min(end, len(self.classes))]
        enough = np.ones((len(amounts), len(columns)), np.bool_)
        for resource in range(amounts.shape[1]):
            wanted = amounts[:, resource]
            if wanted.any():
                enough &= wanted[:, None] <= overlay.free[resource][columns][None, :]
        found = []
        for place in np.flatnonzero(enough.any(axis=1)).tolist():
            entry = self.classes[start + place]
            if entry is not None:
                bits = sum(1 << worker for worker in columns[enough[place]].tolist())
                found.append((*entry, bits))
        return found


class WakeIndex:
    """All parked classes. `add` and `remove` are called by the queue, `woken` by the cycle, also in another thread:
    nothing is changed there but the sets of workers."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, _Group] = {}
        self._gangs: dict[str, tuple[ClassQueue, Watch, _Group]] = {}
        self._unknown: dict[str, ClassQueue] = {}
        """Classes that request a resource which no worker has ever had."""
        self._by_term: dict[AffinityTerm, dict[str, tuple[ClassQueue, Watch, _Group]]] = {}
        self._awaiting_terms: dict[str, ClassQueue] = {}
        self._where: dict[str, tuple[Hashable, Watch]] = {}
        self._snapshot: Snapshot | None = None
        self._resources = 0

    def __len__(self) -> int:
        return len(self._where)

    @property
    def awaiting_terms(self) -> Iterable[ClassQueue]:
        """Classes that wait until their customers have fewer terms in use."""
        return list(self._awaiting_terms.values())

    def add(self, queue: ClassQueue, watch: Watch, snapshot: Snapshot) -> None:
        """A class was parked."""
        self._snapshot = snapshot
        key = watch.predicate()
        self._where[queue.name] = key, watch
        if watch.awaits_terms:
            self._awaiting_terms[queue.name] = queue
            return
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(watch)
        group.users += 1
        group.follow(snapshot.index)
        for term in watch.terms:
            snapshot.affinity.watch(term)
            self._by_term.setdefault(term, {})[queue.name] = queue, watch, group
        if watch.replicas > 1:
            self._gangs[queue.name] = queue, watch, group
            return
        amounts = _amounts(watch, snapshot)
        if amounts is None:
            self._unknown[queue.name] = queue
        else:
            group.add(queue, watch, amounts, len(snapshot.resource_names))

    def remove(self, name: str) -> None:
        """A class is no longer parked."""
        key, watch = self._where.pop(name)
        if self._awaiting_terms.pop(name, None) is not None:
            return
        for term in watch.terms:
            if self._snapshot is not None:
                self._snapshot.affinity.unwatch(term)
            waiting = self._by_term[term]
            del waiting[name]
            if not waiting:
                del self._by_term[term]
        group = self._groups[key]
        group.users -= 1
        if self._gangs.pop(name, None) is None and self._unknown.pop(name, None) is None:
            group.remove(name)
        if not group.users:
            del self._groups[key]

    def may_take(self, name: str, workers: Bits) -> bool:
        """True when a class is parked and could be placed on one of the workers if it had room, or waits for peers."""
        key, watch = self._where.get(name, (None, None))
        if watch is None:
            return False
        group = self._groups.get(key)
        return group is None or bool(watch.terms) or watch.replicas > 1 or bool(group.mask & workers)

    def woken(
        self, overlay: Overlay, changes: ClusterChanges, park_of: Callable[[ClassQueue], Park | None]
    ) -> list[Woken]:
        """The parked classes that may have room after these changes."""
        found: dict[str, tuple[ClassQueue, str, Bits | None]] = {}
        if self._snapshot is not overlay.snapshot:  # the numbers of workers, resources and terms are others now
            found = {queue.name: (queue, "worker", None) for queue in self._all()}
            return _still_parked(found, park_of)
        if self._grown(overlay.snapshot):
            found.update({name: (queue, "worker", None) for name, queue in list(self._unknown.items())})
        if changes.terms_rebuilt:
            waiting = [entry for table in list(self._by_term.values()) for entry in list(table.values())]
            found.update({queue.name: (queue, "term", None) for queue, *_ in waiting})
        self._by_worker(overlay, changes.workers, found)
        for term, around in changes.terms.items():
            for queue, watch, group in list(self._by_term.get(term, {}).values()):
                if queue.name in found or not around & group.mask:
                    continue
                if watch.replicas > 1 or has_room(overlay, watch, around & group.mask):
                    found[queue.name] = queue, "term", None
        for queue in self._within_term_limit(overlay):
            found[queue.name] = queue, "term", None
        return _still_parked(found, park_of)

    def _by_worker(
        self, overlay: Overlay, workers: Bits, found: dict[str, tuple[ClassQueue, str, Bits | None]]
    ) -> None:
        """Find the classes that changed workers have room for."""
        for group in list(self._groups.values()):
            for queue, watch, bits in group.fitting(overlay, workers | group.follow(overlay.index)):
                found[queue.name] = queue, "worker", None if watch.terms else bits
        for queue, watch, group in list(self._gangs.values()):
            if workers & group.mask and _holds_gang(overlay, watch, group.mask):
                found[queue.name] = queue, "worker", None

    def _all(self) -> list[ClassQueue]:
        found = [queue for group in list(self._groups.values()) for queue, _ in filter(None, list(group.classes))]
        found += [queue for queue, *_ in list(self._gangs.values())]
        return [*found, *list(self._unknown.values()), *self.awaiting_terms]

    def _grown(self, snapshot: Snapshot) -> bool:
        """True when a resource appeared since the last call."""
        before, self._resources = self._resources, len(snapshot.resource_names)
        return before != self._resources

    def _within_term_limit(self, overlay: Overlay) -> list[ClassQueue]:
        """Of the classes that wait for fewer terms, those for which there is room now."""
        room: dict[str, int] = {}
        found = []
        for queue in self.awaiting_terms:
            if queue.customer not in room:
                room[queue.customer] = MAX_UNANCHORED_TERMS - overlay.snapshot.affinity.unanchored[queue.customer]
            watch = self._where[queue.name][1]
            room[queue.customer] -= max(len(watch.requirements.anti) + len(watch.requirements.near), 1)
            if room[queue.customer] >= 0:
                found.append(queue)
        return found


def _still_parked(
    found: dict[str, tuple[ClassQueue, str, Bits | None]], park_of: Callable[[ClassQueue], Park | None]
) -> list[Woken]:
    return [Woken(queue, park, why, within) for queue, why, within in found.values() if (park := park_of(queue))]


def _with_room(overlay: Overlay, amounts: list[tuple[int, int]], workers: list[int]) -> Bits:
    """The workers that have these amounts free, (resource, amount); meant for few workers."""
    wanted = [(overlay.free_list[resource], amount) for resource, amount in amounts]
    bits = 0
    for worker in workers:
        if all(have[worker] >= amount for have, amount in wanted):
            bits |= 1 << worker
    return bits


def _amounts(watch: Watch, snapshot: Snapshot) -> list[tuple[int, int]] | None:
    """(resource, amount) that a worker must have free for one pod; None: it asks for a resource that no worker has."""
    amounts = [(SLOTS_RESOURCE, 1)]
    for name, amount in watch.requirements.requests:
        resource = snapshot.resources.get(name)
        if resource is None:
            if amount:
                return None
        else:
            amounts.append((resource, amount))
    if watch.requirements.gpu_count:
        amounts.append((DEVICES_RESOURCE, watch.requirements.gpu_count))
    return amounts


def has_room(overlay: Overlay, watch: Watch, workers: Bits) -> bool:
    """True when one of the workers has free capacity for a pod of the class, without regard to peers and ports."""
    amounts = _amounts(watch, overlay.snapshot)
    if amounts is None:
        return False
    if workers.bit_count() <= _FEW_COMPARISONS:
        return bool(_with_room(overlay, amounts, iterate(workers)))
    columns = to_indices(workers, overlay.snapshot.capacity)
    enough = np.ones(len(columns), np.bool_)
    for resource, amount in amounts:
        enough &= overlay.free[resource][columns] >= amount
    return bool(enough.any())


def _holds_gang(overlay: Overlay, watch: Watch, workers: Bits) -> bool:
    """True when the workers have free capacity for all replicas, without regard to peers and domains."""
    requirement_class = overlay.class_of(watch.requirements, watch.subject.customer)
    pods = np.minimum(room_for_pods(overlay, requirement_class), watch.replicas)
    return total(pods, workers) >= watch.replicas
