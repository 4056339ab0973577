"""Response models of the REST door, also for the OpenAPI document; `serializers` fills them from rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ResponseModel(BaseModel):
    """Base of the response models; JSON names are in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class FieldError(ResponseModel):
    """An invalid field."""

    field: str = Field(description="Path of the field, such as spec.replicas.")
    message: str = Field(description="The reason why it is invalid.")


class ProblemView(ResponseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(description="Stable URI of the type of problem, such as urn:niyanta:problem:queue-full.")
    title: str = Field(description="Short description of the type.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="Description of this occurrence.")
    errors: list[FieldError] = Field(default_factory=list, description="The invalid fields.")
    retry_after_seconds: int | None = Field(None, description="Same as the header Retry-After.")


class Accepted(ResponseModel):
    """A committed submission."""

    id: str = Field(description="Id of the workload; a UUID.")
    name: str
    namespace: str
    customer: str
    phase: str = Field(description="Pending, or Suspended when spec.suspend is true.")
    href: str = Field(description="Path of the workload.")


class BatchItem(ResponseModel):
    """Result of one line of a batch."""

    line: int = Field(description="Line number, from 0; empty lines count.")
    status: int = Field(description="HTTP status of this item; 202: accepted.")
    workload: Accepted | None = None
    problem: ProblemView | None = None


class BatchView(ResponseModel):
    """Results of a batch."""

    accepted: int
    refused: int
    items: list[BatchItem]


class AssignmentView(ResponseModel):
    """Worker of one pod."""

    index: int = Field(description="Index of the pod, from 0.")
    node_name: str
    pool_name: str | None = Field(None, description="WorkerPool of the node.")
    pod_name: str


class WorkloadView(ResponseModel):
    """A workload. Fields of its status have the names of `status` of a Workload object."""

    id: str
    name: str
    namespace: str
    customer: str
    door: str = Field(description="API it was created through: kubernetes or rest.")
    type: str
    labels: dict[str, str]
    phase: str
    reason: str
    message: str
    priority: int = Field(description="Base priority.")
    effective_priority: int = Field(
        description="Priority times tier weight plus aging: now, or when it left the queue."
    )
    replicas: int
    attempts: int
    failures: int
    pods: str = Field(description="Ready and wanted pods at the last transition, such as 3/3.")
    placement: str = Field(description="Node of its pods, or the number of workers, such as 3 workers.")
    assignments: list[AssignmentView] = Field(description="Worker of each pod of the current or last attempt.")
    score: int | None = Field(description="Score of the placement, 0 to 100.")
    created_at: datetime | None
    queued_time: datetime
    scheduled_time: datetime | None
    start_time: datetime | None
    completion_time: datetime | None
    object_name: str | None = Field(description="Name of its Workload object in Kubernetes; null if it has none yet.")
    spec: dict[str, Any] | None = Field(None, description="The spec; in lists only with `withSpec`.")


class WorkloadPage(ResponseModel):
    """A page of workloads, newest first."""

    items: list[WorkloadView]
    next: str | None = Field(None, description="Cursor of the next page; null on the last page. Pages may be short.")


class EventView(ResponseModel):
    """An entry of the audit log: one transition."""

    at: datetime
    event: str
    from_phase: str | None
    to_phase: str
    attempt: int
    node_names: list[str] = Field(description="Worker of each pod, by index.")
    score: int | None
    reason: str
    message: str
    reasons: list[Any]


class AttemptView(ResponseModel):
    """One attempt to run the workload."""

    attempt: int
    node_names: list[str] = Field(description="Worker of each pod, by index.")
    pool_names: list[str] = Field(description="WorkerPool of each pod, by index; empty if it isn't known.")
    score: int | None
    scheduled_time: datetime | None
    start_time: datetime | None
    completion_time: datetime | None
    outcome: str = Field(description="Event that ended the attempt; empty while it runs.")
    reason: str


class EventPage(ResponseModel):
    """A page of the audit log, oldest first."""

    items: list[EventView]
    attempts: list[AttemptView] = Field(description="All attempts; on the first page only.")
    next: str | None = None


class ReasonCount(ResponseModel):
    """Number of workers that one reason rules out."""

    reason: str = Field(description="Typed reason, such as GpuModelMismatch.")
    detail: str = Field(description="Subject of the reason, such as the resource.")
    count: int = Field(description="Number of workers.")


class QueuePosition(ResponseModel):
    """Position of a workload in the queue."""

    ahead: int = Field(description="Workloads ahead of it, of all customers together.")
    exact: bool = Field(description="False: `ahead` is a lower bound (the count stops at 10,000).")


class Estimate(ResponseModel):
    """Estimated start of a workload."""

    at: datetime | None = Field(description="Null if it can't be estimated; `basis` has the reason.")
    seconds: float | None
    basis: str = Field(description="Basis of the estimate, or the change that has to come first.")


class FitsPool(ResponseModel):
    """A pool whose new workers could run the workload."""

    pool: str
    at_maximum: int | None = Field(None, description="Maximum number of workers, if the pool has reached it.")


class ClosestPool(ResponseModel):
    """The pool whose empty workers come closest to running a pod of the workload, when no pool's could."""

    pool: str
    failed: list[str] = Field(description="Checks that its empty workers fail, such as WorkerTooSmall (cpu).")


class Explanation(ResponseModel):
    """Explanation of a workload's phase."""

    id: str
    phase: str
    reason: str
    message: str
    effective_priority: int
    priority_formula: str
    reasons: list[ReasonCount] = Field(description="Number of workers that each reason rules out, largest first.")
    nearest_miss: Any = Field(None, description="The worker that came closest, if the leader recorded one.")
    fits_pool: FitsPool | None = Field(None, description="A pool whose empty workers could run it.")
    closest_pool: ClosestPool | None = Field(
        None, description="The pool that comes closest, when no pool's empty workers could run it."
    )
    reasons_of_class: bool = Field(
        False, description="The reasons are those of its queue class: it was not refused by itself yet."
    )
    waiting_in_class: int | None = Field(
        None, description="Pending workloads of its queue class, which wait for the same reasons; itself included."
    )
    position: QueuePosition | None = Field(description="Only while it is Pending.")
    estimated_start: Estimate | None = Field(description="Only while it is Pending.")
    not_before: datetime | None = Field(description="End of the backoff before a retry.")
    avoided_workers: dict[str, datetime] = Field(description="Worker -> time until which it is avoided.")


class CustomerView(ResponseModel):
    """A Customer."""

    name: str
    tier: str
    namespaces: list[str]
    limits: dict[str, Any]
    service_accounts: list[str]
    secrets: list[str]


class QueueCounts(ResponseModel):
    """Number of workloads in each phase; for finished phases the total since the beginning."""

    pending: int
    held: int
    suspended: int
    scheduled: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class CustomerStats(ResponseModel):
    """A Customer's counts and limits."""

    customer: str
    counts: QueueCounts
    waiting: int = Field(description="Workloads that count against maxQueueDepth: pending, held and suspended.")
    max_queue_depth: int | None
    concurrent: int = Field(description="Workloads that count against maxConcurrent: scheduled and running.")
    max_concurrent: int | None
    oldest_pending_seconds: float | None
    placed_per_minute: float | None = Field(description="Over the last ten minutes; null if not known.")


class QueueDepthView(ResponseModel):
    """Depth of the queue."""

    total: int = Field(description="Pending workloads; with a customer's key only its own.")
    held: int
    suspended: int
    by_customer: dict[str, int]
    by_tier: dict[str, int]
    by_pool: dict[str, int] = Field(
        description="Pending workloads by the pool that could run them, as the leader last counted them (admin)."
    )
    oldest_age_seconds: float | None = Field(
        description="Age of the oldest pending workload: since it was queued; with a customer's key, since creation."
    )


class WorkerRequestView(ResponseModel):
    """A request to cordon, uncordon or drain a worker, which the leader carries out."""

    id: str
    worker: str
    action: str = Field(description="cordon, uncordon or drain.")
    requested_by: str = Field(description="Customer and id of the API key, for instance acme/0f0e...")
    requested_at: datetime
    evict_at: datetime | None = Field(
        description="Time from which a drain puts workloads back into the queue; null: it waits for their end."
    )
    begun_at: datetime | None = Field(description="Time at which the worker was cordoned for a drain.")
    done_at: datetime | None = Field(description="Null while the request is open.")
    outcome: str | None = Field(
        description="Done, Failed, or Replaced: a later request or another client took its place."
    )
    message: str


class WorkerView(ResponseModel):
    """A worker. Quantities are in base units (cpu: millicores, memory: bytes)."""

    name: str
    pool: str
    region: str
    zone: str
    gpu_model: str
    allocatable: dict[str, int]
    used: dict[str, int] | None = Field(description="Only for admins, because it reveals what others run.")
    free: dict[str, int] | None = Field(description="allocatable minus used; only for admins.")
    slots: int | None
    slots_used: int | None = Field(description="Only for admins.")
    ready: bool
    cordoned: bool
    draining: bool = Field(description="True while a requested drain waits until no workload runs there.")
    request: WorkerRequestView | None = Field(description="Open drain, or else the last request; only for admins.")
    updated_at: datetime | None


class WorkerPage(ResponseModel):
    """A page of workers, sorted by name."""

    items: list[WorkerView]
    next: str | None = None


class PoolView(ResponseModel):
    """A WorkerPool, as the leader last wrote it."""

    name: str
    spec: dict[str, Any]
    status: dict[str, Any]
    updated_at: datetime | None


class PoolList(ResponseModel):
    """All pools, sorted by name."""

    items: list[PoolView]


class PoolStatsView(ResponseModel):
    """Statistics of a pool for autoscaling, as the leader last computed them. A slot holds one pod."""

    pool: str
    age_seconds: float = Field(description="Age of the statistics, at most 5.")
    demand: int = Field(
        description="Running and queued slots. Divided by slotsPerWorker: the desired number of workers."
    )
    workers_needed: int = Field(description="Workers in use once every workload that counts for this pool is placed.")
    utilization_percent_sum: int = Field(
        description="Sum over its workers of the percentage in use of the fullest resource."
    )
    queue_depth: int = Field(description="Pending workloads that count for this pool.")
    queue_oldest_age_seconds: float = Field(description="Age of the oldest of them.")
    workers: int
    ready_workers: int
    workers_in_use: int
    running_workloads: int
    running_slots: int
    queued_slots: int
    utilization: dict[str, float | None] = Field(description="Share in use of cpu, memory, gpu and slots, 0 to 1.")


class DecisionView(ResponseModel):
    """A decision about the number of workers of a pool."""

    id: int
    at: datetime
    action: str = Field(description="ScaleUp, ScaleDown, WorkerRemoved, ...; docs/scaling.md lists them all.")
    worker: str = Field(description="Name of the node; empty if the decision is about the pool.")
    instance: str = Field(description="Provider's id of the worker.")
    wanted: int | None = Field(description="Desired number of workers at that time.")
    had: int | None = Field(description="Number of workers at that time, without those being drained.")
    reason: str
    message: str


class DecisionPage(ResponseModel):
    """A page of decisions, newest first."""

    items: list[DecisionView]
    next: str | None = Field(None, description="Cursor of the next page; null on the last page.")


class CustomerList(ResponseModel):
    """All Customers, sorted by name."""

    items: list[CustomerView]
