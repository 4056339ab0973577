"""What the expedited lane remembers from one cycle to the next: its members, its reservations, its accounts by pool.

All of it is data that `place.schedule` is given and returns (`LaneState`); `lane` decides with it. Amounts are dominant
shares of a worker (`columns.WORKER` is a whole one), times integer microseconds of the database's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

WINDOW: Final = 600_000_000
"""Ten minutes: the share is of the capacity freed within it."""

BUCKET: Final = 5_000_000
"""Amounts within five seconds are one entry, so that an account holds at most 121 however often cycles run."""

Entries = tuple[tuple[int, int], ...]
"""(time, amount), oldest first."""


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """`after`: microseconds of waiting until a workload may enter; `share`: part of freed capacity that is given."""

    after: int = 24 * 60_000_000
    share: float = 0.25


@dataclass(frozen=True, slots=True)
class LaneAccount:
    """What a pool freed and what the lane took of it within the last ten minutes.

    Freed amounts carry the start of their bucket and taken ones its end. So at any time the amounts within the exact
    last ten minutes have the same relation or a better one: what is taken stays here a little longer.
    """

    seen: int
    """`Snapshot.freed` of the pool up to here."""
    freed: Entries = ()
    taken: Entries = ()
    debt: int = 0
    """What was given beyond the share (a workload is placed whole); later shares go here first."""

    def available(self, share: float) -> int:
        """How much the lane may take now; can be negative, as freed amounts leave the window before taken ones."""
        return int(share * sum(amount for _, amount in self.freed)) - sum(amount for _, amount in self.taken)

    def is_open(self, share: float) -> bool:
        """Whether the lane may give somebody a turn: something is left of its share, and nothing is owed."""
        return not self.debt and self.available(share) > 0

    def follow(self, seen: int, now: int, share: float) -> LaneAccount:
        """Enter what the pool has freed since, forget what is past, and pay the debt as far as the share goes."""
        freed, taken = _recent(self.freed, now), _recent(self.taken, now)
        if seen > self.seen:
            freed = _add(freed, now - now % BUCKET, seen - self.seen)
        account = self
        if freed is not self.freed or taken is not self.taken or seen != self.seen:
            account = replace(self, seen=seen, freed=freed, taken=taken)
        if not account.debt:
            return account
        paid = min(account.debt, max(account.available(share), 0))
        return account._take(now, paid, account.debt - paid) if paid else account

    def charge(self, amount: int, now: int, share: float) -> LaneAccount:
        """Somebody had a turn: take what is there now and owe the rest."""
        paid = min(amount, max(self.available(share), 0))
        return self._take(now, paid, self.debt + amount - paid)

    def _take(self, now: int, paid: int, debt: int) -> LaneAccount:
        return replace(self, taken=_add(self.taken, now - now % BUCKET + BUCKET, paid), debt=debt)


def _recent(entries: Entries, now: int) -> Entries:
    if not entries or entries[0][0] > now - WINDOW:
        return entries
    return tuple([entry for entry in entries if entry[0] > now - WINDOW])


def _add(entries: Entries, at: int, amount: int) -> Entries:
    if entries and entries[-1][0] >= at:
        return (*entries[:-1], (entries[-1][0], entries[-1][1] + amount))
    return (*entries, (at, amount))


@dataclass(frozen=True, slots=True)
class LaneMember:
    """A workload in the lane. `round` is fixed on entry: one more than that of its customer's member before it."""

    id: str
    customer: str
    queued_at: int
    round: int
    since: int

    def place(self) -> tuple[int, int, str]:
        """Ascending is lane order: round by round, in a round the oldest first."""
        return self.round, self.queued_at, self.id


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room that drains for a member of the lane: one worker per replica (a worker may be there several times)."""

    id: str
    pool: str
    workers: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True)
class LaneState:
    """Empty for a new leader: it starts with no members, no reservations, no debt, and nothing freed yet."""

    members: Mapping[str, LaneMember] = field(default_factory=lambda: MappingProxyType({}))
    """By id."""
    reservations: tuple[Reservation, ...] = ()
    """At most one per pool."""
    accounts: Mapping[str, LaneAccount] = field(default_factory=lambda: MappingProxyType({}))
    """By pool."""
    round: int = 0
    """The round of the foremost member, never falling while there is one: a customer's first member gets it."""
