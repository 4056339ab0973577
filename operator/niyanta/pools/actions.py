"""Data of the scaling policy: the observation of a pool, the actions on it, and the plan."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from niyanta.pools.reasons import CancelReason


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """Scaling fields of the pool's spec; durations in seconds."""

    replicas: int | None
    minimum: int = 0
    maximum: int | None = None
    up_cooldown: int = 0
    down_cooldown: int = 60
    drain_timeout: int | None = None
    """None: a drain waits for the work, however long it takes."""
    ready_timeout: int = 600


@dataclass(frozen=True, slots=True)
class PoolWorker:
    """An instance with its node (empty if it has no node yet). `workloads` is the number of bound workloads, `pods`
    that of Niyanta's pods that may still run; `others` are foreign pods. `usage`: share of its fullest resource, 0 to
    1."""

    instance: str
    node: str = ""
    leaving: bool = False
    in_service: bool = True
    """The provider reports it as running; only such instances can be protected."""
    ready: bool = True
    cordoned: bool = False
    marked: bool = False
    """The node has Niyanta's scale-down annotation."""
    was_cordoned: bool = False
    """The annotation says that the node was cordoned before the drain."""
    kept: bool = False
    """The node's annotation disables scale-down."""
    since: int = 0
    """Time at which the instance or node was first seen, microseconds."""
    unready_since: int | None = None
    """Time since which it hasn't been ready, microseconds; None if it is ready."""
    workloads: int = 0
    pods: int = 0
    others: tuple[str, ...] = ()
    usage: float = 0.0
    protected: bool = False

    @property
    def busy(self) -> bool:
        """True if workloads of Niyanta are bound to it or run there."""
        return bool(self.workloads or self.pods)


@dataclass(frozen=True, slots=True)
class Drain:
    """A removal in progress; times in microseconds."""

    instance: str
    worker: str
    was_cordoned: bool
    started_at: int
    cordoned_at: int | None = None
    evicted_at: int | None = None
    removing_at: int | None = None


@dataclass(frozen=True, slots=True)
class PoolObservation:
    """One pool at one moment."""

    pool: str
    rules: ScalingRules
    workers: tuple[PoolWorker, ...]
    drains: tuple[Drain, ...] = ()
    desired: int = 0
    """The group's desired size, as last ordered."""
    group_minimum: int = 0
    group_maximum: int | None = None
    protects: bool = False
    last_up: int | None = None
    last_down: int | None = None


# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AdoptSize:
    """Set spec.replicas, which is missing, to the pool's current size."""

    replicas: int


@dataclass(frozen=True, slots=True)
class GrowGroup:
    """Order `to` instances in total, `count` of them new."""

    to: int
    count: int


@dataclass(frozen=True, slots=True)
class BeginDrain:
    """Record that this worker is to be removed. `why` is the reason for the choice."""

    worker: PoolWorker
    why: str


@dataclass(frozen=True, slots=True)
class CordonWorker:
    """Cordon the node and annotate it."""

    worker: PoolWorker
    drain: Drain


@dataclass(frozen=True, slots=True)
class EvictPods:
    """Put the workloads that still run there back into the queue."""

    worker: PoolWorker
    drain: Drain


@dataclass(frozen=True, slots=True)
class RemoveInstance:
    """Remove the instance, after a check that no workload is placed there."""

    worker: PoolWorker
    drain: Drain


@dataclass(frozen=True, slots=True)
class CancelDrain:
    """End the drain; the worker stays. `uncordon`: uncordon the node, which Niyanta had cordoned."""

    worker: PoolWorker
    drain: Drain
    reason: CancelReason
    uncordon: bool


@dataclass(frozen=True, slots=True)
class ReleaseInstance:
    """Put a node back into service that has Niyanta's annotation but no recorded drain (after a restored database)."""

    worker: PoolWorker


@dataclass(frozen=True, slots=True)
class FinishDrain:
    """End the drain of an instance that is gone. `vanished`: Niyanta hadn't ordered its removal."""

    drain: Drain
    vanished: bool


@dataclass(frozen=True, slots=True)
class ProtectInstances:
    """Protect instances from removal by the provider."""

    instances: tuple[str, ...]


Action = (
    AdoptSize
    | GrowGroup
    | BeginDrain
    | CordonWorker
    | EvictPods
    | RemoveInstance
    | CancelDrain
    | ReleaseInstance
    | FinishDrain
    | ProtectInstances
)


class ScalingReason(enum.Enum):
    """Reasons of condition Scaling. The first four are those of a pool that isn't blocked."""

    STEADY = "Steady"
    SCALING_UP = "ScalingUp"
    DRAINING = "Draining"
    COOLING_DOWN = "CoolingDown"
    AT_GROUP_MAXIMUM = "AtGroupMaximum"
    AT_GROUP_MINIMUM = "AtGroupMinimum"
    BLOCKED = "ScaleDownBlocked"
    NOT_READY = "WorkersNotReady"


@dataclass(frozen=True, slots=True)
class ScalingPlan:
    """Actions in their order, and the condition to report. `target`: wanted workers within the bounds; `have`: existing
    and ordered workers without draining ones."""

    actions: tuple[Action, ...] = ()
    target: int = 0
    have: int = 0
    reason: ScalingReason = ScalingReason.STEADY
    message: str = ""
