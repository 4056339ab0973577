"""State of one leadership: the data that the scheduler's components share. No I/O happens here.

`transitions` moves the workloads in it, `placing.cycle` and `demand.stats_collector` store their results in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.scheduler.backlog.backlog import Backlog
from niyanta.scheduler.demand.sizing_result import SizingResult
from niyanta.scheduler.demand.waiting import WaitingSince, waiting_since
from niyanta.scheduler.faults.parked import ParkedWorkloads
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.workload_cache import WorkloadCache
from niyanta.scheduler.periodic.finished_objects import FinishedObjects
from niyanta.scheduler.placement_rate import PlacementRate
from niyanta.scheduler.pods.namespace_gate import NamespaceGates
from niyanta.scheduler.pods.worker_breakers import WorkerBreakers
from niyanta.settings import Settings
from niyanta.store.leader.demand_stats import DemandStats
from niyanta.store.postgres.clock import Clock
from niyanta.store.workloads.queue_key import queue_settings


@dataclass(slots=True, eq=False)
class SchedulerState:
    """In-memory state of a leader under one epoch."""

    epoch: int
    settings: Settings
    clock: Clock
    workloads: WorkloadCache
    """Live workloads, and the queue of the workloads that may be placed."""
    parked: ParkedWorkloads
    """Workloads that an unexpected error concerned."""
    namespace_gates: NamespaceGates
    """Turns of pod creation in each namespace."""
    finished_objects: FinishedObjects
    """Finished Workload objects that still exist."""
    adopting: bool = False
    """The database is older than the cluster (restored from a backup). Until rows have followed pods, no pod is
    removed."""
    snapshot: Snapshot = field(default_factory=Snapshot)
    """The cluster as the engine sees it; only the cycle changes it, in the engine's thread."""
    placement_rate: PlacementRate = field(default_factory=PlacementRate)
    demand_stats: DemandStats | None = None
    """Latest statistics of demand; None before the first ones."""
    sizing_result: SizingResult = field(default_factory=SizingResult)
    """For each waiting workload, the pool that it counts for."""
    unreviewed: dict[str, None] = field(default_factory=dict)
    """Queued REST workloads whose eligibility this leader hasn't checked, oldest first (`intake.reviews`)."""
    unjudged_deletions: set[str] = field(default_factory=set)
    """Workloads whose objects were reported deleted while the whole kind is gone."""
    worker_breakers: WorkerBreakers = field(default_factory=WorkerBreakers)
    """Workers whose kubelets reject pods."""
    exclusion_ends: dict[str, int] = field(default_factory=dict)
    """Queued workload that avoids a worker -> end of the first of its exclusions, microseconds."""

    @classmethod
    def of_leadership(cls, epoch: int, settings: Settings, *, clock: Clock, adopting: bool = False) -> SchedulerState:
        """The empty state of a new leader."""
        workloads = WorkloadCache(queue_settings(settings), budget_bytes=settings.customer_memory_budget)
        gates = NamespaceGates(settings.connections)
        finished = FinishedObjects(settings)
        return cls(epoch, settings, clock, workloads, ParkedWorkloads(workloads), gates, finished, adopting)

    @property
    def backlog(self) -> Backlog:
        """Pending REST rows, in memory or not."""
        return self.workloads.backlog

    @property
    def waiting_since(self) -> WaitingSince:
        """Times of what waits, in memory or not."""
        return waiting_since(self.workloads)

    def node_grace_over(self, tracked: TrackedWorkload) -> bool:
        """True if a node of the workload has been NotReady for longer than `node_loss_grace`."""
        if tracked.lost_since is None:
            return False
        return self.clock.now() - tracked.lost_since >= self.settings.node_loss_grace * 1e6
