"""A cluster in memory for tests of the scheduler: everything that `ClusterApi` promises, as a real one answers it.

Accounts, charges and pod views are made by the operator's own code (`UsageIndex`, `pod_charge`, `pod_view`); the
API server, the kubelet and the users are simulated, and tests move them by calling the methods of `Kubelet` and
`FakeCluster`. Changes reach the scheduler through `work_queue`, at once.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import msgspec

from niyanta.cluster.api.errors import ApiError, NotSentError
from niyanta.cluster.api.objects import Node, Pod, PodStatus
from niyanta.cluster.kubernetes import OUT_OF_SERVICE, pod_view
from niyanta.cluster.state.usage import UsageIndex
from niyanta.cluster.state.worker_info import PoolInfo, by_age, pod_charge, pools_for, worker
from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.snapshot.deltas import (
    DeltaCursor,
    DeltaPublisher,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.types import Charge, Requirements, Subject, WorkerInfo
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.labels import ATTEMPT, INDEX, OUTCOME_FINALIZER, REST_ID
from niyanta.resources.models.customer import Customer
from niyanta.resources.ownership import CustomerIndex, Held, Resolved
from niyanta.scheduler.cluster_api import (
    ClusterAwayError,
    CustomerLimits,
    LeaseLostError,
    MissingObjectsError,
    NodeState,
    PodView,
    PodWriteError,
    WriteProblem,
)
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


class FakeCluster:
    """Implements `ClusterApi`. `faults` scripts errors by the name of the protocol's method."""

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
        self.pool_list: list[EmptyPool] = []
        self.statuses: dict[str, list[WorkloadRow]] = {}
        """Rows whose status was to be written, by id, in order."""
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

    # --- ClusterReads ------------------------------------------------------------------------------------------------

    def delta_cursor(self) -> DeltaCursor:
        return self._deltas.cursor()

    def empty_pools(self, remembered: Mapping[str, Mapping[str, Any]]) -> Sequence[EmptyPool]:
        return self.pool_list

    async def observe_empty_workers(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def pods(self, workload_id: str) -> list[PodView]:
        return [pod_view(pod) for pod in self.live_pods(workload_id)]

    def workload_ids_with_pods(self) -> Iterable[str]:
        return sorted({pod.workload_uid for pod in self._pods.values()} - {""})

    def node_state(self, node: str) -> NodeState:
        found = self._nodes.get(node)
        if found is None or any(taint.key == OUT_OF_SERVICE for taint in found.spec.taints):
            return NodeState.FENCED
        return NodeState.READY if found.ready else NodeState.NOT_READY

    def gpu_resource(self, worker: str) -> str | None:
        info = self._workers.get(worker)
        return info.gpu.resource if info is not None and info.gpu is not None else None

    def resolve_customer(self, namespace: str, named: str | None) -> Resolved | Held:
        index = CustomerIndex(self._customers.values(), operator_namespace=self._operator_namespace)
        return index.resolve(namespace, named)

    def namespace_defaults(self, namespace: str) -> NamespaceDefaults:
        return NamespaceDefaults.from_limit_ranges(self._limit_ranges.get(namespace, []), {})

    async def list_workloads(self) -> list[Mapping[str, Any]]:
        await self._read("list_workloads")
        return [deepcopy(obj) for obj in self.objects.values()]

    async def get_workload(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        await self._read("get_workload")
        found = self._find_object(namespace, name)
        if found is None and self.kind_gone:
            raise MissingObjectsError("the CustomResourceDefinition workloads.niyanta.io is gone")
        return deepcopy(found)

    def is_schedulable(self, node: str) -> bool:
        found = self._nodes.get(node)
        return found is not None and not found.spec.unschedulable

    def customer_limits(self, customer: str) -> CustomerLimits:
        found = self._customers.get(customer)
        if found is None:
            return CustomerLimits()
        return CustomerLimits(found.spec.max_queue_depth, found.spec.max_concurrent)

    def customer_tier(self, customer: str) -> str:
        found = self._customers.get(customer)
        return "unknown" if found is None else found.spec.tier.value

    def worker_states(self) -> Mapping[tuple[str, str], int]:
        return Counter(
            (worker.pool, "not_ready" if not worker.ready else "cordoned" if worker.cordoned else "ready")
            for worker in self._workers.values()
        )

    def worker_counts(self) -> tuple[int, int]:
        workers = self._workers.values()
        return len(workers), sum(1 for worker in workers if worker.ready and not worker.cordoned)

    # --- ClusterWrites -----------------------------------------------------------------------------------------------

    def claim(
        self, workload_id: str, attempt: int, workers: Sequence[str], requirements: Requirements, subject: Subject
    ) -> None:
        self._usage.claim(workload_id, attempt, workers=workers, requirements=requirements, subject=subject)

    def unclaim(self, workload_id: str, attempt: int) -> None:
        self._usage.unclaim(workload_id, attempt)
        self._tell_capacity()

    async def create_pod(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        fault = await self._create("create_pod")
        key = (namespace, manifest["metadata"]["name"])
        found = self._pods.get(key)
        if found is None:
            # The API server stores what it gets: later changes of the manifest are none of its business.
            pod = msgspec.convert(deepcopy(dict(manifest)), Pod)
            self.set_pod(_changed(pod, uid=str(uuid.uuid4()), status=PodStatus("Pending")))
        elif not _is_wanted(found, manifest):
            raise PodWriteError(WriteProblem.NAME_TAKEN, f"a pod named {key[1]} exists that isn't this workload's")
        self.faults.after(fault)

    async def delete_pod(self, pod: PodView, *, force: bool = False) -> None:
        fault = await self._write("delete_pod")
        found = self._same_pod(pod)
        if found is not None:
            self.begin_deletion(found, grace_seconds=0 if force else GRACE_SECONDS)
        self.faults.after(fault)

    async def release_pod(self, pod: PodView) -> None:
        fault = await self._write("release_pod")
        found = self._same_pod(pod)
        if found is not None:
            left = tuple(name for name in found.metadata.finalizers if name != OUTCOME_FINALIZER)
            self.set_pod(_changed(found, finalizers=left))
        self.faults.after(fault)

    async def create_workload(self, namespace: str, manifest: Mapping[str, Any]) -> str:
        fault = await self._create("create_workload")
        meta = manifest["metadata"]
        found = self._find_object(namespace, meta["name"])
        if found is None:
            found = deepcopy(dict(manifest))
            found["metadata"] |= {"uid": str(uuid.uuid4()), "generation": 1}
            self.objects[found["metadata"]["uid"]] = found
            self._tell_object(found)
        elif (found["metadata"].get("labels") or {}).get(REST_ID) != meta["labels"][REST_ID]:
            text = f"a Workload named {meta['name']} exists that isn't this submission's"
            raise PodWriteError(WriteProblem.NAME_TAKEN, text)
        self.faults.after(fault)
        return str(found["metadata"]["uid"])

    async def cordon(self, node: str) -> bool:
        fault = await self._write("cordon")
        if node not in self._nodes:
            return False
        self.set_node(msgspec.structs.replace(self._nodes[node], spec=_cordoned(self._nodes[node])))
        self.faults.after(fault)
        return True

    async def delete_workload(self, namespace: str, name: str, uid: str) -> None:
        await self._read("delete_workload")
        if self.lease_lost:
            raise LeaseLostError("a newer leader exists")
        found = self._find_object(namespace, name)
        if found is not None and found["metadata"]["uid"] == uid:
            self.deleted_objects.append(name)
            self.delete_object(uid)

    # --- ClusterReports ----------------------------------------------------------------------------------------------

    def write_status(self, row: WorkloadRow) -> None:
        self.statuses.setdefault(row.id, []).append(row)

    def record_event(self, row: WorkloadRow, *, reason: str, message: str, warning: bool) -> None:
        if row.object is not None:
            self.events.append(RecordedEvent(row.id, str(reason), message, warning))

    # --- users -------------------------------------------------------------------------------------------------------

    def submit(self, name: str, **spec: Any) -> str:
        """A user makes a Workload object; returns its UID. Arguments as of `objects.workload`."""
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
        """A Workload object goes, and the garbage collector deletes the pods that it owns."""
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
        """Store a node and tell of it."""
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
        """Workers whose capacity a workload takes, by row or by pod; sorted."""
        charges = self._usage.charges()
        return sorted(charge.worker for charge in charges if charge.key.startswith(f"{workload_id}/"))

    def set_pod(self, pod: Pod) -> None:
        """Store a pod, or remove it if its deletion is complete, and tell of it."""
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
        self.set_pod(_changed(pod, deletion_timestamp=DELETED_AT, deletion_grace_period_seconds=grace))

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _read(self, operation: str) -> None:
        await self.faults.before(operation)
        if self.away:
            raise ClusterAwayError("the API server does not answer")

    async def _create(self, operation: str) -> Any:
        fault = await self.faults.before(operation)
        if self.away:
            raise PodWriteError(WriteProblem.UNAVAILABLE, "the API server does not answer")
        if self.lease_lost:
            raise PodWriteError(WriteProblem.FENCED, "a newer leader exists")
        return fault

    async def _write(self, operation: str) -> Any:
        fault = await self.faults.before(operation)
        if self.away:
            error: ApiError = NotSentError("the API server does not answer")
            raise error
        if self.lease_lost:
            raise LeaseLostError("a newer leader exists")
        return fault

    def _same_pod(self, view: PodView) -> Pod | None:
        found = self._pods.get((view.namespace, view.name))
        return found if found is not None and found.uid == view.uid else None

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


def _changed(pod: Pod, *, status: PodStatus | None = None, **meta: Any) -> Pod:
    """A copy of a pod with another status, or with other fields of metadata."""
    metadata = msgspec.structs.replace(pod.metadata, **meta)
    return msgspec.structs.replace(pod, metadata=metadata, status=status or pod.status)


def _cordoned(node: Node) -> Any:
    return msgspec.structs.replace(node.spec, unschedulable=True)


def _is_wanted(found: Pod, manifest: Mapping[str, Any]) -> bool:
    """True if a pod that exists is the very one that the manifest describes."""
    meta = manifest["metadata"]
    return (
        any(owner.uid == meta["ownerReferences"][0]["uid"] for owner in found.metadata.owner_references)
        and all(found.labels.get(name) == meta["labels"][name] for name in (ATTEMPT, INDEX))
        and found.spec.node_name == manifest["spec"]["nodeName"]
    )
