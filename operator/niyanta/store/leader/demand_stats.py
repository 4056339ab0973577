"""What the leader counts once a second: what autoscalers and dashboards need of each pool and namespace.

The leader writes one row (`Fleet.write_figures`); every operator process reads it (`Fleet.get_figures`), so that all
replicas of the metrics adapter answer alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One pool. `slots` are pods: of bound workloads (running) and of pending ones that count for it (queued)."""

    pool: str
    region: str = ""
    """The pool's own, "" when unset."""
    workers: int = 0
    ready_workers: int = 0
    """Of them, ready and not cordoned."""
    workers_in_use: int = 0
    """Of them, with at least one bound pod of Niyanta's."""
    running_workloads: int = 0
    """Bound workloads whose pool this is."""
    running_slots: int = 0
    """Pods of Niyanta's on its workers."""
    queued_workloads: int = 0
    """Pending workloads that count for this pool; each counts for one pool at most."""
    queued_slots: int = 0
    oldest_age_seconds: float = 0.0
    """Of the one of them that has waited longest; 0 when there is none."""
    workers_needed: int = 0
    """Workers in use once everything that counts for this pool has been placed."""
    utilization: Mapping[str, float | None] = field(default_factory=dict)
    """cpu, memory, gpu, slots: taken share over its workers, 0 to 1; None: they have none."""
    utilization_percent_sum: int = 0
    """Sum over its workers of 100 x the share taken of what is fullest there."""

    @property
    def demand(self) -> int:
        """Slots running and slots queued: divided by slotsPerWorker, the workers wanted."""
        return self.running_slots + self.queued_slots


@dataclass(frozen=True, slots=True)
class NamespaceStats:
    """What waits and runs in one namespace."""

    namespace: str
    queued_workloads: int = 0
    queued_slots: int = 0
    running_workloads: int = 0
    running_slots: int = 0
    oldest_age_seconds: float = 0.0

    @property
    def demand(self) -> int:
        """Slots running and slots queued."""
        return self.running_slots + self.queued_slots


@dataclass(frozen=True, slots=True)
class DemandStats:
    """Everything counted at one moment, pools and namespaces by name. `at`: microseconds of the database's clock."""

    at: int
    epoch: int
    pools: tuple[PoolStats, ...] = ()
    namespaces: tuple[NamespaceStats, ...] = ()

    def pool(self, name: str) -> PoolStats | None:
        """One pool's; None: the leader knew no such pool."""
        return next((pool for pool in self.pools if pool.pool == name), None)

    def namespace(self, name: str) -> NamespaceStats | None:
        """One namespace's; None: nothing of it waits or runs."""
        return next((figures for figures in self.namespaces if figures.namespace == name), None)


def to_record(figures: DemandStats) -> dict[str, Any]:
    """As the row holds them."""
    return asdict(figures)


def from_record(record: Mapping[str, Any]) -> DemandStats:
    """The inverse of `to_record`. Fields that this release doesn't know are left out."""
    return DemandStats(
        at=record["at"],
        epoch=record["epoch"],
        pools=tuple(PoolStats(**_known(PoolStats, item)) for item in record["pools"]),
        namespaces=tuple(NamespaceStats(**_known(NamespaceStats, item)) for item in record["namespaces"]),
    )


def _known(kind: type[PoolStats] | type[NamespaceStats], item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name in kind.__dataclass_fields__}
