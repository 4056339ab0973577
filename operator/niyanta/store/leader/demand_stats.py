"""Demand statistics by pool and namespace for autoscalers and dashboards; the leader counts them once a second.

The leader writes one row (`Projections.write_figures`) and every operator process reads it (`get_figures`), so that all
replicas of the metrics adapter give the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Statistics of one pool. `slots` are pods: of bound workloads (running) and of pending ones that count for it."""

    pool: str
    region: str = ""
    """Region in the pool's spec, "" when unset."""
    workers: int = 0
    ready_workers: int = 0
    """Workers that are ready and not cordoned."""
    workers_in_use: int = 0
    """Workers with at least one bound pod of Niyanta."""
    running_workloads: int = 0
    """Workloads bound to this pool."""
    running_slots: int = 0
    """Pods of Niyanta on its workers."""
    queued_workloads: int = 0
    """Pending workloads that count for this pool; each counts for one pool at most."""
    queued_slots: int = 0
    oldest_age_seconds: float = 0.0
    """Age of the longest-waiting pending workload that counts for this pool; 0 without any."""
    workers_needed: int = 0
    """Workers in use when every workload that counts for this pool is placed."""
    utilization: Mapping[str, float | None] = field(default_factory=dict)
    """Share in use, 0 to 1, of cpu, memory, gpu and slots over its workers; None: they have no such resource."""
    utilization_percent_sum: int = 0
    """Sum over its workers of the utilization of the fullest resource, in percent."""

    @property
    def demand(self) -> int:
        """Running and queued slots; divided by slotsPerWorker this is the number of workers needed."""
        return self.running_slots + self.queued_slots


@dataclass(frozen=True, slots=True)
class NamespaceStats:
    """Statistics of one namespace."""

    namespace: str
    queued_workloads: int = 0
    queued_slots: int = 0
    running_workloads: int = 0
    running_slots: int = 0
    oldest_age_seconds: float = 0.0

    @property
    def demand(self) -> int:
        """Running and queued slots."""
        return self.running_slots + self.queued_slots


@dataclass(frozen=True, slots=True)
class DemandStats:
    """All statistics of one moment, sorted by name. `at`: microseconds of the database's clock."""

    at: int
    epoch: int
    pools: tuple[PoolStats, ...] = ()
    namespaces: tuple[NamespaceStats, ...] = ()

    def pool(self, name: str) -> PoolStats | None:
        """Statistics of one pool; None for an unknown pool."""
        return next((pool for pool in self.pools if pool.pool == name), None)

    def namespace(self, name: str) -> NamespaceStats | None:
        """Statistics of one namespace; None when it has no pending or running workloads."""
        return next((stats for stats in self.namespaces if stats.namespace == name), None)


def to_record(stats: DemandStats) -> dict[str, Any]:
    """The statistics as JSON values for the row."""
    return asdict(stats)


def from_record(record: Mapping[str, Any]) -> DemandStats:
    """The inverse of `to_record`. Fields that this release doesn't know are ignored."""
    return DemandStats(
        at=record["at"],
        epoch=record["epoch"],
        pools=tuple(PoolStats(**_known(PoolStats, item)) for item in record["pools"]),
        namespaces=tuple(NamespaceStats(**_known(NamespaceStats, item)) for item in record["namespaces"]),
    )


def _known(kind: type[PoolStats] | type[NamespaceStats], item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name in kind.__dataclass_fields__}
