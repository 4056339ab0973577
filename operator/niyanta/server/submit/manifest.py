"""From a manifest to a row to insert, through the API server's validation, the Customer's rules and the restricted Pod
Security standard.

Manifests of a batch are mostly alike, so results that depend only on the spec are cached by its content.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from niyanta.lifecycle import Door, Phase
from niyanta.resources import pod_security, template_lists
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.compile.queue_base import SpecClass, spec_class
from niyanta.resources.compile.requirements import compile_workload, parse_spec
from niyanta.resources.labels import API_VERSION, PREFIX
from niyanta.resources.models.base import InvalidManifestError, parse
from niyanta.resources.models.customer import EVERY_NAMESPACE, Customer
from niyanta.resources.models.meta import Metadata, check_labels
from niyanta.resources.models.workload import MAX_SUBMITTED_NAME, Workload
from niyanta.resources.ownership import TermUse, check_priority, check_terms, term_uses
from niyanta.resources.template_fields import Violation
from niyanta.resources.template_lists import TemplateUse
from niyanta.server.problems import INVALID, NOT_ALLOWED, POD_SECURITY, REFERENCE, Problem, ProblemType
from niyanta.store.rows import CustomerRow, WorkloadIntake

MAX_CACHED_SPECS = 1024
MAX_CACHED_BYTES = 8 * 1024 * 1024
"""Most JSON whose results are cached. These take up to five times as much memory."""


@dataclass(frozen=True, slots=True)
class CompiledSpec:
    """Results that depend only on a spec's content, without the spec itself: a template can be large."""

    size: int
    """Bytes of the spec as JSON."""
    customer: str | None
    type: str
    replicas: int
    priority: int
    suspend: bool
    class_id: str
    queue_class: SpecClass
    terms: tuple[TermUse, ...]
    uses: tuple[TemplateUse, ...]
    violations: tuple[Violation, ...]


class ManifestReader:
    """Validates manifests. No customer may submit to `operator_namespace`; `topology_keys` are those that every
    Customer may use besides the built-in ones."""

    def __init__(self, *, operator_namespace: str, topology_keys: Collection[str] = ()) -> None:
        self._operator_namespace = operator_namespace
        self._topology_keys = topology_keys
        self._compiled: OrderedDict[tuple[bytes, bool], CompiledSpec] = OrderedDict()
        self._cached_bytes = 0
        self._customers: dict[str, tuple[CustomerRow, Customer]] = {}

    def read(self, manifest: Mapping[str, Any], customer: CustomerRow, *, tier_weight: int) -> WorkloadIntake:
        """The row to insert for `customer`; raises Problem with the invalid fields."""
        try:
            metadata = _metadata(manifest)
            compiled = self._compile(manifest.get("spec"), wildcard=EVERY_NAMESPACE in customer.namespaces)
        except InvalidManifestError as refused:
            raise _refusal(INVALID, [Violation(refused.field, refused.message)]) from None
        if compiled.customer not in (None, customer.name):
            text = f"must be {customer.name} or absent: this submission is for that customer"
            raise _refusal(NOT_ALLOWED, [Violation("spec.customer", text)])
        namespace = self._namespace(metadata, customer)
        self._check_customer(compiled, customer)
        return WorkloadIntake(
            id=str(uuid.uuid4()),
            door=Door.REST,
            namespace=namespace,
            name=metadata.name,
            customer=customer.name,
            type=compiled.type,
            labels=metadata.labels,
            generation=1,
            # Explicit, because other Customers may list the namespace too.
            spec={**manifest["spec"], "customer": customer.name},
            class_id=compiled.class_id,
            replicas=compiled.replicas,
            priority=compiled.priority,
            tier_weight=tier_weight,
            phase=Phase.SUSPENDED if compiled.suspend else Phase.PENDING,
            reason="Suspended" if compiled.suspend else "",
            message="spec.suspend is true" if compiled.suspend else "",
            queue_class=compiled.queue_class.base(namespace=namespace, customer=customer.name),
            visible_keys=compiled.queue_class.visible_keys(namespace=namespace, customer=customer.name),
        )

    def _check_customer(self, compiled: CompiledSpec, row: CustomerRow) -> None:
        """Raise Problem if the Customer or the restricted standard doesn't allow the spec."""
        customer = self._customer(row)
        held = check_priority(compiled.priority, customer)
        held = held or check_terms(compiled.terms, customer, topology_keys=self._topology_keys)
        if held is not None:
            raise _refusal(NOT_ALLOWED, [Violation(held.field, held.message.removeprefix(f"{held.field}: "))])
        if compiled.violations:
            raise _refusal(POD_SECURITY, compiled.violations)
        unlisted = template_lists.unlisted(compiled.uses, customer)
        if unlisted:
            raise _refusal(REFERENCE, unlisted)

    def _customer(self, row: CustomerRow) -> Customer:
        """The parts of a Customer's object that its row has. Lists that can't be read allow nothing."""
        known = self._customers.get(row.name)
        if known is not None and known[0] == row:
            return known[1]
        spec = {
            "maxPriority": row.limits.get("maxPriority"),
            "allowClusterScope": row.allow_cluster_scope,
            "serviceAccounts": list(row.service_accounts),
            "secrets": list(row.secrets),
        }
        metadata = {"name": row.name}
        try:
            lists = template_lists.from_record(row.template_lists)
            found = parse(Customer, {"metadata": metadata, "spec": {**spec, **lists}})
        except InvalidManifestError:
            found = parse(Customer, {"metadata": metadata, "spec": {}})
        if len(self._customers) >= MAX_CACHED_SPECS:
            self._customers.clear()
        self._customers[row.name] = (row, found)
        return found

    def _compile(self, spec: Any, *, wildcard: bool) -> CompiledSpec:
        if spec is None:
            raise InvalidManifestError("spec", None, "Required value")
        try:
            text = orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # lone surrogates, integers over 64 bits: the decoder lets none in
            raise InvalidManifestError("spec", None, "must be JSON in UTF-8 with integers of 64 bits at most") from None
        key = (hashlib.blake2b(text, digest_size=16).digest(), wildcard)
        known = self._compiled.get(key)
        if known is not None:
            self._compiled.move_to_end(key)
            return known
        parsed = parse_spec(spec)
        # Namespace, customer and labels don't affect the class; the leader compiles again with them.
        compiled = compile_workload(
            parsed, namespace="", customer="", labels={}, defaults=NamespaceDefaults(), wildcard=wildcard
        )
        found = CompiledSpec(
            size=len(text),
            customer=parsed.customer,
            type=parsed.type or "",
            replicas=parsed.replicas,
            priority=parsed.priority,
            suspend=parsed.suspend,
            class_id=compiled.class_id,
            queue_class=spec_class(parsed, compiled.requirements),
            terms=term_uses(parsed.affinity, parsed.topology),
            uses=template_lists.uses(parsed.template, Door.REST),
            violations=tuple(pod_security.check_template(parsed.template.manifest())),
        )
        self._compiled[key] = found
        self._cached_bytes += found.size
        while len(self._compiled) > MAX_CACHED_SPECS or self._cached_bytes > MAX_CACHED_BYTES:
            self._cached_bytes -= self._compiled.popitem(last=False)[1].size
        return found

    def _namespace(self, metadata: Metadata, customer: CustomerRow) -> str:
        """The manifest's namespace, or the only one the Customer lists; it must be listed by name."""
        listed = [name for name in customer.namespaces if name != EVERY_NAMESPACE]
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
    check_labels(metadata.labels)
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


def _refusal(kind: ProblemType, violations: Iterable[Violation]) -> Problem:
    found = list(violations)
    detail = "; ".join(f"{item.field}: {item.message}" for item in found[:3])
    if len(found) > 3:
        detail += f"; and {len(found) - 3} more"
    return Problem(kind, detail, [{"field": item.field, "message": item.message} for item in found])
