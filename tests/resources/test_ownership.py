"""Ownership: the Customer of a workload and the WorkerPool of a node."""

from __future__ import annotations

import json
from typing import Any

import pytest

from niyanta.resources.compile.requirements import parse_spec
from niyanta.resources.models.affinity import LabelSelector
from niyanta.resources.models.base import parse
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.models.workload import TopologyRequest
from niyanta.resources.ownership import (
    CustomerIndex,
    Held,
    HeldReason,
    Resolved,
    TermUse,
    check_terms,
    pod_selector,
    pool_of,
    selects,
    term_uses,
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
        customer("both", "both", "*"),
        customer("unlisted"),
    )
}
ONE_WILDCARD = {name: found for name, found in CUSTOMERS.items() if name != "both"}
NO_WILDCARD = {name: found for name, found in ONE_WILDCARD.items() if name != "default"}


@pytest.mark.parametrize(
    ("customers", "namespace", "named", "expected"),
    [
        # Listed by name: only Customers that list it by name, whatever spec.customer says.
        (CUSTOMERS, "acme", None, "acme"),
        (CUSTOMERS, "acme", "acme", "acme"),
        (CUSTOMERS, "acme", "default", HeldReason.UNKNOWN_CUSTOMER),
        (CUSTOMERS, "acme", "both", HeldReason.UNKNOWN_CUSTOMER),
        (CUSTOMERS, "acme", "globex", HeldReason.UNKNOWN_CUSTOMER),
        (CUSTOMERS, "acme", "unlisted", HeldReason.UNKNOWN_CUSTOMER),
        (CUSTOMERS, "acme", "ghost", HeldReason.UNKNOWN_CUSTOMER),
        (CUSTOMERS, "both", None, "both"),
        (CUSTOMERS, "both", "default", HeldReason.UNKNOWN_CUSTOMER),
        # Listed by several.
        (CUSTOMERS, "shared", None, HeldReason.AMBIGUOUS_CUSTOMER),
        (CUSTOMERS, "shared", "acme", "acme"),
        (CUSTOMERS, "shared", "globex", "globex"),
        (CUSTOMERS, "shared", "default", HeldReason.UNKNOWN_CUSTOMER),
        # Not listed by name: "*" is the fallback.
        (ONE_WILDCARD, "elsewhere", None, "default"),
        (ONE_WILDCARD, "elsewhere", "default", "default"),
        (ONE_WILDCARD, "elsewhere", "acme", HeldReason.UNKNOWN_CUSTOMER),
        (CUSTOMERS, "elsewhere", None, HeldReason.AMBIGUOUS_CUSTOMER),
        (CUSTOMERS, "elsewhere", "both", "both"),
        (NO_WILDCARD, "elsewhere", None, HeldReason.NO_CUSTOMER),
        (NO_WILDCARD, "elsewhere", "acme", HeldReason.UNKNOWN_CUSTOMER),
        (NO_WILDCARD, "elsewhere", "ghost", HeldReason.UNKNOWN_CUSTOMER),
        ({}, "elsewhere", None, HeldReason.NO_CUSTOMER),
        # Reserved.
        (CUSTOMERS, "kube-system", None, HeldReason.NAMESPACE_NOT_ALLOWED),
        (CUSTOMERS, "kube-system", "default", HeldReason.NAMESPACE_NOT_ALLOWED),
        (CUSTOMERS, "niyanta-system", None, HeldReason.NAMESPACE_NOT_ALLOWED),
        (CUSTOMERS, "niyanta-system", "default", HeldReason.NAMESPACE_NOT_ALLOWED),
    ],
)
def test_the_customer_of_a_namespace(
    customers: dict[str, Customer], namespace: str, named: str | None, expected: str | HeldReason
) -> None:
    found = resolve(namespace, named, customers)
    if isinstance(found, Resolved):
        assert found.customer.metadata.name == expected
    else:
        assert found.reason is expected
        others = customers.keys() - {named, namespace}
        assert not [name for name in others if name in found.message.replace("customers", "")], found.message


@pytest.mark.parametrize(
    ("namespace", "named", "wildcard"),
    [("acme", None, False), ("elsewhere", "default", True), ("elsewhere", "both", True), ("both", None, True)],
)
def test_a_customer_that_lists_every_namespace_is_a_wildcard(namespace: str, named: str | None, wildcard: bool) -> None:
    found = resolve(namespace, named, CUSTOMERS)
    assert isinstance(found, Resolved)
    assert found.wildcard is wildcard


def test_messages_have_the_command_to_type() -> None:
    ambiguous = resolve("shared", None, CUSTOMERS)
    unknown = resolve("acme", "ghost", CUSTOMERS)
    none = resolve("elsewhere", None, {})
    assert isinstance(ambiguous, Held)
    assert isinstance(unknown, Held)
    assert isinstance(none, Held)
    assert "set spec.customer to yours" in ambiguous.message
    assert "kubectl get customers.niyanta.io" in ambiguous.message
    assert "kubectl edit customers.niyanta.io ghost" in unknown.message
    _, _, rest = none.message.partition("echo '")
    manifest = json.loads(rest.partition("'")[0])
    assert parse(Customer, manifest).spec.namespaces == ["elsewhere"]
    assert none.message.endswith("' | kubectl create -f -")


def test_a_customer_of_others_and_none_at_all_get_the_same_message() -> None:
    messages = set()
    for named in ("globex", "ghost"):
        found = resolve("acme", named, CUSTOMERS)
        assert isinstance(found, Held)
        messages.add((found.reason, found.message.replace(named, "NAME")))
    assert len(messages) == 1


def terms(**affinity: Any) -> tuple[TermUse, ...]:
    template = {"spec": {"containers": [{"name": "a", "image": "i"}]}}
    return term_uses(parse_spec({"affinity": affinity, "template": template}).affinity)


def test_cluster_scope_must_be_allowed() -> None:
    used = terms(anti=[{"types": ["a"]}, {"types": ["a"], "scope": "Cluster"}])
    refused = check_terms(used, CUSTOMERS["acme"])
    assert refused is not None
    assert refused.reason is HeldReason.CLUSTER_SCOPE_NOT_ALLOWED
    assert refused.field == "spec.affinity.anti[1].scope"
    assert "kubectl patch customers.niyanta.io acme" in refused.message
    assert check_terms(used, customer("vip", allowClusterScope=True)) is None
    assert check_terms(term_uses(None), CUSTOMERS["acme"]) is None


OS = "kubernetes.io/os"


@pytest.mark.parametrize(
    ("affinity", "field"),
    [
        ({"anti": [{"types": ["a"]}, {"types": ["a"], "topologyKey": OS}]}, "spec.affinity.anti[1].topologyKey"),
        ({"hard": {"near": [{"types": ["a"], "topologyKey": OS}]}}, "spec.affinity.hard.near[0].topologyKey"),
    ],
)
def test_topology_keys_must_be_allowed(affinity: dict[str, Any], field: str) -> None:
    used = terms(**affinity)
    refused = check_terms(used, CUSTOMERS["acme"])
    assert refused is not None
    assert (refused.reason, refused.field) == (HeldReason.TOPOLOGY_KEY_NOT_ALLOWED, field)
    assert "kubectl edit customers.niyanta.io acme" in refused.message
    assert check_terms(used, customer("vip", topologyKeys=[OS])) is None
    assert check_terms(used, CUSTOMERS["acme"], topology_keys={OS}) is None


def test_the_key_of_a_topology_must_be_allowed() -> None:
    used = term_uses(None, TopologyRequest(key=OS))
    refused = check_terms(used, CUSTOMERS["acme"])
    assert refused is not None
    assert (refused.reason, refused.field) == (HeldReason.TOPOLOGY_KEY_NOT_ALLOWED, "spec.topology.key")
    assert check_terms(used, customer("vip", topologyKeys=[OS])) is None
    assert check_terms(term_uses(None, TopologyRequest(key="kubernetes.io/hostname")), CUSTOMERS["acme"]) is None


@pytest.mark.parametrize(
    "key", ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "topology.kubernetes.io/region"]
)
def test_workers_zones_and_regions_may_always_be_named(key: str) -> None:
    used = terms(anti=[{"types": ["a"], "topologyKey": key}], hard={"near": [{"types": ["a"], "topologyKey": key}]})
    assert check_terms(used, CUSTOMERS["acme"]) is None


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
