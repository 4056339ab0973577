"""The Kubernetes door: a Workload object becomes a row of the queue, or a row that says what is wrong with it.

Pure but for the catalogue it reads. What the API server's own validation can't see (customers, limits) becomes phase
Held with a reason; what can never work becomes Failed with the field's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from niyanta.engine.model import Requirements, Subject
from niyanta.lifecycle import Phase
from niyanta.resources.customers import Held, check_cluster_scope, resolve_customer
from niyanta.resources.requirements import Refused, compile_workload
from niyanta.resources.workload import WorkloadSpec
from niyanta.scheduler.ports import ClusterPort
from niyanta.settings import Settings
from niyanta.store.rows import Intake, WorkloadRow


@dataclass(frozen=True, slots=True)
class Entry:
    """A row to take in, and what the engine needs of it (None where it can't be placed)."""

    intake: Intake
    spec: WorkloadSpec | None
    requirements: Requirements | None
    subject: Subject


@dataclass(frozen=True, slots=True)
class Standing:
    """Whose a workload is, and whether it must wait (then `reason` and `message` say why)."""

    customer: str
    tier_weight: int
    reason: str = ""
    message: str = ""

    @property
    def held(self) -> bool:
        return bool(self.reason)


def standing(namespace: str, spec: WorkloadSpec, cluster: ClusterPort, settings: Settings) -> Standing:
    """Resolve the customer of a workload by section 5's rules."""
    found = resolve_customer(namespace, spec.customer, cluster.customers(), operator_namespace=settings.namespace)
    if isinstance(found, Held):
        return Standing(spec.customer or "", 1, found.reason, found.message)
    customer = found.customer
    weight = settings.tier_weight(customer.spec.tier)
    refused = check_cluster_scope(spec, customer)
    if refused is not None:
        return Standing(customer.name, weight, refused.reason, refused.message)
    return Standing(customer.name, weight)


def read_object(obj: Mapping[str, Any], cluster: ClusterPort, settings: Settings) -> Entry:
    """Turn a Workload object, as the API server gave it, into a row to take in."""
    meta = obj["metadata"]
    raw = dict(obj.get("spec") or {})
    labels = {str(k): str(v) for k, v in (meta.get("labels") or {}).items()}
    subject = Subject(meta["namespace"], "", "", tuple(sorted(labels.items())))
    try:
        spec = WorkloadSpec.model_validate(raw)
    except ValidationError as error:
        intake = _intake(meta, raw, labels, reason="InvalidSpec", message=_words(error), phase=Phase.FAILED)
        return Entry(intake, None, None, subject)
    stand = standing(meta["namespace"], spec, cluster, settings)
    phase, reason, message = Phase.PENDING, "", ""
    if stand.held:
        phase, reason, message = Phase.HELD, stand.reason, stand.message
    if spec.suspend:
        phase, reason, message = Phase.SUSPENDED, "Suspended", "spec.suspend is true"
    try:
        compiled = compile_workload(
            spec,
            namespace=meta["namespace"],
            customer=stand.customer,
            labels=labels,
            defaults=cluster.namespace_defaults(meta["namespace"]),
        )
    except Refused as refused:
        intake = _intake(meta, raw, labels, reason="InvalidSpec", message=str(refused), phase=Phase.FAILED)
        return Entry(intake, spec, None, subject)
    intake = _intake(
        meta,
        raw,
        labels,
        spec=spec,
        stand=stand,
        class_id=compiled.class_id,
        phase=phase,
        reason=reason,
        message=message,
    )
    return Entry(intake, spec, compiled.requirements, compiled.subject)


def read_row(row: WorkloadRow, cluster: ClusterPort) -> tuple[WorkloadSpec, Requirements | None, Subject]:
    """What a stored row compiles to, for a leader that has just begun."""
    spec = WorkloadSpec.model_validate(row.spec)
    try:
        compiled = compile_workload(
            spec,
            namespace=row.namespace,
            customer=row.customer,
            labels=row.labels,
            defaults=cluster.namespace_defaults(row.namespace),
        )
    except Refused:
        return spec, None, Subject(row.namespace, row.customer, row.type)
    return spec, compiled.requirements, compiled.subject


def _intake(
    meta: Mapping[str, Any],
    raw: Mapping[str, Any],
    labels: dict[str, str],
    *,
    phase: Phase,
    reason: str,
    message: str,
    spec: WorkloadSpec | None = None,
    stand: Standing | None = None,
    class_id: str = "",
) -> Intake:
    return Intake(
        id=meta["uid"],
        door="kubernetes",
        namespace=meta["namespace"],
        name=meta["name"],
        customer=stand.customer if stand else str(raw.get("customer") or ""),
        type=(spec.type or "") if spec else "",
        labels=labels,
        generation=int(meta.get("generation", 1)),
        spec=dict(raw),
        class_id=class_id,
        replicas=spec.replicas if spec else 1,
        priority=spec.priority if spec else 0,
        tier_weight=stand.tier_weight if stand else 1,
        phase=phase,
        reason=reason,
        message=message,
    )


def _words(error: ValidationError) -> str:
    """One line a user can act on: field, value and what is allowed, for the first three problems."""
    parts = []
    for problem in error.errors(include_url=False)[:3]:
        where = "spec." + ".".join(str(part) for part in problem["loc"])
        parts.append(f"{where}: {problem['msg']} (got {str(problem.get('input'))[:80]!r})")
    return "; ".join(parts)
