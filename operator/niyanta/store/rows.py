"""Rows as frozen values: what the store hands out and takes in. Times are aware datetimes, or µs of the database
clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from niyanta.lifecycle import Door, Event, Phase


def worker_names(workers: Sequence[str], *, most: int = 5) -> str:
    """Workers for people to read: each once with how many pods it has, the first few."""
    counts = Counter(workers)
    shown = [name if count == 1 else f"{name} x{count}" for name, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """One workload: its spec (table workloads) and its state (table workload_state).

    `id` is the Kubernetes UID for the Kubernetes door and a generated UUID for REST. `attempt` is the last one started
    (0: none yet), `failures` the retries used, `rejections` the kubelet rejections in a row. `excluded`: worker ->
    until when it is avoided.
    """

    id: str
    door: Door
    namespace: str
    name: str
    customer: str
    type: str
    labels: dict[str, str]
    generation: int
    spec: dict[str, Any]
    class_id: str
    replicas: int
    phase: Phase
    version: int
    priority: int
    tier_weight: int
    queued_at_us: int
    attempt: int = 0
    failures: int = 0
    rejections: int = 0
    not_before: datetime | None = None
    wake_at: datetime | None = None
    scheduled_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    pool: str = ""
    workers: tuple[str, ...] = ()
    score: float | None = None
    reason: str = ""
    message: str = ""
    excluded: dict[str, datetime] = field(default_factory=dict)
    queue_key: int = 0
    created_at: datetime | None = None
    paused_at: datetime | None = None
    """Since when waiting doesn't age (Held, Suspended); None while it does."""
    object_uid: str | None = None
    """UID of the Workload object that a REST submission became; None until it is dispatched."""
    object_name: str | None = None

    @property
    def object(self) -> tuple[str, str] | None:
        """Name and UID of its Workload object; None for a REST submission that wasn't dispatched yet."""
        if self.door is Door.KUBERNETES:
            return self.name, self.id
        if self.object_name is None or self.object_uid is None:
            return None
        return self.object_name, self.object_uid


@dataclass(frozen=True, slots=True)
class WorkloadIntake:
    """What a door hands in. `phase` is Pending, Held, Suspended or Failed (refused), and counts for new ids only."""

    id: str
    door: Door
    namespace: str
    name: str
    customer: str
    type: str
    labels: Mapping[str, str]
    generation: int
    spec: Mapping[str, Any]
    class_id: str
    replicas: int
    priority: int
    tier_weight: int
    phase: Phase = Phase.PENDING
    reason: str = ""
    message: str = ""
    wake_in_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RowChange:
    """One requested transition of one workload, valid only if the row still has `version`.

    PLACE needs `workers` (one per replica); `attempt` defaults to the row's next one. `excluded`: worker -> seconds to
    avoid it. `not_before_seconds`: backoff, which doesn't age; None keeps what is there (PLACE clears it).
    `wake_in_seconds` None clears the wake-up. `depends_on`: ids in the same batch, earlier in it, that this change is
    void without. `reasons`: typed rejections as JSON values.
    """

    id: str
    version: int
    event: Event
    reason: str = ""
    message: str = ""
    workers: tuple[str, ...] | None = None
    pool: str | None = None
    score: float | None = None
    attempt: int | None = None
    excluded: Mapping[str, float] = field(default_factory=dict)
    not_before_seconds: float | None = None
    wake_in_seconds: float | None = None
    reasons: Sequence[Any] = ()
    cycle: int | None = None
    depends_on: tuple[str, ...] = ()
    counts: bool = True
    """REQUEUE only: whether it adds to the row's `rejections`."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch: new rows, ids whose version had moved on (or that don't exist), ids whose event the phase
    doesn't allow."""

    applied: list[WorkloadRow]
    stale: list[str]
    illegal: list[str]


@dataclass(frozen=True, slots=True)
class PendingNote:
    """Why a workload is not further than it is; `reasons` are typed rejections as JSON values."""

    id: str
    version: int
    reason: str
    message: str
    reasons: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class EventRow:
    """One line of the audit. `from_phase` is None for the first; `event` is a lifecycle event, Accepted, Edited or
    Noted."""

    id: int
    workload_id: str
    at: datetime
    event: str
    from_phase: Phase | None
    to_phase: Phase
    attempt: int
    workers: tuple[str, ...]
    score: float | None
    reason: str
    message: str
    reasons: list[Any]
    epoch: int | None
    cycle: int | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt. `outcome` is the lifecycle event that ended it, empty while it lasts."""

    workload_id: str
    attempt: int
    workers: tuple[str, ...]
    pool: str
    score: float | None
    epoch: int | None
    scheduled_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """The leader's projection of a worker. Quantities are in the engine's base units; `slots` None: no limit."""

    name: str
    pool: str
    region: str = ""
    zone: str = ""
    gpu_model: str = ""
    allocatable: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    slots: int | None = None
    slots_used: int = 0
    ready: bool = True
    cordoned: bool = False
    updated_at: datetime | None = None

    @property
    def free(self) -> dict[str, int]:
        """Resource -> base units not used; never below 0."""
        return {name: max(0, amount - self.used.get(name, 0)) for name, amount in self.allocatable.items()}

    @property
    def free_slots(self) -> int | None:
        """Slots not used; None: no limit."""
        return None if self.slots is None else max(0, self.slots - self.slots_used)


@dataclass(frozen=True, slots=True)
class CustomerRow:
    """A Customer as the REST door needs it; `limits` holds maxQueueDepth, maxConcurrent, submitRatePerSecond (absent or
    None: no limit). `service_accounts` and `secrets` are what its REST submissions may use."""

    name: str
    tier: str
    limits: dict[str, Any] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ()
    generation: int = 0
    deleted: bool = False
    service_accounts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    allow_cluster_scope: bool = False


@dataclass(frozen=True, slots=True)
class PoolRow:
    """The leader's projection of a WorkerPool: camelCase spec and status as its object has them."""

    name: str
    spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """What an admin asked for by REST; `done_at` None: the leader hasn't done it yet. `action`: drain."""

    id: str
    worker: str
    action: str
    requested_by: str
    requested_at: datetime
    done_at: datetime | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Depth:
    """How many workloads are where. The finished ones are totals of all times."""

    pending: int = 0
    held: int = 0
    suspended: int = 0
    scheduled: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The counters summed up: overall and by customer."""

    total: Depth
    customers: dict[str, Depth]


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the stream of changes; opaque. `Cursor()` is its beginning."""

    xid: int = 0
    id: str = "00000000-0000-0000-0000-000000000000"
