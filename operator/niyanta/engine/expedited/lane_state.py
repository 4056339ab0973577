"""State of the expedited lane between cycles: members, reservations, and accounts by pool.

`schedule` takes and returns it as data (`LaneState`); `lane` decides with it. Amounts are dominant shares of a worker
(`WHOLE_WORKER` is all of one), times are integer microseconds of the database's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

WINDOW_US: Final = 600_000_000
"""Ten minutes: the lane gets a share of the capacity freed within this window."""

BUCKET_US: Final = 5_000_000
"""Five seconds: amounts within a bucket are one entry, so an account has at most 121 entries."""

IMPOSSIBLE_US: Final = 60_000_000
"""Time after which a class that would not fit even on empty workers is looked at again. Meanwhile pods that Niyanta did
not make may have ended; a change of the workers themselves is seen at once."""

Entries = tuple[tuple[int, int], ...]
"""(time, amount), oldest first."""


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """`after_us`: microseconds of waiting until a workload may enter; `share`: part of freed capacity for the lane."""

    after_us: int = 24 * 60_000_000
    share: float = 0.25


@dataclass(frozen=True, slots=True)
class LaneAccount:
    """Capacity that a pool freed, and the part that the lane took, within the last ten minutes.

    Freed amounts are dated at the start of their bucket and taken amounts at its end. So taken amounts count a little
    longer, and the lane never exceeds its share within the exact last ten minutes.
    """

    seen: int
    """Value of `Snapshot.freed` for the pool that this account has counted."""
    freed: Entries = ()
    taken: Entries = ()
    debt: int = 0
    """Amount given beyond the share (a workload is placed whole); later shares repay it first."""

    def available(self, share: float) -> int:
        """Amount that the lane may take now; it may be negative, as freed amounts leave the window first."""
        return int(share * sum(amount for _, amount in self.freed)) - sum(amount for _, amount in self.taken)

    def is_open(self, share: float) -> bool:
        """True when the lane may give a turn: part of its share is left and it has no debt."""
        return not self.debt and self.available(share) > 0

    def follow(self, seen: int, now: int, share: float) -> LaneAccount:
        """Enter newly freed capacity, drop entries older than the window, and repay debt as far as the share goes."""
        freed, taken = _recent(self.freed, now), _recent(self.taken, now)
        if seen > self.seen:
            freed = _add(freed, now - now % BUCKET_US, seen - self.seen)
        account = self
        if freed is not self.freed or taken is not self.taken or seen != self.seen:
            account = replace(self, seen=seen, freed=freed, taken=taken)
        if not account.debt:
            return account
        paid = min(account.debt, max(account.available(share), 0))
        return account._take(now, paid, account.debt - paid) if paid else account

    def charge(self, amount: int, now: int, share: float) -> LaneAccount:
        """Charge a turn: take the available amount now and add the rest to the debt."""
        paid = min(amount, max(self.available(share), 0))
        return self._take(now, paid, self.debt + amount - paid)

    def _take(self, now: int, paid: int, debt: int) -> LaneAccount:
        return replace(self, taken=_add(self.taken, now - now % BUCKET_US + BUCKET_US, paid), debt=debt)


def _recent(entries: Entries, now: int) -> Entries:
    if not entries or entries[0][0] > now - WINDOW_US:
        return entries
    return tuple([entry for entry in entries if entry[0] > now - WINDOW_US])


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

    def order(self) -> tuple[int, int, str]:
        """Sort key of lane order: by round, then oldest first."""
        return self.round, self.queued_at, self.id


@dataclass(frozen=True, slots=True)
class Reservation:
    """Workers reserved for a member of the lane: one per replica (a worker may appear several times)."""

    id: str
    pool: str
    workers: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True)
class LaneState:
    """The lane's state between cycles. A new leader starts without members, reservations, debt and freed capacity."""

    members: Mapping[str, LaneMember] = field(default_factory=lambda: MappingProxyType({}))
    """By id."""
    reservations: tuple[Reservation, ...] = ()
    """At most one per pool."""
    accounts: Mapping[str, LaneAccount] = field(default_factory=lambda: MappingProxyType({}))
    """By pool."""
    round: int = 0
    """Round of the first member, and of a customer's first member. It never decreases while there are members."""
    impossible: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Queue class that would not fit on workers without Niyanta's pods -> time until which its workloads aren't looked
    at again, unless workers change."""
    facts: int = -1
    """`WorkerIndex.version` when these were found."""
    ended_at: tuple[int, int, str] | None = None
    """`LaneMember.order` of the member after which the next cycle goes on, when this one ended at a limit."""

    def still_impossible(self, facts: int, now: int) -> dict[str, int]:
        """The classes of `impossible` that aren't looked at now."""
        return {name: end for name, end in self.impossible.items() if facts == self.facts and end > now}
