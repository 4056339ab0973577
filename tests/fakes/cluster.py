"""A complete in-memory `ClusterApi` for tests of the scheduler.

Charges and pod views come from the operator's own code (`UsageIndex`, `pod_charge`, `pod_view`). The API server,
kubelets and users are simulated: tests call methods of `Kubelet` and `FakeCluster`. Changes reach the scheduler through
`work_queue` at once.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import msgspec

from niyanta.cluster.api.errors import ApiError, NotSentError
from niyanta.cluster.api.objects import Pod, PodStatus
from niyanta.cluster.kubernetes import OUT_OF_SERVICE, worker_state
from niyanta.cluster.state.pod_view import in_place, pod_view
from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.snapshot.deltas import (
    DeltaCursor,
)
from niyanta.engine.types import Requirements, Subject, WorkerInfo
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.labels import ATTEMPT, INDEX, OUTCOME_FINALIZER, REST_ID
from niyanta.resources.ownership import CustomerIndex, Held, Resolved
from niyanta.scheduler.cluster_api import (
    ClusterAwayError,
    CustomerLimits,
    LeaseLostError,
    MissingObjectsError,
    NodeState,
    PodView,
    PodWriteError,
    WorkerState,
    WriteProblem,
)
from niyanta.store.rows import WorkloadRow
from tests.fakes.simulated_cluster import GRACE_SECONDS, RecordedEvent, SimulatedCluster, changed_pod


class FakeCluster(SimulatedCluster):
    """Implements `ClusterApi`. `faults` scripts errors by the name of the protocol's method."""

    # --- ClusterReads ------------------------------------------------------------------------------------------------

    def delta_cursor(self) -> DeltaCursor:
        return self._deltas.cursor()

    def empty_pools(self, remembered: Mapping[str, Mapping[str, Any]]) -> Sequence[EmptyPool]:
        return self.pool_list

    async def observe_empty_workers(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def pods(self, workload_id: str, owner_uid: str | None = None, *, namespace: str | None = None) -> list[PodView]:
        return [
            pod_view(pod, self.node_state(pod.spec.node_name))
            for pod in self.live_pods(workload_id)
            if owner_uid in (None, pod.owner_uid)
            and namespace in (None, pod.namespace)
            and in_place(pod, self._usage.claimed_workers)
        ]

    def namespace_enabled(self, namespace: str) -> bool | None:
        return self.enabled_namespaces.get(namespace, True)

    def namespace_gone(self, namespace: str) -> bool:
        return namespace in self.gone_namespaces

    def workload_ids_with_pods(self) -> Iterable[str]:
        return sorted({pod.workload_uid for pod in self._pods.values()} - {""})

    def node_state(self, node: str) -> NodeState:
        found = self._nodes.get(node)
        if found is None or any(taint.key == OUT_OF_SERVICE for taint in found.spec.taints):
            return NodeState.FENCED
        return NodeState.READY if found.ready else NodeState.NOT_READY

    def worker(self, name: str) -> WorkerInfo | None:
        return self._workers.get(name)

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
        if self.kind_gone:
            raise MissingObjectsError("the CustomResourceDefinition workloads.niyanta.io is gone")
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

    def worker_states(self) -> Mapping[tuple[str, WorkerState], int]:
        return Counter((worker.pool, worker_state(worker)) for worker in self._workers.values())

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
            # The API server stores a copy, so that later changes of the manifest have no effect.
            pod = msgspec.convert(deepcopy(dict(manifest)), Pod)
            self.set_pod(changed_pod(pod, uid=str(uuid.uuid4()), status=PodStatus("Pending")))
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
            self.set_pod(changed_pod(found, finalizers=left))
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
        return await self._set_unschedulable("cordon", node, True)

    async def uncordon(self, node: str) -> bool:
        return await self._set_unschedulable("uncordon", node, False)

    async def is_cordoned(self, node: str) -> bool | None:
        await self._write("is_cordoned")
        found = self._nodes.get(node)
        return None if found is None else found.spec.unschedulable

    async def _set_unschedulable(self, operation: str, node: str, value: bool) -> bool:
        fault = await self._write(operation)
        found = self._nodes.get(node)
        if found is None:
            return False
        spec = msgspec.structs.replace(found.spec, unschedulable=value)
        self.set_node(msgspec.structs.replace(found, spec=spec))
        self.faults.after(fault)
        return True

    async def delete_workload(self, namespace: str, name: str, uid: str) -> None:
        await self.faults.before("delete_workload")
        if self.away:
            raise PodWriteError(WriteProblem.UNAVAILABLE, "the API server does not answer")
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


def _is_wanted(found: Pod, manifest: Mapping[str, Any]) -> bool:
    """True if a pod that exists is the very one that the manifest describes."""
    meta = manifest["metadata"]
    return (
        any(owner.uid == meta["ownerReferences"][0]["uid"] for owner in found.metadata.owner_references)
        and all(found.labels.get(name) == meta["labels"][name] for name in (ATTEMPT, INDEX))
        and found.spec.node_name == manifest["spec"]["nodeName"]
    )
