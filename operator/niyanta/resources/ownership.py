"""Ownership rules, which no schema can check: the Customer of a workload and the WorkerPool of a node.

The result for a workload is `Resolved`, or `Held` with a reason for its status. A workload is never rejected here,
because the Customer may be created or changed later.
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
    """Reason why a workload may not be queued for a customer."""

    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    UNKNOWN_CUSTOMER = "UnknownCustomer"
    AMBIGUOUS_CUSTOMER = "AmbiguousCustomer"
    NO_CUSTOMER = "NoCustomer"
    CLUSTER_SCOPE_NOT_ALLOWED = "ClusterScopeNotAllowed"


@dataclass(frozen=True, slots=True)
class Resolved:
    """The customer that a workload belongs to."""

    customer: Customer


@dataclass(frozen=True, slots=True)
class Held:
    """The workload is held; `reason` and `message` go to its status."""

    reason: HeldReason
    message: str


class CustomerIndex:
    """Customers by namespace, built once for each change of Customers."""

    def __init__(self, customers: Iterable[Customer], *, operator_namespace: str) -> None:
        self._operator_namespace = operator_namespace
        self._by_name: dict[str, Customer] = {}
        self._by_namespace: dict[str, list[Customer]] = {}
        for customer in sorted(customers, key=lambda c: c.metadata.name):
            self._by_name[customer.metadata.name] = customer
            for namespace in dict.fromkeys(customer.spec.namespaces):
                self._by_namespace.setdefault(namespace, []).append(customer)

    def resolve(self, namespace: str, named: str | None) -> Resolved | Held:
        """The customer of a workload in `namespace` whose spec names the customer `named`, if any."""
        if namespace.startswith("kube-") or namespace == self._operator_namespace:
            message = f"namespace {namespace} is reserved for the cluster or the operator; workloads may not run in it"
            return Held(HeldReason.NAMESPACE_NOT_ALLOWED, message)
        if named:
            return self._explicit(namespace, named)
        for key in (namespace, EVERY_NAMESPACE):
            found = self._by_namespace.get(key, [])
            if len(found) == 1:
                return Resolved(found[0])
            if found:
                names = ", ".join(customer.metadata.name for customer in found)
                message = (
                    f"namespace {namespace} is listed by several Customers ({names}); set spec.customer to one of them"
                )
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


def check_scope(spec: WorkloadSpec, customer: Customer) -> Held | None:
    """Held when an anti term has scope Cluster and the customer does not have allowClusterScope."""
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
    """True when a label selector matches the labels `of` an object. NotIn also matches a missing key."""
    if any(of.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(label_matches(of, e.key, e.operator, e.values) for e in selector.match_expressions)


def pool_of(node_labels: Mapping[str, str], pools: Iterable[WorkerPool]) -> tuple[WorkerPool | None, list[WorkerPool]]:
    """The pool that owns a node, and other pools that select it (they get a condition).

    The oldest pool owns the node (creationTimestamp, then name).
    """
    found = sorted(
        (pool for pool in pools if selects(pool.spec.node_selector, node_labels)),
        key=lambda pool: (pool.metadata.creation_timestamp, pool.metadata.name),
    )
    return (found[0], found[1:]) if found else (None, [])


def pod_selector(pools: Sequence[str]) -> str:
    """Label selector of the pods on these pools, as text for `status.selector` of a pool."""
    names = sorted(labels.label_value(name) for name in pools)
    return f"{labels.POOL}={names[0]}" if len(names) == 1 else f"{labels.POOL} in ({','.join(names)})"
