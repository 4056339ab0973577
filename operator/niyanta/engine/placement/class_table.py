"""The requirement classes of one cycle, found by requirements and by the workers closed to the customer."""

from __future__ import annotations

from collections.abc import Hashable

from niyanta.engine.placement.requirement_class import RequirementClass, fingerprint
from niyanta.engine.snapshot.bitset import Bits, IntArray
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.snapshot.strategy_score import StrategyScore
from niyanta.engine.types import Requirements

_MOST_ALIKE = 8
"""Most remembered classes with one fingerprint: a fingerprint leaves some fields out, and comparing a class with
thousands that differ in these costs more than making it anew."""


class _Family:
    """The classes of customers that may use the same workers."""

    __slots__ = ("by_fingerprint", "by_id", "closed", "seen")

    def __init__(self, closed: Bits) -> None:
        self.closed = closed
        self.by_fingerprint: dict[Hashable, list[RequirementClass]] = {}
        self.by_id: dict[int, RequirementClass] = {}
        self.seen: set[int] = set()


class ClassTable:
    """Finds and remembers classes. Customers with equal rights to workers share them."""

    def __init__(
        self,
        snapshot: Snapshot,
        score: StrategyScore,
        *,
        free_list: list[list[int]],
        free: list[IntArray],
        keep_gpu_workers_free: bool,
    ) -> None:
        self._snapshot = snapshot
        self._score = score
        self._free_list = free_list
        self._free = free
        self._keep_gpu_workers_free = keep_gpu_workers_free
        self._is_restricted = snapshot.index.is_restricted
        self._open = _Family(0)
        self._families: dict[Bits, _Family] = {0: self._open}

    def find(self, requirements: Requirements, customer: str) -> RequirementClass:
        """The class of equal requirements for the customer; fastest when the same object is passed again."""
        family = self._family_of(customer) if self._is_restricted else self._open
        known = family.by_id.get(id(requirements))
        if known is not None and known.requirements is requirements:
            return known
        mark = fingerprint(requirements)
        number = hash(mark)
        for found in family.by_fingerprint.get(mark, ()) if number in family.seen else ():
            if found.requirements == requirements:
                return found
        found = RequirementClass(
            requirements,
            self._snapshot,
            self._score,
            closed=family.closed,
            keep_gpu_workers_free=self._keep_gpu_workers_free,
        )
        found.bind(self._free_list, self._free)
        if number in family.seen:
            self.remember(found)
        else:
            family.seen.add(number)
        return found

    def remember(self, requirement_class: RequirementClass) -> None:
        """Remember a class. Worth its memory only from the second workload on, or when it was rejected."""
        if not requirement_class.remembered:
            requirement_class.remembered = True
            requirements = requirement_class.requirements
            family = self._families[requirement_class.closed]
            alike = family.by_fingerprint.setdefault(fingerprint(requirements), [])
            if len(alike) < _MOST_ALIKE:
                alike.append(requirement_class)
            # The class keeps the object alive, so its id can't be given to another one during the cycle.
            family.by_id[id(requirements)] = requirement_class

    def _family_of(self, customer: str) -> _Family:
        closed = self._snapshot.index.closed_to(customer)
        family = self._families.get(closed)
        if family is None:
            family = self._families[closed] = _Family(closed)
        return family
