"""From a manifest to a row to insert, through the API server's validation, the Customer's rules and the restricted Pod
Security standard.

Manifests of a batch are mostly alike, so results that depend only on the spec are cached by its content.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from niyanta.lifecycle import Door, Phase
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.compile.requirements import compile_workload, parse_spec
from niyanta.resources.labels import API_VERSION, PREFIX
from niyanta.resources.models.base import InvalidManifestError, parse
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.meta import Metadata
from niyanta.resources.models.workload import MAX_SUBMITTED_NAME, Workload, WorkloadSpec
from niyanta.resources.ownership import check_scope
from niyanta.server.problems import INVALID, NOT_ALLOWED, POD_SECURITY, REFERENCE, Problem, ProblemType
from niyanta.server.submit.pod_security import Reference, Violation, check_references, check_template, references
from niyanta.store.rows import CustomerRow, WorkloadIntake

_CACHED_SPECS = 1024


@dataclass(frozen=True, slots=True)
class CompiledSpec:
    """Results that depend only on a spec's content."""

    spec: WorkloadSpec
    class_id: str
    violations: tuple[Violation, ...]
    references: tuple[Reference, ...]


class ManifestReader:
    """Validates manifests. No customer may submit to `operator_namespace`."""

    def __init__(self, *, operator_namespace: str) -> None:
        self._operator_namespace = operator_namespace
        self._compiled: OrderedDict[bytes, CompiledSpec] = OrderedDict()

    def read(self, manifest: Mapping[str, Any], customer: CustomerRow, *, tier_weight: int) -> WorkloadIntake:
        """The row to insert for `customer`; raises Problem with the invalid fields."""
        try:
            metadata = _metadata(manifest)
            compiled = self._compile(manifest.get("spec"))
        except InvalidManifestError as refused:
            raise _refusal(INVALID, [Violation(refused.field, refused.message)]) from None
        spec = compiled.spec
        if spec.customer not in (None, customer.name):
            text = f"must be {customer.name} or absent: this submission is for that customer"
            raise _refusal(NOT_ALLOWED, [Violation("spec.customer", text)])
        namespace = self._namespace(metadata, customer)
        _check_scope(spec, customer)
        if compiled.violations:
            raise _refusal(POD_SECURITY, compiled.violations)
        unlisted = check_references(
            compiled.references, service_accounts=customer.service_accounts, secrets=customer.secrets
        )
        if unlisted:
            raise _refusal(REFERENCE, unlisted)
        return WorkloadIntake(
            id=str(uuid.uuid4()),
            door=Door.REST,
            namespace=namespace,
            name=metadata.name,
            customer=customer.name,
            type=spec.type or "",
            labels=metadata.labels,
            generation=1,
            # Explicit, because other Customers may list the namespace too.
            spec={**manifest["spec"], "customer": customer.name},
            class_id=compiled.class_id,
            replicas=spec.replicas,
            priority=spec.priority,
            tier_weight=tier_weight,
            phase=Phase.SUSPENDED if spec.suspend else Phase.PENDING,
            reason="Suspended" if spec.suspend else "",
            message="spec.suspend is true" if spec.suspend else "",
        )

    def _compile(self, spec: Any) -> CompiledSpec:
        if spec is None:
            raise InvalidManifestError("spec", None, "Required value")
        digest = hashlib.blake2b(orjson.dumps(spec, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
        known = self._compiled.get(digest)
        if known is not None:
            self._compiled.move_to_end(digest)
            return known
        parsed = parse_spec(spec)
        # Namespace, customer and labels don't affect the class; the leader compiles again with them.
        compiled = compile_workload(parsed, namespace="", customer="", labels={}, defaults=NamespaceDefaults())
        template = parsed.template.manifest()
        found = CompiledSpec(parsed, compiled.class_id, tuple(check_template(template)), tuple(references(template)))
        self._compiled[digest] = found
        if len(self._compiled) > _CACHED_SPECS:
            self._compiled.popitem(last=False)
        return found

    def _namespace(self, metadata: Metadata, customer: CustomerRow) -> str:
        """The manifest's namespace, or the only one the Customer lists; it must be listed by name."""
        listed = [name for name in customer.namespaces if name != "*"]
        namespace = metadata.namespace or (listed[0] if len(listed) == 1 else "")
        if not namespace:
            text = (
                f"Required value: one of {', '.join(listed)}" if listed else "the Customer lists no namespace by name"
            )
            raise _refusal(NOT_ALLOWED, [Violation("metadata.namespace", text)])
        if namespace.startswith("kube-") or namespace == self._operator_namespace or namespace not in listed:
            text = f"Customer {customer.name} doesn't list namespace {namespace} by name"
            raise _refusal(NOT_ALLOWED, [Violation("metadata.namespace", text)])
        return namespace


def _metadata(manifest: Mapping[str, Any]) -> Metadata:
    """The object's metadata; everything but the spec is checked as the API server would."""
    for name, value in (("apiVersion", API_VERSION), ("kind", "Workload")):
        if manifest.get(name) != value:
            raise InvalidManifestError(name, manifest.get(name), f"must be {value}")
    unknown = sorted(manifest.keys() - {"apiVersion", "kind", "metadata", "spec", "status"})
    if unknown:
        raise InvalidManifestError(unknown[0], None, "unknown field")
    given = manifest.get("metadata")
    if given is None:
        raise InvalidManifestError("metadata", None, "Required value")
    metadata = parse(Metadata, given, root="metadata")
    for rule in Workload.rules:
        if not rule.check(_Named(metadata)):
            raise InvalidManifestError("metadata.name", metadata.name, rule.message)
    if len(metadata.name) > MAX_SUBMITTED_NAME:
        text = f"must have at most {MAX_SUBMITTED_NAME} characters: the name of the Workload object has 9 more"
        raise InvalidManifestError("metadata.name", metadata.name, text)
    reserved = sorted(key for key in metadata.labels if key.startswith(PREFIX))
    if reserved:
        raise InvalidManifestError(
            "metadata.labels", reserved[0], f"labels under {PREFIX} are reserved for the operator"
        )
    return metadata


@dataclass(frozen=True, slots=True)
class _Named:
    """Part of a Workload that its rules read."""

    metadata: Metadata


def _check_scope(spec: WorkloadSpec, customer: CustomerRow) -> None:
    if not spec.affinity or not spec.affinity.anti:
        return
    limits = {"allow_cluster_scope": customer.allow_cluster_scope}
    held = check_scope(spec, Customer.model_validate({"metadata": {"name": customer.name}, "spec": limits}))
    if held is not None:
        raise _refusal(NOT_ALLOWED, [Violation("spec.affinity.anti", held.message)])


def _refusal(kind: ProblemType, violations: Iterable[Violation]) -> Problem:
    found = list(violations)
    detail = "; ".join(f"{item.field}: {item.message}" for item in found[:3])
    if len(found) > 3:
        detail += f"; and {len(found) - 3} more"
    return Problem(kind, detail, [{"field": item.field, "message": item.message} for item in found])
