"""Ownership: the Customer of a workload and the WorkerPool of a node."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.resources.compile.requirements import parse_spec
from niyanta.resources.models.affinity import LabelSelector
from niyanta.resources.models.base import parse
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.ownership import (
    CustomerIndex,
    Held,
    HeldReason,
    Resolved,
    check_scope,
    pod_selector,
    pool_of,
    selects,
)

pytestmark = pytest.mark.unit


def customer(name: str, *namespaces: str, **spec: Any) -> Customer:
    return parse(Customer, {"metadata": {"name": name}, "spec": {"namespaces": list(namespaces), **spec}})


def resolve(namespace: str, named: str | None, customers: dict[str, Customer]) -> Resolved | Held:
    return CustomerIndex(customers.values(), operator_namespace="niyanta-system").resolve(namespace, named)


CUSTOMERS = {
    c.metadata.name: c
    for c in (
        customer("acme", "acme", "shared"),
        customer("globex", "globex", "shared"),
        customer("default", "*"),
        customer("unlisted"),
    )
}


@pytest.mark.parametrize(
    ("namespace", "named", "expected"),
    [
        ("acme", None, "acme"),
        ("acme", "acme", "acme"),
        ("acme", "default", "default"),
        ("acme", "globex", HeldReason.NAMESPACE_NOT_ALLOWED),
        ("acme", "unlisted", HeldReason.NAMESPACE_NOT_ALLOWED),
        ("acme", "ghost", HeldReason.UNKNOWN_CUSTOMER),
        ("shared", None, HeldReason.AMBIGUOUS_CUSTOMER),
        ("shared", "globex", "globex"),
        ("elsewhere", None, "default"),
        ("kube-system", None, HeldReason.NAMESPACE_NOT_ALLOWED),
        ("kube-system", "default", HeldReason.NAMESPACE_NOT_ALLOWED),
        ("niyanta-system", None, HeldReason.NAMESPACE_NOT_ALLOWED),
        ("niyanta-system", "default", HeldReason.NAMESPACE_NOT_ALLOWED),
    ],
)
def test_the_customer_of_a_namespace(namespace: str, named: str | None, expected: str | HeldReason) -> None:
    found = resolve(namespace, named, CUSTOMERS)
    if isinstance(found, Resolved):
        assert found.customer.metadata.name == expected
    else:
        assert found.reason is expected


def test_messages_name_the_fix() -> None:
    found = resolve("shared", None, CUSTOMERS)
    assert isinstance(found, Held)
    assert "(acme, globex); set spec.customer to one of them" in found.message
    unlisted = resolve("elsewhere", None, {})
    assert unlisted == Held(HeldReason.NO_CUSTOMER, "no Customer lists namespace elsewhere")


def test_two_wildcards_are_ambiguous() -> None:
    found = resolve("x", None, {n: customer(n, "*") for n in "ab"})
    assert isinstance(found, Held)
    assert found.reason is HeldReason.AMBIGUOUS_CUSTOMER


def test_cluster_scope_must_be_allowed() -> None:
    terms = [{"types": ["a"]}, {"types": ["a"], "scope": "Cluster"}]
    template = {"spec": {"containers": [{"name": "a", "image": "i"}]}}
    spec = parse_spec({"affinity": {"anti": terms}, "template": template})
    refused = check_scope(spec, CUSTOMERS["acme"])
    assert refused is not None
    assert refused.reason is HeldReason.CLUSTER_SCOPE_NOT_ALLOWED
    assert "spec.affinity.anti[1].scope" in refused.message
    assert check_scope(spec, customer("vip", allowClusterScope=True)) is None
    assert check_scope(parse_spec({"template": template}), CUSTOMERS["acme"]) is None


def pool(name: str, created: str, **labels: str) -> WorkerPool:
    metadata = {"name": name, "creationTimestamp": created}
    return parse(WorkerPool, {"metadata": metadata, "spec": {"nodeSelector": {"matchLabels": labels}}})


def test_the_oldest_pool_wins_a_node_and_the_others_are_named() -> None:
    young = pool("a", "2026-01-02T00:00:00Z", gpu="yes")
    old = pool("z", "2026-01-01T00:00:00Z", gpu="yes")
    twin = pool("b", "2026-01-01T00:00:00Z", gpu="yes")
    other = pool("c", "2025-01-01T00:00:00Z", gpu="no")
    winner, losers = pool_of({"gpu": "yes"}, [young, old, twin, other])
    assert winner is twin
    assert losers == [old, young]
    assert pool_of({}, [young, other]) == (None, [])


@pytest.mark.parametrize(
    ("operator", "values", "labels", "matches"),
    [
        ("In", ["a"], {"k": "a"}, True),
        ("In", ["a"], {}, False),
        ("NotIn", ["a"], {"k": "a"}, False),
        ("NotIn", ["a"], {}, True),
        ("Exists", [], {"k": ""}, True),
        ("Exists", [], {}, False),
        ("DoesNotExist", [], {}, True),
        ("DoesNotExist", [], {"k": ""}, False),
    ],
)
def test_label_selectors(operator: str, values: list[str], labels: dict[str, str], matches: bool) -> None:
    expression = {"key": "k", "operator": operator, "values": values}
    assert selects(parse(LabelSelector, {"matchExpressions": [expression]}), labels) is matches


def test_the_selector_text_of_a_pools_pods() -> None:
    assert pod_selector(["gpu"]) == "niyanta.io/pool=gpu"
    assert pod_selector(["b", "a"]) == "niyanta.io/pool in (a,b)"
