"""Values of the waiting work that statistics and sizing read: counts, ages, and the workloads of one sizing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TypeVar

from niyanta.engine.sizing.pool_fit import IdenticalWorkloads
from niyanta.engine.types import PendingWorkload
from niyanta.scheduler.memory.tally import Account
from niyanta.scheduler.memory.workload_cache import WorkloadCache

Key = TypeVar("Key")


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
    """Times at which the oldest waiting workloads were queued, microseconds, and the number of those that only Postgres
    has."""

    accounts: Mapping[Account, int] = field(default_factory=dict)
    """Customer and namespace -> time of the oldest."""
    outside: int = 0

    @property
    def oldest(self) -> int | None:
        """Time of the oldest of all; None without any."""
        return min(self.accounts.values(), default=None)

    @property
    def customers(self) -> dict[str, int]:
        """Customer -> time of its oldest."""
        return _earliest((customer, at) for (customer, _), at in self.accounts.items())

    @property
    def namespaces(self) -> dict[str, int]:
        """Namespace -> time of its oldest."""
        return _earliest((namespace, at) for (_, namespace), at in self.accounts.items())


def waiting_since(workloads: WorkloadCache) -> WaitingSince:
    """The times of all waiting workloads, in memory or not. Costs O(customers x their namespaces)."""
    outside = workloads.backlog.outside_counts
    found = _earliest(chain(workloads.tally.oldest, outside.oldest()))
    return WaitingSince(found, outside.workloads().total())


def _earliest(times: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for key, at in times:
        found[key] = min(found.get(key, at), at)
    return found


@dataclass(frozen=True)
class Selection:
    """The workloads of one sizing. Classes are named as in the queue."""

    sized: tuple[PendingWorkload, ...] = ()
    """Workloads that are packed one by one, in queue order."""
    names: tuple[str, ...] = ()
    """The class of each of them."""
    likes: Mapping[str, PendingWorkload] = field(default_factory=dict)
    """Class with workloads in `sized` -> the one that its others count like."""
    rest: Mapping[str, Count] = field(default_factory=dict)
    """Class with workloads in `sized` -> its others, in memory or not."""
    refused: frozenset[str] = frozenset()
    """Ids of workloads in `sized` whose pods the API server rejects."""

    @cached_property
    def bulk(self) -> tuple[IdenticalWorkloads, ...]:
        """The workloads that count like a sized one."""
        return tuple(IdenticalWorkloads(name, self.likes[name], count.workloads) for name, count in self.rest.items())
