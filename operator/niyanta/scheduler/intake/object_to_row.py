"""The Kubernetes door: converts a Workload object to a row. Reads Customers, LimitRanges and RuntimeClasses from the
cluster's watched state; no I/O.

An object that breaks a rule over several objects (ownership, scope of the Customer) becomes a Held row with a reason;
an object with an invalid spec becomes a Failed row whose message names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from niyanta.engine.types import Requirements, Subject
from niyanta.lifecycle import Door, Phase
from niyanta.resources.compile.requirements import compile_workload, parse_spec
from niyanta.resources.models.base import InvalidManifestError
from niyanta.resources.models.workload import WorkloadSpec
from niyanta.resources.ownership import Held, check_scope
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.reasons import RowReason
from niyanta.settings import Settings
from niyanta.store.rows import WorkloadIntake, WorkloadRow


@dataclass(frozen=True, slots=True)
class CompiledObject:
    """A row to take in, and its compiled form for the engine (None if it can't be placed)."""

    intake: WorkloadIntake
    spec: WorkloadSpec | None
    requirements: Requirements | None
    subject: Subject


@dataclass(frozen=True, slots=True)
class Eligibility:
    """The customer of a workload; `reason` and `message` are set if the workload may not be queued."""

    customer: str
    tier_weight: int
    reason: str = ""
    message: str = ""

    @property
    def held(self) -> bool:
        """True if the workload may not be queued."""
        return bool(self.reason)


def eligibility(namespace: str, spec: WorkloadSpec, cluster: ClusterReads, settings: Settings) -> Eligibility:
    """Resolve the customer of a workload and check that it may be queued."""
    found = cluster.resolve_customer(namespace, spec.customer)
    if isinstance(found, Held):
        return Eligibility(spec.customer or "", 1, found.reason.value, found.message)
    name, weight = found.customer.metadata.name, settings.tier_weight(found.customer.spec.tier.value)
    refused = check_scope(spec, found.customer)
    if refused is not None:
        return Eligibility(name, weight, refused.reason.value, refused.message)
    return Eligibility(name, weight)


def read_object(obj: Mapping[str, Any], cluster: ClusterReads, settings: Settings) -> CompiledObject:
    """Convert a Workload object, as the API server returned it, to a row to take in."""
    meta = obj["metadata"]
    raw = dict(obj.get("spec") or {})
    labels = {str(k): str(v) for k, v in (meta.get("labels") or {}).items()}
    spec: WorkloadSpec | None = None
    eligible: Eligibility | None = None
    try:
        spec = parse_spec(raw)
        eligible = eligibility(meta["namespace"], spec, cluster, settings)
        compiled = compile_workload(
            spec,
            namespace=meta["namespace"],
            customer=eligible.customer,
            labels=labels,
            defaults=cluster.namespace_defaults(meta["namespace"]),
        )
    except InvalidManifestError as refused:
        row = _row(meta, raw, labels, spec=spec, eligible=eligible)
        ttl = None if spec is None else float(spec.ttl_seconds_after_finished)
        failed = replace(
            row, phase=Phase.FAILED, reason=RowReason.INVALID_SPEC.value, message=str(refused), wake_in_seconds=ttl
        )
        return CompiledObject(failed, spec, None, Subject(meta["namespace"], row.customer))
    row = _row(meta, raw, labels, spec=spec, eligible=eligible)
    row = replace(row, class_id=compiled.class_id)
    if eligible.held:
        row = replace(row, phase=Phase.HELD, reason=eligible.reason, message=eligible.message)
    if spec.suspend:
        row = replace(row, phase=Phase.SUSPENDED, reason=RowReason.SUSPENDED.value, message="spec.suspend is true")
    return CompiledObject(row, spec, compiled.requirements, compiled.subject)


def status_behind(row: WorkloadRow, status: Mapping[str, Any] | None) -> bool:
    """True if an object's status differs from its row. It only saves writes: a status is never authoritative."""
    shown = status or {}
    return (
        shown.get("phase") != row.phase.value
        or shown.get("observedGeneration") != row.generation
        or shown.get("attempts") != row.attempt
        or tuple(shown.get("workers") or ()) != row.workers
        or (shown.get("reason") or "") != row.reason
    )


def read_row(row: WorkloadRow, cluster: ClusterReads) -> tuple[WorkloadSpec, Requirements | None, Subject]:
    """Compile a stored row. Requirements are None if its spec doesn't compile; raises InvalidManifestError if it
    can't be parsed."""
    spec = parse_spec(row.spec)
    try:
        compiled = compile_workload(
            spec,
            namespace=row.namespace,
            customer=row.customer,
            labels=row.labels,
            defaults=cluster.namespace_defaults(row.namespace),
        )
    except InvalidManifestError:
        return spec, None, Subject(row.namespace, row.customer, row.type)
    return spec, compiled.requirements, compiled.subject


def _row(
    meta: Mapping[str, Any],
    raw: Mapping[str, Any],
    labels: dict[str, str],
    *,
    spec: WorkloadSpec | None,
    eligible: Eligibility | None,
) -> WorkloadIntake:
    return WorkloadIntake(
        id=meta["uid"],
        door=Door.KUBERNETES,
        namespace=meta["namespace"],
        name=meta["name"],
        customer=eligible.customer if eligible else str(raw.get("customer") or ""),
        type=(spec.type or "") if spec else "",
        labels=labels,
        generation=int(meta.get("generation", 1)),
        spec=dict(raw),
        class_id="",
        replicas=spec.replicas if spec else 1,
        priority=spec.priority if spec else 0,
        tier_weight=eligible.tier_weight if eligible else 1,
    )
