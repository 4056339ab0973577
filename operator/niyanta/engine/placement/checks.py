"""All checks of a worker in the order of `Reason`, evaluated on a cycle's overlay.

Checks that depend only on workers are in `feasibility.static_checks`, which also give the mask of a requirement class.
The others use the overlay's sets of workers (`workers_in_conflict`, `workers_near`, ...), as `placer` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from niyanta.engine.placement.feasibility import Check, static_checks
from niyanta.engine.placement.overlay import Overlay, SubjectView
from niyanta.engine.placement.requirement_class import Counts, RequirementClass
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, IntArray, from_bool, minus
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE, SLOTS_RESOURCE
from niyanta.engine.types import Reason

_ORDER = {reason: number for number, reason in enumerate(Reason)}


def all_checks(
    overlay: Overlay,
    requirement_class: RequirementClass,
    view: SubjectView,
    anti: tuple[AffinityTerm, ...],
    near: tuple[AffinityTerm, ...],
    excluded: Bits,
) -> Iterator[Check]:
    """Every check that a pod of the class has to pass now, in the order of `Reason`, for one replica."""
    alive = overlay.index.alive
    yield from static_checks(
        overlay.index, requirement_class.requirements, closed=requirement_class.closed, excluded=excluded
    )
    free = (
        overlay.free
        if overlay.held is None
        else [now + held for now, held in zip(overlay.free, overlay.held, strict=True)]
    )
    too_small: dict[str, Bits] = {}
    for name, large_enough in _size_checks(overlay, requirement_class):
        too_small[name] = too_small.get(name, 0) | minus(alive, large_enough)
        yield Reason.TOO_SMALL, name, large_enough
    for name, enough in _resource_checks(overlay, requirement_class, free):
        yield Reason.RESOURCE, name, enough | too_small.get(name, 0)
    yield Reason.SLOTS, "", from_bool(free[SLOTS_RESOURCE] >= 1) & alive
    if requirement_class.requirements.host_ports:
        yield Reason.HOST_PORT, "", minus(alive, overlay.workers_with_ports_taken(requirement_class.requirements))
    # The workload's terms first, as given, then the carriers' by topology: the order of interning must not matter.
    blocked: dict[str, Bits] = {}
    for term in anti:
        blocked[term.topology] = blocked.get(term.topology, 0) | overlay.peer_bits[term.id]
    for term in sorted(overlay.matched(view), key=lambda term: term.topology):
        blocked[term.topology] = blocked.get(term.topology, 0) | overlay.carrier_bits[term.id]
    for topology, workers in blocked.items():
        yield Reason.ANTI, topology, minus(alive, workers)
    if overlay.reserved:
        yield Reason.RESERVED, "", minus(alive, overlay.reserved if anti else _without_room(overlay, requirement_class))
    if near:
        allowed, starting = overlay.workers_near(near, view)
        yield Reason.NEAR, "", allowed & overlay.workers_for_starting(starting)


def _without_room(overlay: Overlay, requirement_class: RequirementClass) -> Bits:
    """Reserved workers that have no room for a pod of the class beside what is held there."""
    lacking = minus(overlay.index.alive, from_bool(overlay.free[SLOTS_RESOURCE] >= 1))
    for _, enough in _resource_checks(overlay, requirement_class, overlay.free):
        lacking |= minus(overlay.index.alive, enough)
    return lacking & overlay.reserved


def _size_checks(overlay: Overlay, requirement_class: RequirementClass) -> Iterator[tuple[str, Bits]]:
    """As `_resource_checks`, for empty workers; without the resources of which every worker has enough."""
    alive, whole = overlay.index.alive, overlay.whole
    requests = requirement_class.requirements.requests
    for (name, amount), (resource, _) in zip(requests, requirement_class.needs, strict=True):
        if resource < 0:
            yield name, 0
        elif amount > whole.least[resource]:
            yield name, from_bool(whole.amounts[resource] >= amount) & alive
    for name, least in sorted(whole.least_devices.items()):
        amount = requirement_class.devices_of[name]
        if amount > least:
            enough = from_bool(whole.amounts[DEVICES_RESOURCE] >= amount)
            yield name, alive ^ minus(overlay.index.gpu_resources[name], enough)


def _resource_checks(
    overlay: Overlay, requirement_class: RequirementClass, amounts: Sequence[IntArray]
) -> Iterator[tuple[str, Bits]]:
    """Named resources in the order of the request (by name), then GPU devices by the worker's resource name, each with
    the workers that have enough of it.

    `amounts`: one array per resource, shape (capacity,).
    """
    alive = overlay.index.alive
    for (name, amount), (resource, _) in zip(
        requirement_class.requirements.requests, requirement_class.needs, strict=True
    ):
        yield name, from_bool(amounts[resource] >= amount) & alive if resource >= 0 else 0
    for name, workers in sorted(overlay.index.gpu_resources.items()):
        amount = requirement_class.devices_of[name]
        if amount:
            enough = from_bool(amounts[DEVICES_RESOURCE] >= amount)
            yield name, alive ^ minus(workers, enough)


def count_reasons(
    overlay: Overlay,
    requirement_class: RequirementClass,
    view: SubjectView,
    anti: tuple[AffinityTerm, ...],
    near: tuple[AffinityTerm, ...],
    excluded: Bits,
    group: str = "",
) -> Counts:
    """Count each worker once, under the first check it fails, or as GROUP (with `group` as its detail) if it could
    take one replica."""
    left = overlay.index.alive
    counts: dict[tuple[Reason, str], int] = {}
    for reason, detail, passing in all_checks(overlay, requirement_class, view, anti, near, excluded):
        passed = left & passing
        refused = left ^ passed
        if refused:
            counts[reason, detail] = counts.get((reason, detail), 0) + refused.bit_count()
            left = passed
            if not left:
                break
    if left:
        counts[Reason.GROUP, group] = left.bit_count()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], _ORDER[item[0][0]], item[0][1]))
    return tuple([(reason, detail, count) for (reason, detail), count in ordered])
