"""The earliest time of each group of members that come and go. A change costs O(log members), a read almost nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Group = TypeVar("Group", bound=Hashable)
Member = TypeVar("Member")

COMPACT_ABOVE = 64
"""Entries of a group below which those that are out of date are kept."""


@dataclass(slots=True)
class _Group(Generic[Member]):
    members: int = 0
    heap: list[tuple[int, Member]] = field(default_factory=list)
    """(time, member); entries of members that left or changed are out of date."""


class Earliest(Generic[Group, Member]):
    """Groups of members with times. Who calls it knows the present group and time of each member."""

    def __init__(self, time_of: Callable[[Group, Member], int | None]) -> None:
        """`time_of` returns the present time of a member; None: it isn't in the group. It must know what `enter` tells
        before `enter` is called."""
        self._time_of = time_of
        self._groups: dict[Group, _Group[Member]] = {}

    def enter(self, group: Group, member: Member, at: int) -> None:
        """A member is in the group from now on, with this time."""
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = _Group()
        found.members += 1
        heappush(found.heap, (at, member))
        if len(found.heap) > 2 * found.members + COMPACT_ABOVE:
            found.heap = list({entry for entry in found.heap if self._time_of(group, entry[1]) == entry[0]})
            heapify(found.heap)

    def leave(self, group: Group) -> None:
        """One member left the group."""
        found = self._groups[group]
        found.members -= 1
        if not found.members:
            del self._groups[group]

    def of(self, group: Group) -> int | None:
        """The earliest time in the group; None without a member."""
        found = self._groups.get(group)
        while found is not None and found.heap:
            at, member = found.heap[0]
            if self._time_of(group, member) == at:
                return at
            heappop(found.heap)
        return None

    def __iter__(self) -> Iterator[tuple[Group, int]]:
        """Each group with members, and its earliest time. O(groups)."""
        for group in list(self._groups):
            at = self.of(group)
            if at is not None:
                yield group, at
