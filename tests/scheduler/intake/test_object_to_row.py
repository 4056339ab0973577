"""Conversion of a Workload object to a row: its customer, its first phase, and errors in its spec."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from niyanta.lifecycle import Phase
from niyanta.resources.compile.pod_resources import NamespaceDefaults
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
        ("acme", [customer("acme", "other")], "NamespaceNotAllowed"),
        (None, [customer("a", "team"), customer("b", "team")], "AmbiguousCustomer"),
    ],
)
def test_what_the_customer_does_not_allow_is_held(named: str | None, customers: list[Customer], reason: str) -> None:
    row = read(workload(**({"customer": named} if named else {})), *customers).intake
    assert (row.phase, row.reason) == (Phase.HELD, reason)
    assert row.message


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


def test_an_unreadable_spec_fails_and_keeps_its_raw_form() -> None:
    entry = read(workload(replicas="many"), customer("acme", "team"))
    assert entry.spec is None
    assert entry.intake.phase is Phase.FAILED
    assert entry.intake.spec["replicas"] == "many"
    assert entry.intake.wake_in_seconds is None


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


SHOWN = {"phase": "Running", "observedGeneration": 2, "attempts": 1, "workers": ["a"], "reason": "Started"}


def test_a_status_that_shows_the_row_is_not_behind() -> None:
    assert not object_to_row.status_behind(a_row(), SHOWN)


@pytest.mark.parametrize(
    "change", [{"phase": "Scheduled"}, {"observedGeneration": 1}, {"attempts": 0}, {"workers": []}, {"reason": "x"}]
)
def test_a_status_that_shows_something_else_is_behind(change: dict[str, Any]) -> None:
    assert object_to_row.status_behind(a_row(), {**copy.deepcopy(SHOWN), **change})
    assert object_to_row.status_behind(a_row(), None)
