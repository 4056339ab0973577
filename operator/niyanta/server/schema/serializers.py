"""Converts rows to the response models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from niyanta.lifecycle import Door
from niyanta.resources.assignments import assignments, placement_text, pods_text
from niyanta.server.schema.models import (
    Accepted,
    AssignmentView,
    AttemptView,
    CustomerView,
    DecisionView,
    EventView,
    PoolStatsView,
    PoolView,
    QueueCounts,
    ReasonCount,
    ResponseModel,
    WorkerRequestView,
    WorkerView,
    WorkloadView,
)
from niyanta.store.leader.demand_stats import PoolStats
from niyanta.store.leader.scaling import ScalingDecisionRow
from niyanta.store.row_mapping import from_us
from niyanta.store.rows import AttemptRow, CustomerRow, Depth, EventRow, PoolRow, WorkerRequest, WorkerRow, WorkloadRow

_POOL_SPEC = frozenset(
    ("region", "zones", "tags", "capabilities", "compliance", "gpu", "slotsPerWorker", "replicas", "strategy")
)
_POOL_STATUS = frozenset(("replicas", "readyReplicas", "conditions"))


def workload(row: WorkloadRow, *, effective_priority: int, with_spec: bool) -> WorkloadView:
    """A workload, as users see it."""
    return WorkloadView(
        id=row.id,
        name=row.name,
        namespace=row.namespace,
        customer=row.customer,
        door=row.door.value,
        type=row.type,
        labels=row.labels,
        phase=row.phase.value,
        reason=row.reason,
        message=row.message,
        priority=row.priority,
        effective_priority=effective_priority,
        replicas=row.replicas,
        attempts=row.attempt,
        failures=row.failures,
        pods=pods_text(row.phase, row.replicas),
        placement=placement_text(row.workers),
        assignments=_assignments(row),
        score=_whole(row.score),
        created_at=row.created_at,
        queued_time=from_us(row.queued_at_us),
        scheduled_time=row.scheduled_at,
        start_time=row.started_at,
        completion_time=row.finished_at,
        object_name=row.object_name if row.door is Door.REST else row.name,
        spec=row.spec if with_spec else None,
    )


def _assignments(row: WorkloadRow) -> list[AssignmentView]:
    found = assignments(row.name, row.id, attempt=row.attempt, workers=row.workers, pool=row.pool, pools=row.pools)
    return [AssignmentView.model_validate(entry) for entry in found]


def _whole(score: float | None) -> int | None:
    return None if score is None else round(score)


def accepted(row: WorkloadRow) -> Accepted:
    """A workload that was just committed."""
    return Accepted(
        id=row.id,
        name=row.name,
        namespace=row.namespace,
        customer=row.customer,
        phase=row.phase.value,
        href=f"/v1/workloads/{row.id}",
    )


def event(row: EventRow) -> EventView:
    """An entry of the audit log."""
    return EventView(
        at=row.at,
        event=row.event,
        from_phase=row.from_phase.value if row.from_phase else None,
        to_phase=row.to_phase.value,
        attempt=row.attempt,
        node_names=list(row.workers),
        score=_whole(row.score),
        reason=row.reason,
        message=row.message,
        reasons=row.reasons,
    )


def attempt(row: AttemptRow) -> AttemptView:
    """An attempt."""
    return AttemptView(
        attempt=row.attempt,
        node_names=list(row.workers),
        pool_names=list(row.pools) or ([row.pool] * len(row.workers) if row.pool else []),
        score=_whole(row.score),
        scheduled_time=row.scheduled_at,
        start_time=row.started_at,
        completion_time=row.finished_at,
        outcome=row.outcome,
        reason=row.reason,
    )


def customer(row: CustomerRow) -> CustomerView:
    """A Customer."""
    return CustomerView(
        name=row.name,
        tier=row.tier,
        namespaces=list(row.namespaces),
        limits=row.limits,
        service_accounts=list(row.service_accounts),
        secrets=list(row.secrets),
    )


def counts(depth: Depth) -> QueueCounts:
    """A customer's counters."""
    return QueueCounts(**{name: getattr(depth, name) for name in QueueCounts.model_fields})


def worker(row: WorkerRow, request: WorkerRequest | None, *, admin: bool) -> WorkerView:
    """A worker, without its usage and the request about it unless for an admin."""
    known = {name: getattr(row, name) for name in WorkerView.model_fields if hasattr(row, name)}
    if not admin:
        known |= {"used": None, "free": None, "slots_used": None}
    shown = worker_request(request) if request is not None and admin else None
    return WorkerView(**known, draining=request is not None and request.draining, request=shown)


def pool(row: PoolRow, *, admin: bool) -> PoolView:
    """A pool, without its usage and provider unless for an admin."""
    spec, status = row.spec, row.status
    if not admin:
        spec = {name: value for name, value in spec.items() if name in _POOL_SPEC}
        status = {name: value for name, value in status.items() if name in _POOL_STATUS}
    return PoolView(name=row.name, spec=spec, status=status, updated_at=row.updated_at)


def pool_stats(row: PoolStats, *, age: float) -> PoolStatsView:
    """A pool's statistics, under the names that the metrics adapter uses."""
    alike = {name: getattr(row, name) for name in PoolStatsView.model_fields if hasattr(row, name)}
    return PoolStatsView(
        **alike,
        age_seconds=round(age, 3),
        queue_depth=row.queued_workloads,
        queue_oldest_age_seconds=row.oldest_age_seconds,
    )


def decision(row: ScalingDecisionRow) -> DecisionView:
    """A scaling decision."""
    return DecisionView(**{name: getattr(row, name) for name in DecisionView.model_fields})


def worker_request(row: WorkerRequest) -> WorkerRequestView:
    """A request about a worker."""
    return WorkerRequestView(**{name: getattr(row, name) for name in WorkerRequestView.model_fields})


def body(view: ResponseModel) -> Any:
    """The model as JSON values."""
    return view.model_dump(mode="json", by_alias=True)


def reason_counts(reasons: list[Any]) -> list[ReasonCount]:
    """Typed reasons from the stored form [reason, detail, count]; other entries are skipped."""
    return [
        ReasonCount(reason=str(item[0]), detail=str(item[1]), count=item[2])
        for item in reasons
        if isinstance(item, list) and len(item) == 3 and isinstance(item[2], int)
    ]


def noted(reasons: list[Any], name: str) -> Any:
    """Value of the entry {name: value} of the stored reasons (nearestMiss, fitsPool, closestPool), or None."""
    return next((item[name] for item in reasons if isinstance(item, Mapping) and name in item), None)
