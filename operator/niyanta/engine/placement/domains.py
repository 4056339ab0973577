"""Topology domains in which a group can be placed whole.

A topology ties all replicas of a group to one domain, and so does a near term that only the group itself matches. The
domains that could hold the whole group by free capacity are tried one after the other: by the workload's preferences,
then the one with the least room, so that large ones stay free for large groups, then by the pool's strategy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest

import numpy as np

from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.placement.scoring import LEVEL_STEP, level_by_worker
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, IntArray, from_bool, iterate, minus, to_indices
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE, MAX_AMOUNT, SLOTS_RESOURCE
from niyanta.engine.snapshot.worker_index import WorkerIndex
from niyanta.engine.types import HOSTNAME_TOPOLOGY, Requirements

MAX_PODS_TRIED = 8_192
"""Most pods that one group places in domains that turn out not to hold it. The room of a domain is uncertain only for
groups with several anti terms on themselves, by topologies that cross: all others fit the first domain tried."""

_MAX_ROOM = 1 << 30
_DESCRIBED = 3
"""Most domains that a rejection names."""


def required_topologies(requirements: Requirements, starting: Iterable[AffinityTerm]) -> tuple[str, ...]:
    """Topologies of which all replicas must share a domain; `starting` as of `Overlay.workers_near`."""
    topology = requirements.topology
    keys = [term.topology for term in starting]
    if topology is not None and topology.required:
        keys.append(topology.key)
    return tuple(dict.fromkeys(keys))


def split(index: WorkerIndex, topologies: Iterable[str], workers: Bits) -> list[tuple[tuple[str, ...], Bits]]:
    """The workers by their domains of the topologies, sorted by the domains' names; others are left out."""
    parts: dict[tuple[str, ...], Bits] = {(): workers}
    for topology in dict.fromkeys(topologies):
        finer: dict[tuple[str, ...], Bits] = {}
        for names, part in parts.items():
            if topology == HOSTNAME_TOPOLOGY:
                for worker in iterate(part):
                    finer[(*names, index.infos[worker].name)] = 1 << worker
                continue
            for value, members in index.labels.values.get(topology, {}).items():
                if part & members:
                    finer[(*names, value)] = part & members
        parts = finer
    return sorted(parts.items())


def total(amounts: IntArray, workers: Bits) -> int:
    """Sum of the amounts of some workers; shape of `amounts`: (capacity,)."""
    if not workers & (workers - 1):
        return int(amounts[workers.bit_length() - 1]) if workers else 0
    return int(amounts[to_indices(workers, len(amounts))].sum())


def room_for_pods(overlay: Overlay, requirement_class: RequirementClass) -> IntArray:
    """Most pods of the class that fit each worker by its free capacity, shape (capacity,)."""
    free = overlay.free
    pods = np.maximum(free[SLOTS_RESOURCE], 0)
    for resource, amount in requirement_class.needs:
        if resource < 0 or amount > MAX_AMOUNT:
            return np.zeros_like(pods)
        if amount:
            np.minimum(pods, free[resource] // amount, out=pods)
    for name, devices in requirement_class.devices_of.items():
        if devices:
            workers = to_indices(overlay.index.gpu_resources[name], len(pods))
            pods[workers] = np.minimum(pods[workers], free[DEVICES_RESOURCE][workers] // min(devices, MAX_AMOUNT))
    if requirement_class.requirements.host_ports:
        np.minimum(pods, 1, out=pods)
    return np.maximum(pods, 0)


@dataclass(slots=True, eq=False)
class Domain:
    """Workers of one domain that could take a pod, and an upper bound of the pods that they can take together."""

    names: tuple[str, ...]
    workers: Bits
    room: int


class Domains:
    """The domains of some topologies, for one group."""

    def __init__(
        self,
        overlay: Overlay,
        requirement_class: RequirementClass,
        topologies: Sequence[str],
        usable: Bits,
        own: Sequence[AffinityTerm],
    ) -> None:
        """`usable`: workers that peers and ports allow. `own`: anti terms of the group that it matches itself."""
        self._overlay = overlay
        self._levels = requirement_class.levels
        self._class = requirement_class
        self._topologies = topologies
        self._own = tuple([term.topology for term in own])
        self._room = np.minimum(room_for_pods(overlay, requirement_class), _MAX_ROOM)
        for topology in self._own:
            alone = to_indices(overlay.index.with_domain(topology), len(self._room))
            self._room[alone] = np.minimum(self._room[alone], 1)
        feasible = 0
        for part in self._levels:
            feasible |= part
        feasible &= usable & from_bool(self._room >= 1)
        self._is_complete = True
        self._workers: IntArray | None = None
        """With the topology hostname, the workers that are a domain each: there may be thousands."""
        self._domains: list[Domain] = []
        if HOSTNAME_TOPOLOGY in topologies:
            for topology in topologies:
                feasible &= overlay.index.with_domain(topology)
            self._workers = to_indices(feasible, len(self._room))
            return
        parts = split(overlay.index, topologies, feasible)
        self._domains = [Domain(names, part, self._bound(part)) for names, part in parts]

    def holding(self, replicas: int) -> Iterator[Domain]:
        """Domains that could hold all replicas, best first; ends early after `MAX_PODS_TRIED` pods in vain."""
        tried = 0
        for domain in self._in_order(replicas) if self._workers is None else self._single_workers(replicas):
            if tried > MAX_PODS_TRIED:
                self._is_complete = False
                return
            yield domain
            tried += domain.room

    def failed(self, domain: Domain, placed: int) -> None:
        """Record that only `placed` pods found room in the domain."""
        domain.room = placed
        if self._workers is not None:
            self._room[domain.workers.bit_length() - 1] = placed

    def describe(self) -> str:
        """The topologies, and the room of the largest domains: "zone: a has room for 3, b has room for 1"."""
        number = len(self._domains) if self._workers is None else len(self._workers)
        if not number:
            return ""
        largest = nsmallest(_DESCRIBED, self._all(), key=lambda domain: (-domain.room, domain.names))
        text = ", ".join(f"{'/'.join(domain.names)} has room for {domain.room}" for domain in largest)
        more = f" (and {number - _DESCRIBED} more)" if number > _DESCRIBED else ""
        rest = "" if self._is_complete else "; not all of them were tried"
        return f"{' and '.join(self._topologies)}: {text}{more}{rest}"

    def _in_order(self, replicas: int) -> Iterable[Domain]:
        found = [(self._level(domain, replicas), domain) for domain in self._domains if domain.room >= replicas]
        if len(found) > 1:
            keys = self._keys()
            found.sort(key=lambda item: (item[0], item[1].room, -int(keys[self._indices(item[1])].max())))
        return [domain for _, domain in found]

    def _single_workers(self, replicas: int) -> Iterator[Domain]:
        assert self._workers is not None
        workers = self._workers[self._room[self._workers] >= replicas]
        keys = self._keys()[workers]
        for worker in workers[np.lexsort((-keys, self._room[workers], -(keys // LEVEL_STEP)))]:
            yield self._alone(int(worker))

    def _all(self) -> Iterable[Domain]:
        """All domains; of single workers, those whose room isn't less than that of `_DESCRIBED` others."""
        if self._workers is None:
            return self._domains
        rooms = self._room[self._workers]
        least = np.partition(rooms, -_DESCRIBED)[-_DESCRIBED] if len(rooms) > _DESCRIBED else 0
        return [self._alone(int(worker)) for worker in self._workers[rooms >= least]]

    def _alone(self, worker: int) -> Domain:
        index = self._overlay.index
        names = [
            index.infos[worker].name if topology == HOSTNAME_TOPOLOGY else str(index.domain(topology, worker))
            for topology in self._topologies
        ]
        return Domain(tuple(names), 1 << worker, int(self._room[worker]))

    def _bound(self, workers: Bits) -> int:
        """Most pods of the group on these workers: at most one in each domain of its own anti terms."""
        bound = total(self._room, workers)
        for topology in self._own:
            if topology != HOSTNAME_TOPOLOGY and bound:
                index = self._overlay.index
                apart = sum(1 for members in index.labels.values.get(topology, {}).values() if members & workers)
                bound = min(bound, apart + total(self._room, minus(workers, index.with_domain(topology))))
        return bound

    def _level(self, domain: Domain, replicas: int) -> int:
        """The first level of preference that the whole group reaches in the domain."""
        reached = 0
        for number, part in enumerate(self._levels):
            reached |= part & domain.workers
            if self._bound(reached) >= replicas:
                return number
        return len(self._levels)

    def _keys(self) -> IntArray:
        """Order of the workers by level, strategy and name, shape (capacity,)."""
        overlay = self._overlay
        keys = level_by_worker(self._levels, overlay.snapshot.capacity) * LEVEL_STEP
        keys += overlay.base + self._class.shift.take(overlay.score.shape_of)
        return keys

    def _indices(self, domain: Domain) -> IntArray:
        return to_indices(domain.workers, len(self._room))
