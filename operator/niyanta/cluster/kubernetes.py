"""Implementation of the scheduler's `ClusterApi` on the cache, the client, the status writer and the event recorder."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, WritesClosedError, error_kind
from niyanta.cluster.api.kinds import NODES, ResourceKind
from niyanta.cluster.leadership import fence
from niyanta.cluster.state import empty_workers
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.state.namespace_defaults import defaults_from
from niyanta.cluster.state.pod_view import in_place, pod_view
from niyanta.cluster.state.pool_info import pool_infos
from niyanta.cluster.status.event_recorder import EventRecorder
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.containment import Boundary, contained, record
from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.snapshot.deltas import DeltaCursor
from niyanta.engine.types import Requirements, Subject, WorkerInfo
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.labels import ATTEMPT, EPOCH, INDEX, REST_ID, WORKLOAD_UID
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.ownership import CustomerIndex, Held, Resolved
from niyanta.scheduler.cluster_api import (
    ClusterAwayError,
    CustomerLimits,
    LeaseLostError,
    MissingObjectsError,
    NodeState,
    NodeWriteError,
    ObjectReadError,
    PodView,
    PodWriteError,
    WorkerState,
    WriteProblem,
)
from niyanta.store.rows import WorkloadRow

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
CRDS = ResourceKind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)

PROBLEMS = {
    ErrorKind.QUOTA_EXCEEDED: WriteProblem.QUOTA,
    ErrorKind.FORBIDDEN: WriteProblem.FORBIDDEN,
    ErrorKind.NAMESPACE_TERMINATING: WriteProblem.NAMESPACE,
    ErrorKind.NOT_FOUND: WriteProblem.NAMESPACE,
    ErrorKind.INVALID: WriteProblem.INVALID,
    ErrorKind.FENCE_REFUSED: WriteProblem.FORBIDDEN,
    ErrorKind.FENCED: WriteProblem.FENCED,
}
"""Refused creates. For all other kinds the create is repeated, because it wasn't carried out or its outcome is
unknown."""

REFUSALS = frozenset(
    {ErrorKind.QUOTA_EXCEEDED, ErrorKind.FORBIDDEN, ErrorKind.NAMESPACE_TERMINATING, ErrorKind.INVALID}
)


class KubernetesCluster:
    """Implements niyanta.scheduler.cluster_api.ClusterApi, which documents the methods."""

    def __init__(
        self,
        *,
        cache: ClusterCache,
        client: ApiClient,
        customers: ResourceStore[Customer],
        pools: ResourceStore[WorkerPool],
        status_writer: WorkloadStatusWriter,
        event_recorder: EventRecorder,
        operator_namespace: str,
        queue_share: int | None = None,
    ) -> None:
        """`queue_share`: waiting workloads that any one customer may have, with or without a limit of its own."""
        self._operator_namespace = operator_namespace
        self._queue_share = queue_share
        self._index: CustomerIndex | None = None
        self._index_of = 0
        self._customers_version = 0
        self._cache = cache
        self._client = client
        self._customers = customers
        self._pools = pools
        self._status_writer = status_writer
        self._event_recorder = event_recorder
        self._defaults: dict[str, NamespaceDefaults] = {}
        self._kind_seen = 0.0

    # --- reading -----------------------------------------------------------------------------------------------------

    def delta_cursor(self) -> DeltaCursor:
        return self._cache.delta_cursor()

    def empty_pools(self, remembered: Mapping[str, Mapping[str, Any]]) -> Sequence[EmptyPool]:
        pools = list(self._pools.items().values())
        workers = Counter(info.pool for info in self._cache.workers.values())
        learned = {}
        for name, stored in remembered.items():
            with contained(Boundary.POOL_SIZE, name):
                learned[name] = empty_workers.from_record(stored)
        return empty_workers.empty_pools(pools, pool_infos(pools), learned=learned, workers=workers)

    async def observe_empty_workers(self) -> Mapping[str, Mapping[str, Any]]:
        return {
            name: empty_workers.to_record(empty) for name, empty in (await empty_workers.observed(self._cache)).items()
        }

    def claim(
        self, workload_id: str, attempt: int, workers: Sequence[str], requirements: Requirements, subject: Subject
    ) -> None:
        self._cache.claim(workload_id, attempt, workers, requirements, subject)

    def unclaim(self, workload_id: str, attempt: int) -> None:
        self._cache.unclaim(workload_id, attempt)

    def pods(self, workload_id: str, owner_uid: str | None = None, *, namespace: str | None = None) -> list[PodView]:
        return [
            pod_view(pod, self.node_state(pod.spec.node_name))
            for pod in self._cache.pods_of(workload_id)
            if owner_uid in (None, pod.owner_uid)
            and namespace in (None, pod.namespace)
            and in_place(pod, self._cache.claimed_workers)
        ]

    def namespace_enabled(self, namespace: str) -> bool | None:
        return self._cache.namespace_enabled(namespace)

    def namespace_gone(self, namespace: str) -> bool:
        return self._cache.namespace_gone(namespace)

    def workload_ids_with_pods(self) -> Iterable[str]:
        return list(self._cache.workloads_with_pods())

    def node_state(self, node: str) -> NodeState:
        found = self._cache.node(node)
        if found is None or any(taint.key == OUT_OF_SERVICE for taint in found.spec.taints):
            return NodeState.FENCED
        return NodeState.READY if found.ready else NodeState.NOT_READY

    def worker(self, name: str) -> WorkerInfo | None:
        return self._cache.worker(name)

    def gpu_resource(self, worker: str) -> str | None:
        info = self._cache.worker(worker)
        return info.gpu.resource if info is not None and info.gpu is not None else None

    def resolve_customer(self, namespace: str, named: str | None) -> Resolved | Held:
        version = self._customers_version  # read first: kopf's thread may add a Customer while the index is built
        if self._index is None or self._index_of != version:
            self._index = self._customer_index()
            self._index_of = version
        return self._index.resolve(namespace, named)

    def _customer_index(self) -> CustomerIndex:
        customers = list(self._customers.items().values())
        try:
            return CustomerIndex(customers, operator_namespace=self._operator_namespace)
        except Exception as error:
            record(Boundary.CUSTOMER, "index of customers", error)
        usable = []
        for customer in customers:
            with contained(Boundary.CUSTOMER, customer.metadata.name):
                CustomerIndex([customer], operator_namespace=self._operator_namespace)
                usable.append(customer)
        return CustomerIndex(usable, operator_namespace=self._operator_namespace)

    def is_schedulable(self, node: str) -> bool:
        found = self._cache.node(node)
        return found is not None and not found.spec.unschedulable

    def customer_limits(self, customer: str) -> CustomerLimits:
        found = self._customers.get(customer)
        if found is None:
            return CustomerLimits()
        depths = [most for most in (found.spec.max_queue_depth, self._queue_share) if most is not None]
        return CustomerLimits(min(depths, default=None), found.spec.max_concurrent)

    def customer_tier(self, customer: str) -> str:
        found = self._customers.get(customer)
        return "unknown" if found is None else found.spec.tier.value

    def worker_states(self) -> Mapping[tuple[str, WorkerState], int]:
        return Counter((worker.pool, worker_state(worker)) for worker in self._cache.workers.values())

    def worker_counts(self) -> tuple[int, int]:
        workers = self._cache.workers.values()
        return len(workers), sum(1 for worker in workers if worker.ready and not worker.cordoned)

    def customers_changed(self) -> None:
        """A Customer was added, edited or deleted. Safe from any thread (but not from several at once)."""
        self._customers_version += 1

    def namespace_defaults(self, namespace: str) -> NamespaceDefaults:
        found = self._defaults.get(namespace)
        if found is None:
            found = self._defaults[namespace] = defaults_from(
                self._cache.limit_ranges(namespace), self._cache.runtimes.store.values()
            )
        return found

    def defaults_changed(self, namespaces: set[str]) -> None:
        """LimitRanges of these namespaces changed; "": a RuntimeClass changed."""
        if "" in namespaces:
            self._defaults.clear()
        for namespace in namespaces:
            self._defaults.pop(namespace, None)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def create_pod(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        try:
            created = await self._client.create_pod(namespace, manifest)
        except ApiError as error:
            found = error_kind(error)
            if found is ErrorKind.ALREADY_EXISTS or (found in REFUSALS and await self._exists(namespace, manifest)):
                await self._accept_existing(namespace, manifest)
                return
            problem = PROBLEMS.get(found, WriteProblem.UNAVAILABLE)
            if found is ErrorKind.FENCE_REFUSED and error.status == 403 and await self._replaced(manifest):
                problem = WriteProblem.FENCED
            raise PodWriteError(problem, error.message) from error
        self._cache.assume(created.obj)

    async def _replaced(self, manifest: Mapping[str, Any]) -> bool:
        """True if the fence, read again, is higher than the epoch of the pod: a newer leader exists."""
        try:
            found = await fence.read(self._client, self._operator_namespace)
        except ApiError as error:
            raise PodWriteError(WriteProblem.UNAVAILABLE, error.message) from error
        return found.epoch > int(manifest["metadata"]["labels"][EPOCH])

    async def _exists(self, namespace: str, manifest: Mapping[str, Any]) -> bool:
        """True if a refused pod exists. An earlier request may have created it without an answer, and admission (for
        example by a quota that this pod fills) comes before the check of names."""
        try:
            return await self._client.get_pod(namespace, manifest["metadata"]["name"]) is not None
        except ApiError as error:
            raise PodWriteError(WriteProblem.UNAVAILABLE, error.message) from error

    async def _accept_existing(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        """Accept an existing pod of that name if it is the same pod; else raise NAME_TAKEN."""
        name = manifest["metadata"]["name"]
        try:
            pod = await self._client.get_pod(namespace, name)
        except ApiError as error:
            raise PodWriteError(WriteProblem.UNAVAILABLE, error.message) from error
        if pod is None:
            raise PodWriteError(WriteProblem.UNAVAILABLE, f"pod {name} existed a moment ago")
        wanted, found = manifest["metadata"], pod.metadata
        owner = wanted["ownerReferences"][0]["uid"]
        same = (
            pod.owner_uid == owner
            and found.labels.get(WORKLOAD_UID) == wanted["labels"][WORKLOAD_UID]
            and found.labels.get(ATTEMPT) == wanted["labels"][ATTEMPT]
            and found.labels.get(INDEX) == wanted["labels"][INDEX]
            and pod.spec.node_name == manifest["spec"]["nodeName"]
        )
        if not same:
            raise PodWriteError(WriteProblem.NAME_TAKEN, f"a pod named {name} exists that isn't this workload's")
        self._cache.assume(pod)

    async def delete_pod(self, pod: PodView, *, force: bool = False) -> None:
        with _as_lease_lost():
            await self._client.delete_pod(pod.namespace, pod.name, pod.uid, grace=0 if force else None)

    async def release_pod(self, pod: PodView) -> None:
        with _as_lease_lost():
            await self._client.remove_pod_finalizer(pod.namespace, pod.name, pod.uid)

    async def list_workloads(self) -> list[Mapping[str, Any]]:
        with _as_cluster_away():
            try:
                items = (await self._client.list_workloads()).items
            except ApiError as error:
                if error_kind(error) is ErrorKind.NOT_FOUND:
                    raise MissingObjectsError(str(error)) from error
                raise
        await asyncio.to_thread(self._status_writer.listed, items)
        return items

    async def get_workload(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        try:
            found = await self._client.get_workload(namespace, name)
        except ApiError as error:
            await self._check_kind()  # whose answer depends on no tenant's object, webhook or policy
            raise ObjectReadError(error.message) from error
        if found is None and time.monotonic() - self._kind_seen > 1.0:
            await self._check_kind()
        return found

    async def _check_kind(self) -> None:
        """Raises MissingObjectsError if the kind Workload doesn't exist, ClusterAwayError if that can't be read."""
        with _as_cluster_away():
            crd = await self._client.get(CRDS, "workloads.niyanta.io")
        if crd is None or crd["metadata"].get("deletionTimestamp"):
            msg = "the CustomResourceDefinition workloads.niyanta.io is gone"
            raise MissingObjectsError(msg)
        self._kind_seen = time.monotonic()

    async def create_workload(self, namespace: str, manifest: Mapping[str, Any]) -> str:
        try:
            return str((await self._client.create_workload(namespace, manifest)).obj["metadata"]["uid"])
        except ApiError as error:
            if error_kind(error) is not ErrorKind.ALREADY_EXISTS:
                raise PodWriteError(PROBLEMS.get(error_kind(error), WriteProblem.UNAVAILABLE), error.message) from error
        name = manifest["metadata"]["name"]
        try:
            found = await self._client.get_workload(namespace, name)
        except ApiError as error:
            raise PodWriteError(WriteProblem.UNAVAILABLE, error.message) from error
        if found is None:
            raise PodWriteError(WriteProblem.UNAVAILABLE, f"workload {name} existed a moment ago")
        if (found["metadata"].get("labels") or {}).get(REST_ID) != manifest["metadata"]["labels"][REST_ID]:
            raise PodWriteError(WriteProblem.NAME_TAKEN, f"a Workload named {name} exists that isn't this submission's")
        return str(found["metadata"]["uid"])

    async def cordon(self, node: str) -> bool:
        return await self._patch_node(node, {"spec": {"unschedulable": True}}) is not None

    async def uncordon(self, node: str) -> bool:
        return await self._patch_node(node, {"spec": {"unschedulable": None}}) is not None

    async def is_cordoned(self, node: str) -> bool | None:
        found = await self._patch_node(node, {})  # changes nothing; the operator may patch nodes, but not get them
        return None if found is None else bool(found["spec"].get("unschedulable"))

    async def _patch_node(self, node: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        with _as_lease_lost():
            try:
                return await self._client.patch(NODES, node, body)
            except WritesClosedError:
                raise
            except ApiError as error:
                kind = error_kind(error)
                if kind is ErrorKind.NOT_FOUND:
                    return None
                refused = kind in (ErrorKind.FORBIDDEN, ErrorKind.INVALID)
                raise NodeWriteError(error.message, refused=refused) from error

    async def delete_workload(self, namespace: str, name: str, uid: str) -> None:
        with _as_lease_lost():
            try:
                await self._client.delete_workload(namespace, name, uid)
            except WritesClosedError:
                raise
            except ApiError as error:
                # A webhook or policy of this namespace may be the cause, whatever the status is.
                raise PodWriteError(PROBLEMS.get(error_kind(error), WriteProblem.UNAVAILABLE), error.message) from error

    def write_status(self, row: WorkloadRow) -> None:
        self._status_writer.write(row)

    def record_event(self, row: WorkloadRow, *, reason: str, message: str, warning: bool) -> None:
        if row.object is not None:
            self._event_recorder.record(row, reason=reason, message=message, warning=warning)


@contextmanager
def _as_cluster_away() -> Iterator[None]:
    """Convert errors of the API server to ClusterAwayError."""
    try:
        yield
    except WritesClosedError:
        raise
    except ApiError as error:
        raise ClusterAwayError(str(error)) from error


@contextmanager
def _as_lease_lost() -> Iterator[None]:
    """Convert the client's WritesClosedError to LeaseLostError."""
    try:
        yield
    except WritesClosedError as error:
        raise LeaseLostError(str(error)) from error


def worker_state(worker: WorkerInfo) -> WorkerState:
    """State of a worker for the gauges."""
    if not worker.ready:
        return WorkerState.NOT_READY
    return WorkerState.CORDONED if worker.cordoned else WorkerState.READY
