"""Conversion of a Workload object to a row: its customer, its first phase, and errors in its spec."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from niyanta.engine.types import Scope
from niyanta.lifecycle import Door, Phase
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.compile.requirements import parse_spec
from niyanta.resources.models.customer import Customer
from niyanta.resources.ownership import CustomerIndex, Held, Resolved
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.intake import object_to_row
from niyanta.settings import Settings
from niyanta.store.rows import WorkloadRow

pytestmark = pytest.mark.unit

SETTINGS = Settings(dsn="postgresql://nobody@localhost/none")


@dataclass
class ConversionReads:
    """The cluster reads that the conversion needs."""

    customers: list[Customer] = field(default_factory=list)
    defaults: NamespaceDefaults = field(default_factory=lambda: NamespaceDefaults.from_limit_ranges([], {}))

    def resolve_customer(self, namespace: str, named: str | None) -> Resolved | Held:
        return CustomerIndex(self.customers, operator_namespace="niyanta-system").resolve(namespace, named)

    def namespace_defaults(self, _: str) -> NamespaceDefaults:
        return self.defaults


def customer(name: str, *namespaces: str, **spec: Any) -> Customer:
    body = {"tier": "Premium", "namespaces": list(namespaces), **spec}
    return Customer.model_validate(
        {"apiVersion": "niyanta.io/v1alpha1", "kind": "Customer", "metadata": {"name": name}, "spec": body}
    )


def workload(**spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "i", "resources": {"requests": {"cpu": "1"}}}
    return {
        "metadata": {"name": "w", "namespace": "team", "uid": "7c5e4c7e-0000-4000-8000-000000000001", "generation": 2},
        "spec": {"template": {"spec": {"containers": [container]}}, **spec},
    }


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def read(obj: dict[str, Any], *customers: Customer) -> object_to_row.CompiledObject:
    return object_to_row.read_object(obj, cast(ClusterApi, ConversionReads(list(customers))), SETTINGS)


def test_a_plain_object_is_pending_for_its_namespaces_customer() -> None:
    entry = read(workload(priority=30), customer("acme", "team"))
    row = entry.intake
    assert (row.phase, row.customer, row.tier_weight, row.priority, row.generation) == (
        Phase.PENDING,
        "acme",
        50,
        30,
        2,
    )
    assert row.class_id
    assert entry.requirements is not None
    assert entry.subject.customer == "acme"


@pytest.mark.parametrize(
    ("named", "customers", "reason"),
    [
        (None, [], "NoCustomer"),
        ("acme", [], "UnknownCustomer"),
        ("acme", [customer("acme", "other")], "UnknownCustomer"),
        ("acme", [customer("acme", "*"), customer("b", "team")], "UnknownCustomer"),
        (None, [customer("a", "team"), customer("b", "team")], "AmbiguousCustomer"),
    ],
)
def test_what_the_customer_does_not_allow_is_held(named: str | None, customers: list[Customer], reason: str) -> None:
    row = read(workload(**({"customer": named} if named else {})), *customers).intake
    assert (row.phase, row.reason) == (Phase.HELD, reason)
    assert row.message


def test_a_customer_that_is_only_claimed_is_charged_with_nothing() -> None:
    """Otherwise a tenant could fill the queue of another one, whose name it puts into its own Workloads."""
    row = read(workload(customer="acme"), customer("acme", "elsewhere"), customer("mine", "team")).intake
    assert (row.phase, row.customer) == (Phase.HELD, "")


@pytest.mark.parametrize(("most", "phase"), [(None, Phase.PENDING), (30, Phase.PENDING), (29, Phase.HELD)])
def test_a_priority_above_the_customers_maximum_is_held(most: int | None, phase: Phase) -> None:
    limit = {} if most is None else {"maxPriority": most}
    row = read(workload(priority=30), customer("acme", "team", **limit)).intake
    assert (row.phase, row.reason) == (phase, "PriorityAboveMaximum" if phase is Phase.HELD else "")


def test_cluster_scope_needs_permission() -> None:
    affinity = {"anti": [{"types": ["x"], "scope": "Cluster"}]}
    assert read(workload(affinity=affinity), customer("acme", "team")).intake.reason == "ClusterScopeNotAllowed"
    allowed = customer("acme", "team", allowClusterScope=True)
    assert read(workload(affinity=affinity), allowed).intake.phase is Phase.PENDING


@pytest.mark.parametrize("customers", [[], [customer("acme", "team")]])
def test_suspended_comes_before_held(customers: list[Customer]) -> None:
    assert read(workload(suspend=True), *customers).intake.phase is Phase.SUSPENDED


def test_what_can_never_work_fails_with_the_fields_name() -> None:
    broken = workload()
    broken["spec"]["template"]["spec"]["nodeName"] = "here"
    entry = read(broken, customer("acme", "team"))
    assert (entry.intake.phase, entry.intake.reason) == (Phase.FAILED, "InvalidSpec")
    assert "nodeName" in entry.intake.message
    assert entry.requirements is None


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"replicas": "many"}, "spec.replicas"),
        ({"customer": "x" * 70_000, "replicas": 1}, "spec.customer"),
        ({"customer": "\0"}, "spec.customer"),
        ({"junk": nested(70)}, "spec.junk[0]"),
        ({"junk": nested(5000)}, "spec.junk[0]"),
        ({"junk": 2**64}, "spec.junk: integers need 64 bits at most"),
        ({"junk": -(2**63) - 1}, "spec.junk"),
    ],
)
def test_an_unreadable_spec_fails_and_nothing_of_it_is_stored(spec: dict[str, Any], named: str) -> None:
    entry = read(workload(**spec), customer("acme", "team"))
    assert (entry.spec, entry.requirements) == (None, None)
    row = entry.intake
    assert (row.phase, row.reason) == (Phase.FAILED, "InvalidSpec")
    assert named in row.message
    assert len(row.message) < 1000
    assert (row.spec, row.customer, row.type) == ({}, "", "")


def test_too_many_labels_are_refused_and_not_stored() -> None:
    obj = workload()
    obj["metadata"]["labels"] = {f"k{number}": "v" for number in range(129)}
    row = read(obj, customer("acme", "team")).intake
    assert (row.phase, row.labels, row.spec) == (Phase.FAILED, {}, {})
    assert row.message == "metadata.labels: Too many: must have at most 128 items"
    obj["metadata"]["labels"].popitem()
    assert len(read(obj, customer("acme", "team")).intake.labels) == 128


def test_deep_metadata_that_is_not_read_does_no_harm() -> None:
    obj = workload()
    obj["metadata"]["managedFields"] = nested(1000)
    obj["status"] = {"junk": nested(1000)}
    assert read(obj, customer("acme", "team")).intake.phase is Phase.PENDING


def test_the_customers_lists_bind_templates() -> None:
    tolerant = workload()
    tolerant["spec"]["template"]["spec"]["tolerations"] = [{"key": "gpu", "operator": "Exists"}]
    row = read(tolerant, customer("acme", "team")).intake
    assert (row.phase, row.reason, row.customer) == (Phase.HELD, "TemplateNotAllowed", "acme")
    assert row.message.startswith("spec.template.spec.tolerations[0]: toleration gpu is not listed by the Customer")
    allowed = customer("acme", "team", tolerations=[{"key": "gpu", "operator": "Exists"}])
    assert read(tolerant, allowed).intake.phase is Phase.PENDING


def test_topology_keys_come_from_the_customer_or_the_settings() -> None:
    affinity = {"anti": [{"types": ["x"], "topologyKey": "kubernetes.io/os"}]}
    row = read(workload(affinity=affinity), customer("acme", "team")).intake
    assert (row.phase, row.reason) == (Phase.HELD, "TopologyKeyNotAllowed")
    allowed = customer("acme", "team", topologyKeys=["kubernetes.io/os"])
    assert read(workload(affinity=affinity), allowed).intake.phase is Phase.PENDING
    reads = cast(ClusterApi, ConversionReads([customer("acme", "team")]))
    settings = SETTINGS.model_copy(update={"topology_keys": "a/b, kubernetes.io/os"})
    assert object_to_row.read_object(workload(affinity=affinity), reads, settings).intake.phase is Phase.PENDING


@pytest.mark.parametrize(("listed", "scope"), [("*", Scope.NAMESPACE), ("team", Scope.CUSTOMER)])
def test_scope_customer_of_a_wildcard_customer_means_namespace(listed: str, scope: Scope) -> None:
    obj = workload(affinity={"anti": [{"workloadSelector": {}, "scope": "Customer"}]})
    world = cast(ClusterApi, ConversionReads([customer("acme", listed)]))
    entry = object_to_row.read_object(obj, world, SETTINGS)
    assert entry.requirements is not None
    assert [term.scope for term in entry.requirements.anti] == [scope]
    assert entry.subject.customer == "acme"
    row = a_row(spec=dict(entry.intake.spec))
    assert object_to_row.read_row(row, world)[1] == entry.requirements


SAFE = {
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


def held_by_rest(
    owner: Customer,
    namespace: str = "team",
    *,
    safe: bool = True,
    annotations: dict[str, str] | None = None,
    **pod: Any,
) -> str:
    """Reason why a row of the REST door is held; "" if it is not."""
    raw = workload()["spec"]
    raw["template"]["metadata"] = {"annotations": annotations or {}}
    raw["template"]["spec"].update(pod)
    if safe:
        raw["template"]["spec"]["containers"][0]["securityContext"] = SAFE
    world = cast(ClusterApi, ConversionReads([owner]))
    found = object_to_row.eligibility(namespace, parse_spec(raw), world, SETTINGS, door=Door.REST)
    assert found.held == bool(found.message)
    return found.reason


def test_rows_of_the_rest_door_are_checked_as_the_door_does() -> None:
    acme = customer("acme", "team", configMaps=["settings"])
    volume = {"name": "v", "configMap": {"name": "settings"}}
    assert held_by_rest(acme) == ""
    assert held_by_rest(acme, volumes=[volume]) == ""
    assert held_by_rest(customer("acme", "team"), volumes=[volume]) == "TemplateNotAllowed"
    assert held_by_rest(acme, safe=False) == "TemplateNotAllowed"
    assert held_by_rest(acme, annotations={"example.com/team": "a"}) == ""
    assert held_by_rest(acme, annotations={"iam.amazonaws.com/role": "admin"}) == "TemplateNotAllowed"
    assert held_by_rest(acme, volumes=[{"name": "v", "hostPath": {"path": "/"}}]) == "TemplateNotAllowed"
    assert held_by_rest(acme, serviceAccountName="admin") == "TemplateNotAllowed"
    assert held_by_rest(acme, namespace="kube-system") == "NamespaceNotAllowed"
    assert held_by_rest(acme, namespace="other") == "NoCustomer"
    assert held_by_rest(customer("acme", "*")) == "NamespaceNotAllowed"


def a_row(**fields: Any) -> WorkloadRow:
    entry = read(workload(), customer("acme", "team")).intake
    values: dict[str, Any] = {
        "id": entry.id, "door": "kubernetes", "namespace": "team", "name": "w", "customer": "acme", "type": "",
        "labels": {}, "generation": 2, "spec": dict(entry.spec), "class_id": entry.class_id, "replicas": 1,
        "phase": Phase.RUNNING, "version": 3, "priority": 10, "tier_weight": 50, "queued_at_us": 1, "attempt": 1,
        "workers": ("a",), "reason": "Started",
    }  # fmt: skip
    return WorkloadRow(**{**values, **fields})


def test_a_stored_row_compiles_to_the_same_as_its_object() -> None:
    world = cast(ClusterApi, ConversionReads([customer("acme", "team")]))
    entry = object_to_row.read_object(workload(), world, SETTINGS)
    spec, requirements, subject = object_to_row.read_row(a_row(), world)
    assert (spec, requirements, subject) == (entry.spec, entry.requirements, entry.subject)


SHOWN = {
    "phase": "Running",
    "observedGeneration": 2,
    "attempts": 1,
    "assignments": [{"index": 0, "nodeName": "a"}],
    "reason": "Started",
}


def test_a_status_that_shows_the_row_is_not_behind() -> None:
    assert not object_to_row.status_behind(a_row(), SHOWN)


@pytest.mark.parametrize(
    "change", [{"phase": "Scheduled"}, {"observedGeneration": 1}, {"attempts": 0}, {"assignments": []}, {"reason": "x"}]
)
def test_a_status_that_shows_something_else_is_behind(change: dict[str, Any]) -> None:
    assert object_to_row.status_behind(a_row(), {**copy.deepcopy(SHOWN), **change})
    assert object_to_row.status_behind(a_row(), None)


def test_the_stub_of_an_object_out_of_bounds_fails_with_its_violation() -> None:
    stub = workload() | {"spec": {}, "niyantaViolation": "at most 64 levels of lists and objects are allowed"}
    reads = cast(ClusterApi, ConversionReads([customer("acme", "team")]))
    intake = object_to_row.read_object(stub, reads, SETTINGS).intake
    assert (intake.phase, intake.reason, intake.spec) == (Phase.FAILED, "InvalidSpec", {})
    assert intake.message == "spec: at most 64 levels of lists and objects are allowed"


def test_a_small_template_that_takes_much_memory_is_an_invalid_spec_that_is_not_stored() -> None:
    obj = workload()
    obj["spec"]["template"]["spec"]["dnsConfig"] = {"options": [[] for _ in range(5_000)]}
    intake = object_to_row.read_object(obj, cast("ClusterApi", ConversionReads()), SETTINGS).intake
    assert (intake.phase, intake.reason, intake.spec) == (Phase.FAILED, "InvalidSpec", {})
    assert intake.message.startswith("spec: at most 5000 values")
