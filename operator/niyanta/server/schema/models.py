"""What the REST door answers with, for the schema and the answers alike; `views` makes them from rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ResponseModel(BaseModel):
    """A part of an answer, in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class FieldError(ResponseModel):
    """One wrong field."""

    field: str = Field(description="Path of the field, such as spec.replicas.")
    message: str = Field(description="What is wrong with it.")


class ProblemView(ResponseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(description="Stable URI of the type of problem, such as urn:niyanta:problem:queue-full.")
    title: str = Field(description="The type in words.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What happened this time.")
    errors: list[FieldError] = Field(default_factory=list, description="The fields that are wrong.")
    retry_after_seconds: int | None = Field(None, description="When to come back; as the header Retry-After.")


class Accepted(ResponseModel):
    """A submission that is committed."""

    id: str = Field(description="Id of the workload; a UUID.")
    name: str
    namespace: str
    customer: str
    phase: str = Field(description="Pending, or Suspended when spec.suspend is true.")
    href: str = Field(description="Path of the workload.")


class BatchItem(ResponseModel):
    """What became of one line of a batch."""

    line: int = Field(description="Number of the line, from 0; empty lines count.")
    status: int = Field(description="HTTP status of this item: 202 accepted.")
    workload: Accepted | None = None
    problem: ProblemView | None = None


class BatchView(ResponseModel):
    """What became of a batch."""

    accepted: int
    refused: int
    items: list[BatchItem]


class WorkloadView(ResponseModel):
    """A workload."""

    id: str
    name: str
    namespace: str
    customer: str
    door: str = Field(description="kubernetes or rest: how it came in.")
    type: str
    labels: dict[str, str]
    phase: str
    reason: str
    message: str
    priority: int = Field(description="Base priority.")
    effective_priority: int = Field(description="Priority times tier weight plus aging, now (of what waits).")
    replicas: int
    attempts: int
    failures: int
    pool: str
    workers: list[str]
    score: float | None
    created_at: datetime | None
    queued_at: datetime
    scheduled_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    object_name: str | None = Field(description="Name of its Workload object in Kubernetes; null: it has none yet.")
    spec: dict[str, Any] | None = Field(None, description="The spec; in lists only when asked for.")


class WorkloadPage(ResponseModel):
    """A page of workloads, newest first."""

    items: list[WorkloadView]
    next: str | None = Field(None, description="Cursor of the next page; null: there is none. Pages may be short.")


class EventView(ResponseModel):
    """One line of the audit."""

    at: datetime
    event: str
    from_phase: str | None
    to_phase: str
    attempt: int
    workers: list[str]
    score: float | None
    reason: str
    message: str
    reasons: list[Any]


class AttemptView(ResponseModel):
    """One attempt."""

    attempt: int
    workers: list[str]
    pool: str
    score: float | None
    scheduled_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str = Field(description="The event that ended it; empty while it lasts.")
    reason: str


class EventPage(ResponseModel):
    """A page of the audit, oldest first."""

    items: list[EventView]
    attempts: list[AttemptView] = Field(description="All attempts; on the first page alone.")
    next: str | None = None


class ReasonCount(ResponseModel):
    """Workers that can't take the workload for one reason."""

    reason: str = Field(description="Typed reason, such as GpuModelMismatch.")
    detail: str = Field(description="What it is about, such as the resource.")
    count: int = Field(description="Workers.")


class QueuePosition(ResponseModel):
    """Where a workload stands in the queue."""

    ahead: int = Field(description="Workloads before it, all customers together.")
    exact: bool = Field(description="False: `ahead` is a lower bound (the count stops at 10,000).")


class Estimate(ResponseModel):
    """When a workload may start."""

    at: datetime | None = Field(description="Null: nobody can tell; `basis` says why.")
    seconds: float | None
    basis: str = Field(description="How it was estimated.")


class FitsPool(ResponseModel):
    """New workers of a pool would take the workload."""

    pool: str
    at_maximum: int | None = Field(None, description="The most workers the pool may have, when it has them already.")


class ClosestPool(ResponseModel):
    """No pool's empty worker could hold a pod of the workload; this pool's lacks least."""

    pool: str
    failed: list[str] = Field(description="What an empty worker of it fails, such as InsufficientResource (cpu).")


class Explanation(ResponseModel):
    """Why a workload is where it is."""

    id: str
    phase: str
    reason: str
    message: str
    effective_priority: int
    priority_formula: str
    reasons: list[ReasonCount] = Field(description="Per reason how many workers it rules out, most first.")
    nearest_miss: Any = Field(None, description="The worker that came closest, where the leader noted one.")
    fits_pool: FitsPool | None = Field(None, description="The pool whose empty workers could hold it.")
    closest_pool: ClosestPool | None = Field(None, description="The pool that comes closest, when none could hold it.")
    position: QueuePosition | None = Field(description="Of what is Pending.")
    estimated_start: Estimate | None = Field(description="Of what is Pending.")
    not_before: datetime | None = Field(description="End of a retry's backoff.")
    avoided_workers: dict[str, datetime] = Field(description="Worker -> until when it is avoided.")


class CustomerView(ResponseModel):
    """A Customer."""

    name: str
    tier: str
    namespaces: list[str]
    limits: dict[str, Any]
    service_accounts: list[str]
    secrets: list[str]


class QueueCounts(ResponseModel):
    """How many workloads are where; the finished ones are totals of all times."""

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
    waiting: int = Field(description="What counts against maxQueueDepth: pending, held and suspended.")
    max_queue_depth: int | None
    concurrent: int = Field(description="What counts against maxConcurrent: scheduled and running.")
    max_concurrent: int | None
    oldest_pending_seconds: float | None
    placed_per_minute: float | None = Field(description="Over the last ten minutes; null: not known.")


class QueueDepthView(ResponseModel):
    """How much waits."""

    total: int = Field(description="Pending workloads; a customer's key sees its own alone, here too.")
    held: int
    suspended: int
    by_customer: dict[str, int]
    by_tier: dict[str, int]
    by_pool: dict[str, int] = Field(description="Pending workloads by the pool that could take them, by the leader.")
    oldest_age_seconds: float | None = Field(
        description="Of the longest waiting: since it was queued; with a customer's key since it was created."
    )


class WorkerView(ResponseModel):
    """A worker. Quantities are in base units (cpu: millicores, memory: bytes)."""

    name: str
    pool: str
    region: str
    zone: str
    gpu_model: str
    allocatable: dict[str, int]
    used: dict[str, int] | None = Field(description="Shown to admins alone, as it tells what others run.")
    free: dict[str, int] | None = Field(description="The rest; for admins.")
    slots: int | None
    slots_used: int | None = Field(description="For admins.")
    ready: bool
    cordoned: bool
    updated_at: datetime | None


class WorkerPage(ResponseModel):
    """A page of workers by name."""

    items: list[WorkerView]
    next: str | None = None


class PoolView(ResponseModel):
    """A WorkerPool, as the leader last wrote it."""

    name: str
    spec: dict[str, Any]
    status: dict[str, Any]
    updated_at: datetime | None


class PoolList(ResponseModel):
    """All pools by name."""

    items: list[PoolView]


class PoolStatsView(ResponseModel):
    """What an autoscaler needs of a pool, as the leader last counted it. Slots are pods."""

    pool: str
    age_seconds: float = Field(description="How long ago it was counted, at most 5.")
    demand: int = Field(description="Slots running and queued: divided by slotsPerWorker, the workers wanted.")
    workers_needed: int = Field(description="Workers in use once all that counts for this pool has been placed.")
    utilization_percent_sum: int = Field(description="Over its workers: 100 x the share taken of what is fullest.")
    queue_depth: int = Field(description="Pending workloads that count for this pool.")
    queue_oldest_age_seconds: float = Field(description="Age of the one of them that has waited longest.")
    workers: int
    ready_workers: int
    workers_in_use: int
    running_workloads: int
    running_slots: int
    queued_slots: int
    utilization: dict[str, float | None] = Field(description="cpu, memory, gpu, slots: share taken, 0 to 1.")


class DecisionView(ResponseModel):
    """One decision about the number of a pool's workers."""

    id: int
    at: datetime
    action: str = Field(description="ScaleUp, ScaleDown, WorkerRemoved, ...; docs/scaling.md has them all.")
    worker: str = Field(description="Name of the node; empty: it is about the pool.")
    instance: str = Field(description="What the provider calls the worker.")
    wanted: int | None = Field(description="Workers wanted then.")
    had: int | None = Field(description="Workers there then, those on their way out not counted.")
    reason: str
    message: str


class DecisionPage(ResponseModel):
    """A page of decisions, newest first."""

    items: list[DecisionView]
    next: str | None = Field(None, description="Cursor of the next page; null: there is none.")


class DrainView(ResponseModel):
    """A drain that was asked for; the leader cordons the worker."""

    id: str
    worker: str
    action: str
    requested_by: str
    requested_at: datetime
    done_at: datetime | None
    message: str


class CustomerList(ResponseModel):
    """All Customers by name."""

    items: list[CustomerView]
