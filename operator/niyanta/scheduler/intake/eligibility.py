"""Eligibility of a workload, checked before it is placed and again before its pods are created.

`reviews` checks it when Customers or namespaces change, `placing.cycle` before a placement is committed, and
`pods.pod_creator` before a committed placement is dispatched. Customers and namespaces are believed from the API
server's watch, and a workload of the Kubernetes door only as its watched object describes it; rows in Postgres, which
others may write, are not.
"""

from __future__ import annotations

from dataclasses import replace

from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.lifecycle import Door, Event
from niyanta.resources.ownership import Held, HeldReason
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.faults.parked import parked_message
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.object_to_row import Eligibility
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload, spec_digest
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.reasons import RowReason
from niyanta.settings import Settings
from niyanta.store.rows import WorkloadRow


class EligibilityCheck:
    """Checks workloads against the watched Customers, namespaces and objects."""

    def __init__(self, cluster: ClusterReads, settings: Settings) -> None:
        self._cluster = cluster
        self._settings = settings

    def of(self, tracked: TrackedWorkload) -> Eligibility:
        """The customer of a workload, and the reason for which it may not be queued, if there is one."""
        row = tracked.row
        if tracked.parked:
            return _held(row, RowReason.INTERNAL_ERROR.value, tracked.parked)
        if tracked.unloaded:
            message = (
                f"the waiting workloads of its customer in namespace {row.namespace} use up the operator's memory for "
                "them; it is queued when others have been placed or have ended"
            )
            return _held(row, RowReason.CUSTOMER_BUDGET_EXCEEDED.value, message)
        if differs := mismatch(tracked):
            return _held(row, RowReason.OBJECT_MISMATCH.value, differs)
        found = self._rules(tracked)
        if not found.held and row.door is Door.REST and found.customer != row.customer:
            message = f"the submission is for Customer {row.customer}, which its spec doesn't name"
            return _held(row, RowReason.OBJECT_MISMATCH.value, message)
        return found if found.held else self.in_namespace(found, row.namespace)

    def _rules(self, tracked: TrackedWorkload) -> Eligibility:
        """Ownership, the Customer's maximum priority and its lists. The result is kept until the spec, the priority or
        the Customer changes, because the check reads the whole template."""
        row, spec = tracked.row, tracked.spec
        if row.door is Door.REST and spec.customer is None:
            spec = spec.model_copy(update={"customer": row.customer})
        owner = self._cluster.resolve_customer(row.namespace, spec.customer)
        if isinstance(owner, Held):
            claimed = row.customer if row.door is Door.REST else ""
            return Eligibility(claimed, 1, owner.reason.value, owner.message)
        priority = max(row.priority, spec.priority)  # the queue goes by the row's
        known, checked = tracked.eligible, (tracked.packed, row.namespace, row.door, priority)
        if known is not None and known[0] is owner.customer and known[1] == checked:
            return known[2]
        full = tracked.full_spec().model_copy(update={"customer": spec.customer, "priority": priority})
        found = object_to_row.eligibility(row.namespace, full, self._cluster, self._settings, door=row.door)
        tracked.eligible = owner.customer, checked, found
        return found

    def in_namespace(self, eligible: Eligibility, namespace: str) -> Eligibility:
        """The same, or held because pods may not be created in the namespace."""
        enabled = self._cluster.namespace_enabled(namespace)
        if enabled:
            return eligible
        message = f"namespace {namespace} is not known to the operator"
        if enabled is not None:
            message = (
                f"namespace {namespace} is not enabled; an administrator enables it: "
                f"kubectl label namespace {namespace} niyanta.io/enabled=true"
            )
        return replace(eligible, reason=HeldReason.NAMESPACE_NOT_ENABLED.value, message=message)

    def refusal(self, tracked: TrackedWorkload, event: Event) -> LifecycleDecision | None:
        """`event` with the reason, if the workload may not be placed or dispatched now. An unexpected error is such a
        reason too."""
        try:
            found = self.of(tracked)
        except SharedFaultError:
            raise
        except Exception as error:
            record(Boundary.ROW, tracked.id, error)
            return LifecycleDecision(event, RowReason.INTERNAL_ERROR, parked_message(error))
        return LifecycleDecision(event, found.reason, found.message) if found.held else None

    def worker_refusal(self, tracked: TrackedWorkload, worker: str) -> LifecycleDecision | None:
        """Back to the queue with the reason, if a pod of the workload may not be created on `worker` now. Pods are
        bound by name, past taints and selectors, so the worker is believed from the watched nodes and pools alone."""
        refused = self.refusal(tracked, Event.REQUEUE)
        if refused is not None:
            return refused
        info, customer = self._cluster.worker(worker), self.of(tracked).customer
        if info is None:
            message = f"node {worker} is no worker of a pool"
        elif info.customers is not None and customer not in info.customers:
            message = f"pool {info.pool} of worker {worker} is not for Customer {customer}"
        else:
            return None
        return LifecycleDecision(Event.REQUEUE, RowReason.WORKER_CHANGED, message)


def mismatch(tracked: TrackedWorkload) -> str:
    """The first way in which the row of a workload of the Kubernetes door differs from its watched object; "" if they
    agree. The row may change at any time, so this is checked anew each time."""
    row, watched = tracked.row, tracked.watched
    if watched is None:
        return "" if row.door is Door.REST else "its Workload object was not read, or cannot be placed as it is"
    if row.door is not Door.KUBERNETES:
        return "its row in Postgres is not of the Kubernetes door"
    pairs = (
        ("uid", row.id, watched.uid),
        ("namespace", row.namespace, watched.namespace),
        ("name", row.name, watched.name),
        ("generation", row.generation, watched.generation),
        ("replicas", row.replicas, watched.replicas),
        ("priority", row.priority, watched.priority),
        ("spec", spec_digest(tracked.packed), watched.spec_digest),
    )
    for name, stored, seen in pairs:
        if stored != seen:
            return f"its row in Postgres does not agree with the Workload object: {name}"
    return ""


def _held(row: WorkloadRow, reason: str, message: str) -> Eligibility:
    return Eligibility(row.customer, row.tier_weight, reason, message)
