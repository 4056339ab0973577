"""Topology domains in which a group can start that must be near itself.

A near term that only the group itself matches ties all replicas to the domain of the first one. The best worker for the
first replica may be in a domain that cannot hold the rest, so the others are tried as well: those that could hold the
whole group by free capacity, largest first.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, IntArray, iterate, to_indices
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE, MAX_AMOUNT, SLOTS_RESOURCE
from niyanta.engine.snapshot.worker_index import WorkerIndex
from niyanta.engine.types import HOSTNAME_TOPOLOGY

MAX_DOMAINS_TRIED = 8
"""Most domains that one group is tried in."""


def split(index: WorkerIndex, terms: Iterable[AffinityTerm], workers: Bits) -> list[tuple[tuple[str, ...], Bits]]:
    """The workers by their domains of the terms' topologies, sorted by the domains' names; others are left out."""
    parts: dict[tuple[str, ...], Bits] = {(): workers}
    for topology in dict.fromkeys(term.topology for term in terms):
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


def domains_with_room(
    overlay: Overlay,
    requirement_class: RequirementClass,
    starting: tuple[AffinityTerm, ...],
    workers: Bits,
    replicas: int,
) -> list[Bits]:
    """Domains of the starting terms, as sets of the given workers, that could hold all replicas by free capacity.

    Largest first, then by the domains' names; at most `MAX_DOMAINS_TRIED`.
    """
    pods = np.minimum(room_for_pods(overlay, requirement_class), replicas)
    found = [(-total(pods, part), names, part) for names, part in split(overlay.index, starting, workers)]
    return [part for held, _, part in sorted(found) if -held >= replicas][:MAX_DOMAINS_TRIED]
