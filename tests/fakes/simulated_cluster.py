"""The state behind a fake cluster, moved by the test as users, administrators and the API server move a real one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import msgspec

from niyanta.cluster.api.objects import Node, Pod, PodStatus
from niyanta.cluster.state.usage import UsageIndex
from niyanta.cluster.state.worker_info import PoolInfo, by_age, pod_charge, pools_for, worker
from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.snapshot.deltas import (
    DeltaPublisher,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.types import Charge, WorkerInfo
from niyanta.resources.models.customer import Customer
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.store.rows import WorkloadRow
from tests.fakes import objects
from tests.fakes.faults import Faults

PodKey = tuple[str, str]
"""(namespace, name)"""

DELETED_AT = "2026-01-01T00:00:00Z"
GRACE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A Kubernetes Event that the scheduler recorded."""

    workload_id: str
    reason: str
    message: str
    warning: bool


class SimulatedCluster:
    """Objects, nodes, pods and accounts. `faults` scripts errors by the name of a method of `ClusterApi`."""

    def __init__(self, *, operator_namespace: str = "niyanta-system") -> None:
        self.work_queue: WorkQueue | None = None
        """Told of every change, as the manager tells it; None: changes go unnoticed."""
        self.faults = Faults()
        self.away = False
        """The API server doesn't answer."""
        self.lease_lost = False
        """Every write is refused, as a newer leader exists."""
        self.kind_gone = False
        """The CustomResourceDefinition of Workloads was deleted."""
        self.enabled_namespaces: dict[str, bool | None] = {}
        """Answers of `namespace_enabled`; True for all others."""
        self.gone_namespaces: set[str] = set()
        self.pool_list: list[EmptyPool] = []
        self.statuses: dict[str, list[WorkloadRow]] = {}
        """Rows passed to `write_status`, by id, in order."""
        self.events: list[RecordedEvent] = []
        self.objects: dict[str, dict[str, Any]] = {}
        """Workload objects by UID."""
        self.deleted_objects: list[str] = []
        """Names of Workload objects that the scheduler deleted."""
        self._operator_namespace = operator_namespace
        self._pools: tuple[PoolInfo, ...] = (PoolInfo("pool-a"),)
        self._nodes: dict[str, Node] = {}
        self._workers: dict[str, WorkerInfo] = {}
        self._pods: dict[PodKey, Pod] = {}
        self._customers: dict[str, Customer] = {}
        self._limit_ranges: dict[str, list[Mapping[str, Any]]] = {}
        self._usage = UsageIndex(self._charge_changed)
        self._deltas = DeltaPublisher(
            lambda: StateReplaced(tuple(self._workers.values()), tuple(self._usage.charges()))
        )

    # --- users -------------------------------------------------------------------------------------------------------

    def submit(self, name: str, **spec: Any) -> str:
        """A user creates a Workload object; returns its UID. Arguments as of `objects.workload`."""
        obj = objects.workload(name, **spec)
        uid = str(obj["metadata"]["uid"])
        self.objects[uid] = obj
        self._tell_object(obj)
        return uid

    def edit(self, uid: str, **spec: Any) -> None:
        """A user changes fields of a Workload's spec."""
        obj = self.objects[uid] = deepcopy(self.objects[uid])
        obj["spec"] |= spec
        obj["metadata"]["generation"] += 1
        self._tell_object(obj)

    def delete_object(self, uid: str) -> None:
        """A user deletes a Workload object; the garbage collector deletes the pods that it owns."""
        del self.objects[uid]
        if self.work_queue is not None:
            self.work_queue.put_gone(uid)
        for pod in list(self._pods.values()):
            if any(owner.uid == uid for owner in pod.metadata.owner_references):
                self.begin_deletion(pod, grace_seconds=GRACE_SECONDS)

    def set_customer(self, name: str, *namespaces: str, **spec: Any) -> None:
        """An administrator makes or replaces a Customer."""
        self._customers[name] = objects.customer(name, *namespaces, **spec)
        if self.work_queue is not None:
            self.work_queue.put_customers()

    def annotate_customer(self, name: str, annotations: Mapping[str, str]) -> None:
        """An administrator replaces the annotations of a Customer."""
        found = self._customers[name]
        metadata = found.metadata.model_copy(update={"annotations": dict(annotations)})
        self._customers[name] = found.model_copy(update={"metadata": metadata})
        if self.work_queue is not None:
            self.work_queue.put_customers()

    def delete_customer(self, name: str) -> None:
        """An administrator deletes a Customer."""
        del self._customers[name]
        if self.work_queue is not None:
            self.work_queue.put_customers()

    def set_default_request(self, namespace: str, **requests: str) -> None:
        """An administrator has a LimitRange give containers these default requests."""
        limits = [{"type": "Container", "defaultRequest": requests}]
        self._limit_ranges[namespace] = [{"metadata": {"name": "defaults"}, "spec": {"limits": limits}}]
        if self.work_queue is not None:
            self.work_queue.put_defaults({namespace})

    # --- nodes -------------------------------------------------------------------------------------------------------

    def add_node(self, name: str, **fields: Any) -> None:
        """A node joins, or changes. Arguments as of `objects.node`."""
        self.set_node(objects.node(name, **fields))

    def set_node(self, node: Node) -> None:
        """Store a node and report the change."""
        self._nodes[node.name] = node
        pools = pools_for(node, self._pools)
        info = worker(node, pools[0]) if pools else None
        if info is not None and self._workers.get(node.name) != info:
            self._workers[node.name] = info
            self._deltas.publish(WorkerUpserted(info))
        self._tell_node(node.name)

    def remove_node(self, name: str) -> None:
        """A node is deleted; its pods stay as they are."""
        del self._nodes[name]
        if self._workers.pop(name, None) is not None:
            self._deltas.publish(WorkerRemoved(name))
        self._tell_node(name)

    def set_pools(self, *pools: PoolInfo) -> None:
        """Replace the pools; at first there is one, pool-a, that selects every node."""
        self._pools = by_age(pools)
        for node in list(self._nodes.values()):
            self.set_node(node)

    # --- pods --------------------------------------------------------------------------------------------------------

    def live_pods(self, workload_id: str) -> list[Pod]:
        """The stored pods of a workload, in the order of their names."""
        found = (pod for pod in self._pods.values() if pod.workload_uid == workload_id)
        return sorted(found, key=lambda pod: pod.name)

    def pod_names(self) -> list[str]:
        """Names of all pods, sorted."""
        return sorted(pod.name for pod in self._pods.values())

    def pod_named(self, name: str) -> Pod | None:
        """The pod with this name in any namespace."""
        return next((pod for pod in self._pods.values() if pod.name == name), None)

    def charged(self, workload_id: str) -> list[str]:
        """Workers on which a workload is charged, by row or by pod; sorted."""
        charges = self._usage.charges()
        return sorted(charge.worker for charge in charges if charge.key.startswith(f"{workload_id}/"))

    def set_pod(self, pod: Pod) -> None:
        """Store a pod, or remove it if its deletion is complete, and report the change."""
        old, meta = self._pods.get(pod.key), pod.metadata
        gone = meta.deletion_timestamp is not None and not meta.finalizers and meta.deletion_grace_period_seconds == 0
        if gone:
            self._pods.pop(pod.key, None)
        else:
            self._pods[pod.key] = pod
        charge = None if gone else pod_charge(pod)
        if charge is not None:
            self._usage.pod(pod.uid, charge)
        elif old is not None:
            self._usage.pod_gone(old.uid, old.charge_key)
            self._tell_capacity()
        if self.work_queue is not None and pod.workload_uid:
            self.work_queue.put_workloads({pod.workload_uid})

    def begin_deletion(self, pod: Pod, *, grace_seconds: int) -> None:
        """The API server takes a deletion: with grace the kubelet has to end the pod first (`Kubelet.stop`)."""
        before = pod.metadata.deletion_grace_period_seconds
        if pod.terminal or not pod.spec.node_name:
            grace_seconds = 0
        grace = grace_seconds if before is None else min(before, grace_seconds)
        self.set_pod(changed_pod(pod, deletion_timestamp=DELETED_AT, deletion_grace_period_seconds=grace))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _find_object(self, namespace: str, name: str) -> dict[str, Any] | None:
        for obj in self.objects.values():
            if (obj["metadata"]["namespace"], obj["metadata"]["name"]) == (namespace, name):
                return obj
        return None

    def _charge_changed(self, key: str, charge: Charge | None) -> None:
        self._deltas.publish(PodReleased(key) if charge is None else PodCharged(charge))

    def _tell_object(self, obj: Mapping[str, Any]) -> None:
        if self.work_queue is not None:
            self.work_queue.put_object(deepcopy(obj))

    def _tell_capacity(self) -> None:
        if self.work_queue is not None:
            self.work_queue.put_capacity()

    def _tell_node(self, name: str) -> None:
        if self.work_queue is not None:
            self.work_queue.put_workloads(p.workload_uid for p in self._pods.values() if p.spec.node_name == name)
        self._tell_capacity()


def changed_pod(pod: Pod, *, status: PodStatus | None = None, **meta: Any) -> Pod:
    """A copy of a pod with another status, or with other fields of metadata."""
    metadata = msgspec.structs.replace(pod.metadata, **meta)
    return msgspec.structs.replace(pod, metadata=metadata, status=status or pod.status)
