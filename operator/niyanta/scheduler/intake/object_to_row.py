"""The Kubernetes door: converts a Workload object to a row. Reads Customers, LimitRanges and RuntimeClasses from the
cluster's watched state; no I/O.

An object that breaks a rule over several objects (ownership, the Customer's lists) becomes a Held row with a reason; an
object with an invalid spec becomes a Failed row whose message names the field. A spec that can't be read is not stored:
its size, depth and content are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from niyanta.bounded_json import VIOLATION_KEY
from niyanta.engine.types import Requirements, Subject
from niyanta.lifecycle import Door, Phase
from niyanta.resources import pod_security, template_lists
from niyanta.resources.assignments import node_names
from niyanta.resources.compile.queue_base import spec_class
from niyanta.resources.compile.requirements import compile_workload, parse_spec
from niyanta.resources.models.base import InvalidManifestError
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.meta import check_labels
from niyanta.resources.models.workload import WorkloadSpec
from niyanta.resources.ownership import Held, HeldReason, check_priority, check_terms, term_uses
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
    wildcard: bool = False
    """As in `ownership.Resolved`."""

    @property
    def held(self) -> bool:
        """True if the workload may not be queued."""
        return bool(self.reason)


def eligibility(
    namespace: str, spec: WorkloadSpec, cluster: ClusterReads, settings: Settings, *, door: Door
) -> Eligibility:
    """Resolve the customer of a workload and check that it may be queued.

    Workloads of the REST door are checked as the door does: whoever can write rows must not get past it.
    """
    found = cluster.resolve_customer(namespace, spec.customer)
    if isinstance(found, Held):
        # A name that doesn't resolve is only an author's claim: nothing is counted for a Customer because of it.
        claimed = (spec.customer or "") if door is Door.REST else ""
        return Eligibility(claimed, 1, found.reason.value, found.message)
    customer = found.customer
    refused = (
        check_priority(spec.priority, customer)
        or check_terms(term_uses(spec.affinity, spec.topology), customer, topology_keys=settings.shared_topology_keys)
        or template_lists.violation(spec.template, customer, door)
        or (_rest_violation(namespace, spec, customer) if door is Door.REST else None)
    )
    name, weight = customer.metadata.name, settings.tier_weight(customer.spec.tier.value)
    if refused is not None:
        return Eligibility(name, weight, refused.reason.value, refused.message, wildcard=found.wildcard)
    return Eligibility(name, weight, wildcard=found.wildcard)


def _rest_violation(namespace: str, spec: WorkloadSpec, customer: Customer) -> Held | None:
    """Rules for submissions by REST alone."""
    if namespace not in customer.spec.namespaces:
        message = f"Customer {customer.metadata.name} does not list namespace {namespace} by name"
        return Held(HeldReason.NAMESPACE_NOT_ALLOWED, message)
    for found in pod_security.check_template(spec.template.manifest()):
        return Held(HeldReason.TEMPLATE_NOT_ALLOWED, f"{found.field}: {found.message}", found.field)
    return None


def read_object(obj: Mapping[str, Any], cluster: ClusterReads, settings: Settings) -> CompiledObject:
    """Convert a Workload object, as the API server returned it, to a row to take in. Raises KeyError if metadata has no
    name, namespace or UID."""
    meta = obj["metadata"]
    raw = obj.get("spec") or {}
    labels = {str(k): str(v) for k, v in (meta.get("labels") or {}).items()}
    spec: WorkloadSpec | None = None
    eligible: Eligibility | None = None
    try:
        if VIOLATION_KEY in obj:
            raise InvalidManifestError("spec", None, str(obj[VIOLATION_KEY]))
        check_labels(labels)
        spec = parse_spec(raw)
        eligible = eligibility(meta["namespace"], spec, cluster, settings, door=Door.KUBERNETES)
        compiled = compile_workload(
            spec,
            namespace=meta["namespace"],
            customer=eligible.customer,
            labels=labels,
            defaults=cluster.namespace_defaults(meta["namespace"]),
            wildcard=eligible.wildcard,
        )
    except InvalidManifestError as refused:
        row = _row(meta, raw, labels if spec else {}, spec=spec, eligible=eligible)
        failed = replace(row, phase=Phase.FAILED, reason=RowReason.INVALID_SPEC.value, message=str(refused))
        return CompiledObject(failed, spec, None, Subject(meta["namespace"], row.customer))
    row = _row(meta, raw, labels, spec=spec, eligible=eligible)
    found = spec_class(spec)
    place = {"namespace": row.namespace, "customer": row.customer}
    row = replace(
        row, class_id=compiled.class_id, queue_class=found.base(**place), visible_keys=found.visible_keys(**place)
    )
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
        or node_names(shown.get("assignments")) != row.workers
        or (shown.get("reason") or "") != row.reason
    )


def read_row(row: WorkloadRow, cluster: ClusterReads) -> tuple[WorkloadSpec, Requirements | None, Subject]:
    """Compile a stored row. Requirements are None if its spec doesn't compile; raises InvalidManifestError if it
    can't be parsed."""
    spec = parse_spec(row.spec)
    owner = cluster.resolve_customer(row.namespace, row.customer)
    try:
        compiled = compile_workload(
            spec,
            namespace=row.namespace,
            customer=row.customer,
            labels=row.labels,
            defaults=cluster.namespace_defaults(row.namespace),
            # Without a Customer the narrower scope is right, until the row is held or the Customer comes back.
            wildcard=isinstance(owner, Held) or owner.wildcard,
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
    """A Pending row. Without `spec`, which couldn't be read, nothing of `raw` gets into it."""
    return WorkloadIntake(
        id=meta["uid"],
        door=Door.KUBERNETES,
        namespace=meta["namespace"],
        name=meta["name"],
        customer=eligible.customer if eligible else "",
        type=(spec.type or "") if spec else "",
        labels=labels,
        generation=int(meta.get("generation", 1)),
        spec=dict(raw) if spec else {},
        class_id="",
        replicas=spec.replicas if spec else 1,
        priority=spec.priority if spec else 0,
        tier_weight=eligible.tier_weight if eligible else 1,
    )
