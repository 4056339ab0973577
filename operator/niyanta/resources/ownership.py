"""Ownership rules, which no schema can check: the Customer of a workload and the WorkerPool of a node.

The result for a workload is `Resolved`, or `Held` with a reason for its status. A workload is never rejected here,
because the Customer may be created or changed later.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from niyanta.engine.label_expressions import label_matches
from niyanta.engine.types import HOSTNAME_TOPOLOGY, REGION_TOPOLOGY, ZONE_TOPOLOGY, Scope
from niyanta.resources import labels
from niyanta.resources.models.affinity import Affinity, LabelSelector
from niyanta.resources.models.customer import EVERY_NAMESPACE, Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.models.workload import TopologyRequest


class HeldReason(enum.Enum):
    """Reason why a workload may not be queued for a customer."""

    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    UNKNOWN_CUSTOMER = "UnknownCustomer"
    AMBIGUOUS_CUSTOMER = "AmbiguousCustomer"
    NO_CUSTOMER = "NoCustomer"
    CLUSTER_SCOPE_NOT_ALLOWED = "ClusterScopeNotAllowed"
    TOPOLOGY_KEY_NOT_ALLOWED = "TopologyKeyNotAllowed"
    TEMPLATE_NOT_ALLOWED = "TemplateNotAllowed"
    PRIORITY_ABOVE_MAXIMUM = "PriorityAboveMaximum"
    NAMESPACE_NOT_ENABLED = "NamespaceNotEnabled"


@dataclass(frozen=True, slots=True)
class Resolved:
    """The customer that a workload belongs to.

    `wildcard`: the Customer lists "*". Its namespaces may belong to different tenants, so scope Customer means
    Namespace for its workloads.
    """

    customer: Customer
    wildcard: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """The workload is held; `reason` and `message` go to its status. `field`: path of the field, if it is one.

    Messages name no Customer but the workload's own, and no other namespace: tenants read them.
    """

    reason: HeldReason
    message: str
    field: str = ""


class CustomerIndex:
    """Customers by namespace, built once for each change of Customers."""

    def __init__(self, customers: Iterable[Customer], *, operator_namespace: str) -> None:
        self._operator_namespace = operator_namespace
        self._by_namespace: dict[str, list[Customer]] = {}
        for customer in sorted(customers, key=lambda c: c.metadata.name):
            for namespace in dict.fromkeys(customer.spec.namespaces):
                self._by_namespace.setdefault(namespace, []).append(customer)

    def resolve(self, namespace: str, named: str | None) -> Resolved | Held:
        """The customer of a workload in `namespace` whose spec names the customer `named`, if any.

        A namespace that Customers list by name uses only these; "*" is for all others.
        """
        if namespace.startswith("kube-") or namespace == self._operator_namespace:
            message = f"namespace {namespace} is reserved for the cluster or the operator; workloads may not run in it"
            return Held(HeldReason.NAMESPACE_NOT_ALLOWED, message)
        found = self._by_namespace.get(namespace) or self._by_namespace.get(EVERY_NAMESPACE, [])
        if named:
            found = [customer for customer in found if customer.metadata.name == named]
        if len(found) == 1:
            return Resolved(found[0], wildcard=EVERY_NAMESPACE in found[0].spec.namespaces)
        if found:
            return _ambiguous(namespace)
        return _unknown(namespace, named) if named else _no_customer(namespace)


def _ambiguous(namespace: str) -> Held:
    message = (
        f"spec.customer: namespace {namespace} may be used by several Customers; set spec.customer to yours. An "
        "administrator finds its name with: kubectl get customers.niyanta.io "
        "-o custom-columns=NAME:.metadata.name,NAMESPACES:.spec.namespaces"
    )
    return Held(HeldReason.AMBIGUOUS_CUSTOMER, message, "spec.customer")


def _unknown(namespace: str, named: str) -> Held:
    """One message for a Customer that does not exist and one of other namespaces, so that it tells nothing of others'
    Customers."""
    message = (
        f"spec.customer: there is no Customer {named} for namespace {namespace}; leave spec.customer out, or have an "
        f"administrator add {namespace} to spec.namespaces: kubectl edit customers.niyanta.io {named}"
    )
    return Held(HeldReason.UNKNOWN_CUSTOMER, message, "spec.customer")


def _no_customer(namespace: str) -> Held:
    manifest = (
        f'{{"apiVersion": "{labels.API_VERSION}", "kind": "Customer", "metadata": {{"name": "{namespace}"}}, '
        f'"spec": {{"namespaces": ["{namespace}"]}}}}'
    )
    message = (
        f"no Customer lists namespace {namespace}; an administrator makes one with: "
        f"echo '{manifest}' | kubectl create -f -"
    )
    return Held(HeldReason.NO_CUSTOMER, message)


TOPOLOGY_KEYS = frozenset({HOSTNAME_TOPOLOGY, ZONE_TOPOLOGY, REGION_TOPOLOGY})
"""Topology keys that every Customer may use."""


@dataclass(frozen=True, slots=True)
class TermUse:
    """Scope and topology key of an anti or near term, or of spec.topology; `path` is the term's."""

    path: str
    scope: Scope
    topology_key: str
    key_field: str = "topologyKey"


def term_uses(affinity: Affinity | None, topology: TopologyRequest | None = None) -> tuple[TermUse, ...]:
    """The anti and near terms of a workload, and its topology."""
    own = (TermUse("spec.topology", Scope.NAMESPACE, topology.key, "key"),) if topology else ()
    if affinity is None:
        return own
    near = affinity.hard.near if affinity.hard else ()
    return (
        *(
            TermUse(f"spec.affinity.anti[{index}]", term.scope, term.topology_key)
            for index, term in enumerate(affinity.anti)
        ),
        *(
            TermUse(f"spec.affinity.hard.near[{index}]", Scope.NAMESPACE, term.topology_key)
            for index, term in enumerate(near)
        ),
        *own,
    )


def check_terms(terms: Iterable[TermUse], customer: Customer, *, topology_keys: Collection[str] = ()) -> Held | None:
    """Held when a term uses a scope or a topology key that the customer may not use.

    `topology_keys`: keys that every Customer may use besides TOPOLOGY_KEYS. A key with few values, such as the
    operating system's, would let one anti term keep others off the whole cluster.
    """
    for term in terms:
        if term.scope is Scope.CLUSTER and not customer.spec.allow_cluster_scope:
            return _cluster_scope(f"{term.path}.scope", customer)
        key = term.topology_key
        if key not in TOPOLOGY_KEYS and key not in topology_keys and key not in customer.spec.topology_keys:
            return _topology_key(f"{term.path}.{term.key_field}", key, customer)
    return None


def _cluster_scope(field: str, customer: Customer) -> Held:
    name = customer.metadata.name
    message = (
        f"{field}: Cluster needs allowClusterScope on Customer {name}; an administrator sets it with: kubectl patch "
        f'customers.niyanta.io {name} --type=merge -p \'{{"spec": {{"allowClusterScope": true}}}}\''
    )
    return Held(HeldReason.CLUSTER_SCOPE_NOT_ALLOWED, message, field)


def _topology_key(field: str, key: str, customer: Customer) -> Held:
    message = (
        f"{field}: Customer {customer.metadata.name} may not use {key}; an administrator adds it to "
        f"spec.topologyKeys: kubectl edit customers.niyanta.io {customer.metadata.name}"
    )
    return Held(HeldReason.TOPOLOGY_KEY_NOT_ALLOWED, message, field)


def check_priority(priority: int, customer: Customer) -> Held | None:
    """Held when `priority` is above the customer's maxPriority."""
    most, name = customer.spec.max_priority, customer.metadata.name
    if most is None or priority <= most:
        return None
    message = (
        f"spec.priority: {priority} is above maxPriority {most} of Customer {name}; lower it, or have an administrator "
        f"raise the limit: kubectl edit customers.niyanta.io {name}"
    )
    return Held(HeldReason.PRIORITY_ABOVE_MAXIMUM, message, "spec.priority")


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
