"""Input and output of the store as frozen values. Times are aware datetimes, or µs of the database clock."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from niyanta.lifecycle import Door, Event, Phase


def worker_names(workers: Sequence[str], *, most: int = 5) -> str:
    """Workers for display: each once with its number of pods, at most `most` of them."""
    counts = Counter(workers)
    shown = [name if count == 1 else f"{name} x{count}" for name, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """One workload: its spec (table workloads) and its state (table workload_state).

    `id` is the Kubernetes UID for the Kubernetes door and a generated UUID for REST. `attempt` is the last one started
    (0: none yet), `failures` the retries used, `rejections` the kubelet rejections in a row. `excluded`: worker ->
    end of the time in which it is avoided.
    """

    id: str
    door: Door
    namespace: str
    name: str
    customer: str
    type: str
    labels: dict[str, str]
    generation: int
    spec: dict[str, Any] = field(compare=False)
    """Empty in rows that were read without it: those of changes and of pages, and those that were moved."""
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
    """Pool of the first worker; empty if it isn't known."""
    workers: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    """Pool of each worker, if they are of several pools; empty: `pool` is the pool of all."""
    score: float | None = None
    reason: str = ""
    message: str = ""
    excluded: dict[str, datetime] = field(default_factory=dict)
    queue_key: int = 0
    created_at: datetime | None = None
    paused_at: datetime | None = None
    """Start of a time that does not count as waiting (Held, Suspended); None when waiting counts."""
    object_uid: str | None = None
    """UID of the Workload object of a REST submission; None until the object is made."""
    object_name: str | None = None
    queue_class: str = ""
    """Rows that placement can't tell apart, of one customer; empty: not computed, the row is a class of its own."""
    waited_us: int = 0
    """Time waited before `waiting_since`, in µs."""
    waiting_since: datetime | None = None
    """Start of its waiting, in the future during a backoff; None when it isn't Pending, or was queued by 0013."""
    spec_bytes: int = field(default=0, compare=False)
    """Bytes of the spec as JSON text; 0 in a row that was not read from Postgres. For budgets of memory."""

    def pool_of(self, index: int) -> str:
        """Pool of the worker of this pod; empty if it isn't known."""
        return self.pools[index] if self.pools else self.pool

    @property
    def object(self) -> tuple[str, str] | None:
        """Name and UID of its Workload object; None for a REST submission whose object isn't made yet."""
        if self.door is Door.KUBERNETES:
            return self.name, self.id
        if self.object_name is None or self.object_uid is None:
            return None
        return self.object_name, self.object_uid


@dataclass(frozen=True, slots=True)
class WorkloadIntake:
    """A workload from a door. `phase` is Pending, Held, Suspended or Failed (rejected); it applies to new ids only."""

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
    queue_class: str = ""
    """Hash of the spec without the labels that selectors name; Postgres adds those. Empty: unknown."""
    visible_keys: tuple[tuple[str, str], ...] = ()
    """(reach, key) of each label key that its selectors name; reach: namespace/<name>, customer/<name> or *."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """One requested transition of one workload, valid only if the row still has `version`.

    PLACE needs `workers` (one per replica), and takes `pools`, the pool of each; without them `pool` is the pool of
    all. `attempt` defaults to the row's next one. `excluded`: worker -> seconds to avoid it. `not_before_seconds`:
    backoff, which doesn't count as waiting; None keeps the present one (PLACE clears it). `wake_in_seconds` None
    clears the wake-up. `depends_on`: ids of earlier changes in the batch; if one of them is not applied, this change is
    void. `reasons`: typed rejections as JSON values.
    """

    id: str
    version: int
    event: Event
    reason: str = ""
    message: str = ""
    workers: tuple[str, ...] | None = None
    pool: str | None = None
    pools: tuple[str, ...] = ()
    score: float | None = None
    attempt: int | None = None
    excluded: Mapping[str, float] = field(default_factory=dict)
    not_before_seconds: float | None = None
    wake_in_seconds: float | None = None
    reasons: Sequence[Any] = ()
    cycle: int | None = None
    depends_on: tuple[str, ...] = ()
    counts: bool = True
    """REQUEUE only: True adds one to the row's `rejections`."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Result of a batch: new rows; ids that changed meanwhile (or don't exist); ids whose event is illegal."""

    applied: list[WorkloadRow]
    stale: list[str]
    illegal: list[str]


@dataclass(frozen=True, slots=True)
class PendingNote:
    """Reason why a workload is in its phase; `reasons` are typed rejections as JSON values."""

    id: str
    version: int
    reason: str
    message: str
    reasons: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class ClassState:
    """Reasons for which the workloads of a queue class wait. `reasons`: typed rejections as JSON values; `since`: time
    since which they are the same, apart from counts."""

    customer: str
    queue_class: str
    reasons: list[Any]
    reason: str
    message: str
    since: datetime
    positions: dict[str, Any] = field(default_factory=dict)
    """Unused: positions in the queue are counted when they are read."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One audit event. `from_phase` is None for the first; `event` is a lifecycle event, Accepted, Edited or
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
    pools: tuple[str, ...]
    """As in `WorkloadRow`."""
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
    """A Customer as the REST door needs it; `limits` holds maxQueueDepth, maxConcurrent, submitRatePerSecond and
    maxPriority (absent or None: no limit). `service_accounts` and `secrets` are what its REST submissions may use."""

    name: str
    tier: str
    limits: dict[str, Any] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ()
    generation: int = 0
    deleted: bool = False
    service_accounts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    allow_cluster_scope: bool = False
    template_lists: dict[str, Any] = field(default_factory=dict)
    """Camel-case field of the Customer -> its list, of what templates may use (`resources.template_lists`)."""


@dataclass(frozen=True, slots=True)
class PoolRow:
    """The leader's projection of a WorkerPool: camelCase spec and status of its object."""

    name: str
    spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    updated_at: datetime | None = None


class WorkerAction(enum.StrEnum):
    """Requests about a worker."""

    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"


class RequestOutcome(enum.StrEnum):
    """Ends of a request about a worker."""

    DONE = "Done"
    FAILED = "Failed"
    REPLACED = "Replaced"
    """A later request, or another client, took its place."""


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """A request of an admin by REST."""

    id: str
    worker: str
    action: str
    """A WorkerAction."""
    requested_by: str
    requested_at: datetime
    evict_at: datetime | None = None
    """Time from which a drain puts workloads back into the queue; None: it waits for their end."""
    begun_at: datetime | None = None
    """Time at which the leader had cordoned the worker for a drain; None: not yet."""
    done_at: datetime | None = None
    """None: the leader hasn't done it yet."""
    outcome: str | None = None
    """A RequestOutcome; None while it is open."""
    message: str = ""

    @property
    def draining(self) -> bool:
        """True for a drain that isn't over."""
        return self.action == WorkerAction.DRAIN and self.done_at is None


@dataclass(frozen=True, slots=True)
class Depth:
    """Number of workloads by phase. Finished ones are counted since the first start."""

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
    """Sums of the counters: overall and by customer."""

    total: Depth
    customers: dict[str, Depth]


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """An opaque position in the stream of changes. `Cursor()` is its beginning."""

    xid: int = 0
    id: str = "00000000-0000-0000-0000-000000000000"
    missed: tuple[int, ...] = ()
    """Transactions before the position that were in progress: their changes are still to be read."""
    late: tuple[int, str] = (0, "00000000-0000-0000-0000-000000000000")
    """The position within the changes of a missed transaction that has ended and is read in pages."""
    more: bool = field(default=False, compare=False)
    """Further changes were ready when the last page was read."""
