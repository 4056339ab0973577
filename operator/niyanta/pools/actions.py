"""Data of the scaling policy: the observation of a pool, the actions on it, and the plan made of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """Scaling fields of the pool's spec; durations in seconds."""

    replicas: int | None
    minimum: int = 0
    maximum: int | None = None
    up_cooldown: int = 0
    down_cooldown: int = 60
    drain_timeout: int = 3600
    ready_timeout: int = 600


@dataclass(frozen=True, slots=True)
class PoolWorker:
    """An instance with its node (empty: it has none yet). `pods` are Niyanta's that may still run, `others` those of
    other people that count; `workloads` are bound by the record. `usage`: share of its fullest resource, 0 to 1."""

    instance: str
    node: str = ""
    leaving: bool = False
    in_service: bool = True
    """The provider has made it ready: only such ones can be protected."""
    ready: bool = True
    cordoned: bool = False
    marked: bool = False
    """The node has our annotation."""
    was_cordoned: bool = False
    """It says that people had cordoned the node before."""
    kept: bool = False
    """People want it to stay."""
    since: int = 0
    """When the instance or node was first seen."""
    unready_since: int | None = None
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
    """A removal that has begun; times as in its row."""

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
    """What the provider was last asked for."""
    group_minimum: int = 0
    group_maximum: int | None = None
    protects: bool = False
    last_up: int | None = None
    last_down: int | None = None


# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AdoptSize:
    """Write spec.replicas, which isn't there: the pool is taken over as it is."""

    replicas: int


@dataclass(frozen=True, slots=True)
class GrowGroup:
    """Ask the provider for `to` instances in all, `count` of them new."""

    to: int
    count: int


@dataclass(frozen=True, slots=True)
class BeginDrain:
    """Note that this worker is to go. `why` says what it was chosen for."""

    worker: PoolWorker
    why: str


@dataclass(frozen=True, slots=True)
class CordonWorker:
    """Take the node out of service, and mark it as ours."""

    worker: PoolWorker
    drain: Drain


@dataclass(frozen=True, slots=True)
class EvictPods:
    """Put what still runs there back into the queue."""

    worker: PoolWorker
    drain: Drain


@dataclass(frozen=True, slots=True)
class RemoveInstance:
    """Nothing runs there: make sure, then have the provider remove it."""

    worker: PoolWorker
    drain: Drain


@dataclass(frozen=True, slots=True)
class CancelDrain:
    """The worker stays. `uncordon`: it was ours to cordon, so it is ours to uncordon."""

    worker: PoolWorker
    drain: Drain
    reason: str
    uncordon: bool


@dataclass(frozen=True, slots=True)
class ReleaseInstance:
    """The node has our mark, and there is no record of why (a restored database): it goes back into service."""

    worker: PoolWorker


@dataclass(frozen=True, slots=True)
class FinishDrain:
    """The instance is gone: the drain is over. `vanished`: not by our doing."""

    drain: Drain
    vanished: bool


@dataclass(frozen=True, slots=True)
class ProtectInstances:
    """Keep the provider from choosing these by itself."""

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
    """Reasons of condition Scaling; the first ones are those of a pool without trouble."""

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
    """Actions in their order, and the condition to report. `target`: workers wanted within the bounds; `have`:
    workers that are there or ordered and not on their way out."""

    actions: tuple[Action, ...] = ()
    target: int = 0
    have: int = 0
    reason: ScalingReason = ScalingReason.STEADY
    message: str = ""
