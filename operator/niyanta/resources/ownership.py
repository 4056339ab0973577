"""Whose a workload is, and whose a node is: rules over several objects, which no schema can check.

A verdict is data: `Resolved`, or `Held` with a reason that ends up in the workload's status. Nothing is refused here,
because the Customer may come, or change, later.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from niyanta.engine.label_expressions import label_matches
from niyanta.engine.types import Scope
from niyanta.resources import labels
from niyanta.resources.models.affinity import LabelSelector
from niyanta.resources.models.customer import EVERY_NAMESPACE, Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.models.workload import WorkloadSpec


class HeldReason(enum.Enum):
    """Why a workload may not be queued for a customer."""

    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    UNKNOWN_CUSTOMER = "UnknownCustomer"
    AMBIGUOUS_CUSTOMER = "AmbiguousCustomer"
    NO_CUSTOMER = "NoCustomer"
    CLUSTER_SCOPE_NOT_ALLOWED = "ClusterScopeNotAllowed"


@dataclass(frozen=True, slots=True)
class Resolved:
    """The customer that a workload counts for."""

    customer: Customer


@dataclass(frozen=True, slots=True)
class Held:
    """It waits; `reason` and `message` go to its status."""

    reason: HeldReason
    message: str


class CustomerIndex:
    """Customers by namespace, for many look-ups between two changes of Customers."""

    def __init__(self, customers: Iterable[Customer], *, operator_namespace: str) -> None:
        self._operator_namespace = operator_namespace
        self._by_name: dict[str, Customer] = {}
        self._by_namespace: dict[str, list[Customer]] = {}
        for customer in sorted(customers, key=lambda c: c.metadata.name):
            self._by_name[customer.metadata.name] = customer
            for namespace in dict.fromkeys(customer.spec.namespaces):
                self._by_namespace.setdefault(namespace, []).append(customer)

    def resolve(self, namespace: str, named: str | None) -> Resolved | Held:
        """The customer of a workload in `namespace` that names `named` (None: none)."""
        if namespace.startswith("kube-") or namespace == self._operator_namespace:
            message = f"namespace {namespace} belongs to the cluster or the operator, no workload may run there"
            return Held(HeldReason.NAMESPACE_NOT_ALLOWED, message)
        if named:
            return self._explicit(namespace, named)
        for key in (namespace, EVERY_NAMESPACE):
            found = self._by_namespace.get(key, [])
            if len(found) == 1:
                return Resolved(found[0])
            if found:
                names = ", ".join(customer.metadata.name for customer in found)
                message = f"namespace {namespace} is open to several Customers ({names}): name one in spec.customer"
                return Held(HeldReason.AMBIGUOUS_CUSTOMER, message)
        return Held(HeldReason.NO_CUSTOMER, f"no Customer lists namespace {namespace}")

    def _explicit(self, namespace: str, named: str) -> Resolved | Held:
        customer = self._by_name.get(named)
        if customer is None:
            return Held(HeldReason.UNKNOWN_CUSTOMER, f"spec.customer: there is no Customer {named}")
        if not {namespace, EVERY_NAMESPACE}.intersection(customer.spec.namespaces):
            message = f"spec.customer: Customer {named} does not list namespace {namespace}"
            return Held(HeldReason.NAMESPACE_NOT_ALLOWED, message)
        return Resolved(customer)


def resolve_customer(
    namespace: str, named: str | None, customers: Mapping[str, Customer], *, operator_namespace: str
) -> Resolved | Held:
    """One look-up without an index of one's own; see CustomerIndex."""
    return CustomerIndex(customers.values(), operator_namespace=operator_namespace).resolve(namespace, named)


def check_scope(spec: WorkloadSpec, customer: Customer) -> Held | None:
    """Held if an anti term looks across the cluster and the customer may not do that."""
    if customer.spec.allow_cluster_scope:
        return None
    for index, term in enumerate(spec.affinity.anti if spec.affinity else ()):
        if term.scope is Scope.CLUSTER:
            message = (
                f"spec.affinity.anti[{index}].scope: Cluster needs allowClusterScope on Customer "
                f"{customer.metadata.name}"
            )
            return Held(HeldReason.CLUSTER_SCOPE_NOT_ALLOWED, message)
    return None


# --- Pools -----------------------------------------------------------------------------------------------------------


def selects(selector: LabelSelector, of: Mapping[str, str]) -> bool:
    """Does a label selector match the labels `of` an object. NotIn also matches where the key is missing."""
    if any(of.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(label_matches(of, e.key, e.operator, e.values) for e in selector.match_expressions)


def pool_of(node_labels: Mapping[str, str], pools: Iterable[WorkerPool]) -> tuple[WorkerPool | None, list[WorkerPool]]:
    """The pool that owns a node, and the others that select it too and show a condition.

    The oldest wins (creationTimestamp, then name).
    """
    found = sorted(
        (pool for pool in pools if selects(pool.spec.node_selector, node_labels)),
        key=lambda pool: (pool.metadata.creation_timestamp, pool.metadata.name),
    )
    return (found[0], found[1:]) if found else (None, [])


def pod_selector(pools: Sequence[str]) -> str:
    """Label selector text for the pods on pools of these names, as `status.selector` of a pool has it."""
    names = sorted(labels.label_value(name) for name in pools)
    return f"{labels.POOL}={names[0]}" if len(names) == 1 else f"{labels.POOL} in ({','.join(names)})"
