"""Reads and writes of scaling in the cluster: nodes of instances and their pods, cordons, spec.replicas, Events."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, WritesClosedError, error_kind
from niyanta.cluster.api.kinds import NODES, WORKER_POOLS
from niyanta.cluster.api.objects import Node, Pod
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.state.pool_info import pool_infos
from niyanta.cluster.state.worker_info import by_age
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.engine.types import WorkerInfo
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.pools.actions import PoolWorker
from niyanta.pools.providers.base import Group, Instance, InstanceState
from niyanta.resources.labels import SCALE_DOWN, SCALE_DOWN_DISABLED
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.scheduler.state import SchedulerState

logger = log.get(__name__)

COUNT_VALID_SECONDS = 0.5
"""Time for which a count of bound workloads by worker, or of workers by pool, is reused; counting reads all of
them."""

WAS_CORDONED = " (cordoned before)"
"""Suffix of Niyanta's annotation on a node that was cordoned before the drain, and that stays cordoned after it."""

OF_THE_NODE = frozenset({"DaemonSet", "Node"})
"""Owner kinds of pods that belong to their node."""


class PoolNodes:
    """Nodes and pods as scaling sees them, and its writes to the API server."""

    def __init__(
        self, *, cache: ClusterCache, client: ApiClient, state: SchedulerState, pools: ResourceStore[WorkerPool]
    ) -> None:
        self._cache = cache
        self._client = client
        self._state = state
        self._pools = pools
        self._bound: Counter[str] = Counter()
        self._counted_at = float("-inf")
        self._by_pool: dict[str, list[WorkerInfo]] = {}
        self._grouped_at = float("-inf")
        self._numbers = itertools.count()

    # --- reading -----------------------------------------------------------------------------------------------------

    def pool(self, name: str) -> WorkerPool | None:
        """The pool with this name; None if it doesn't exist."""
        return self._pools.items().get(name)

    def owners(self) -> Callable[[Mapping[str, str]], str]:
        """A function from a node's labels to the pool that it belongs to now ("" if no pool selects it)."""
        views = by_age(pool_infos(self._pools.items().values()))
        return lambda labels: next((view.name for view in views if view.selects(labels)), "")

    def workers(self, pool: str, group: Group, seen: Mapping[str, int], unready: Mapping[str, int]) -> list[PoolWorker]:
        """The group's instances with their nodes. `seen`, `unready`: instance -> time since then, microseconds."""
        nodes = self._nodes_of(group)
        return [
            self._worker(pool, instance, nodes.get(instance.id), seen=seen, unready=unready)
            for instance in group.instances
        ]

    def nodes_outside_group(self, pool: str, group: Group) -> list[str]:
        """Nodes of the pool that aren't instances of its group. They don't count, and scaling leaves them alone."""
        ids = {instance.provider_id for instance in group.instances} | {i.node for i in group.instances}
        found = []
        for name in (info.name for info in self._members().get(pool, ())):
            node = self._cache.node(name)
            if node is not None and name not in ids and node.spec.provider_id not in ids:
                found.append(name)
        return sorted(found)

    def count(self, pool: str) -> tuple[int, int]:
        """Number of workers of the pool, and number of those that are ready and not cordoned."""
        mine = self._members().get(pool, [])
        return len(mine), sum(1 for info in mine if info.ready and not info.cordoned)

    def ready_instances(self, pool: str, group: Group) -> set[str]:
        """Ids of the instances whose node is Ready and a worker of the pool."""
        nodes = self._nodes_of(group)
        return {id_ for id_, node in nodes.items() if self._ready(pool, node)}

    def _nodes_of(self, group: Group) -> dict[str, Node]:
        """Instance -> its node; instances without a node are left out."""
        by_provider_id = {
            node.spec.provider_id: node for node in self._cache.nodes.store.values() if node.spec.provider_id
        }
        found = {}
        for instance in group.instances:
            node = self._cache.node(instance.node) if instance.node else by_provider_id.get(instance.provider_id)
            if node is not None:
                found[instance.id] = node
        return found

    def _ready(self, pool: str, node: Node) -> bool:
        info = self._cache.worker(node.name)
        return node.ready and info is not None and info.pool == pool

    def _worker(
        self, pool: str, instance: Instance, node: Node | None, *, seen: Mapping[str, int], unready: Mapping[str, int]
    ) -> PoolWorker:
        bare = PoolWorker(
            instance.id,
            leaving=instance.state is InstanceState.LEAVING,
            in_service=instance.state is InstanceState.RUNNING,
            ready=False,
            since=seen.get(instance.id, 0),
            unready_since=unready.get(instance.id),
            protected=instance.protected,
        )
        if node is None:
            return bare
        pods = [pod for pod in self._cache.pods_on(node.name) if not pod.terminal]
        annotations = node.metadata.annotations
        return replace(
            bare,
            node=node.name,
            since=_created(node) or bare.since,
            ready=self._ready(pool, node),
            cordoned=node.spec.unschedulable,
            marked=SCALE_DOWN in annotations,
            was_cordoned=annotations.get(SCALE_DOWN, "").endswith(WAS_CORDONED),
            kept=annotations.get(SCALE_DOWN_DISABLED) == "true",
            workloads=self._workloads()[node.name],
            pods=sum(1 for pod in pods if pod.workload_uid),
            others=tuple(sorted(f"{pod.namespace}/{pod.name}" for pod in pods if is_foreign(pod))),
            usage=self._usage(node.name),
        )

    def _members(self) -> dict[str, list[WorkerInfo]]:
        """Workers by pool, from one pass for all pools."""
        if time.monotonic() - self._grouped_at > COUNT_VALID_SECONDS:
            self._by_pool = {}
            for info in self._cache.workers.values():
                self._by_pool.setdefault(info.pool, []).append(info)
            self._grouped_at = time.monotonic()
        return self._by_pool

    def _workloads(self) -> Counter[str]:
        """Bound workloads by worker."""
        if time.monotonic() - self._counted_at > COUNT_VALID_SECONDS:
            self._bound = Counter(
                worker
                for tracked in self._state.workloads.select((Phase.SCHEDULED, Phase.RUNNING))
                for worker in set(tracked.row.workers)
            )
            self._counted_at = time.monotonic()
        return self._bound

    def _usage(self, node: str) -> float:
        """Taken share of the worker's fullest resource in the engine's snapshot, 0 to 1."""
        try:
            usage = self._state.snapshot.worker_usage(node)
        except KeyError:
            return 0.0
        whole = dict(usage.allocatable)
        shares = [amount / whole[name] for name, amount in usage.used if whole.get(name)]
        if usage.slots:
            shares.append(usage.slots_used / usage.slots)
        return max(shares, default=0.0)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def cordon(self, node: str, pool: str, *, was_cordoned: bool) -> bool:
        """Cordon and annotate a node; False if it doesn't exist."""
        mark = f"{pool}{WAS_CORDONED}" if was_cordoned else pool
        return await self._patch_node(node, {SCALE_DOWN: mark}, unschedulable=True)

    async def uncordon(self, node: str, *, unschedulable: bool) -> bool:
        """Remove the annotation and set the cordon to `unschedulable`; False if the node doesn't exist."""
        return await self._patch_node(node, {SCALE_DOWN: None}, unschedulable=unschedulable)

    async def _patch_node(self, name: str, annotations: Mapping[str, str | None], *, unschedulable: bool) -> bool:
        node = self._cache.node(name)
        if node is None:
            return False
        body = {
            "metadata": {"uid": node.uid, "annotations": annotations},
            "spec": {"unschedulable": True if unschedulable else None},
        }
        try:
            await self._client.patch(NODES, name, body)
        except ApiError as error:
            if error_kind(error) in (ErrorKind.NOT_FOUND, ErrorKind.CONFLICT):
                return False
            raise
        return True

    async def adopt(self, pool: WorkerPool, replicas: int) -> bool:
        """Set spec.replicas if it is missing; False if it is set meanwhile."""
        meta = pool.metadata
        found = await self._client.get(WORKER_POOLS, meta.name, namespace=meta.namespace)
        if found is None or found["spec"].get("replicas") is not None:
            return False
        version = found["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        try:
            stored = await self._client.patch(WORKER_POOLS, meta.name, body, namespace=meta.namespace)
        except ApiError as error:
            if error_kind(error) in (ErrorKind.NOT_FOUND, ErrorKind.CONFLICT):
                return False
            raise
        self._pools.on_event("MODIFIED", stored)
        return True

    async def record_event(self, pool: WorkerPool, *, reason: str, message: str, warning: bool) -> None:
        """Write a Kubernetes Event on the WorkerPool. A failure is only logged, because the decision is recorded."""
        meta = pool.metadata
        at = self._state.clock.now()
        try:
            await self._client.create_event(
                meta.namespace,
                regarding={
                    "apiVersion": WORKER_POOLS.api_version,
                    "kind": WORKER_POOLS.kind,
                    "namespace": meta.namespace,
                    "name": meta.name,
                    "uid": meta.uid,
                },
                name=f"{meta.name}.{at:x}.{next(self._numbers):x}",
                reason=reason,
                note=message,
                action="Scale",
                at=at,
                warning=warning,
            )
        except WritesClosedError:
            raise
        except ApiError as error:
            logger.warning("an Event was not written", pool=meta.name, reason=reason, error=str(error))


def _created(node: Node) -> int:
    """Creation time of a node, microseconds; 0 if it is unknown."""
    text = node.metadata.creation_timestamp
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000 if text else 0


def is_foreign(pod: Pod) -> bool:
    """True for a foreign pod, unless it belongs to its node."""
    # The author of a pod may add any owner; only its controller decides.
    owners: Iterable[str] = (owner.kind for owner in pod.metadata.owner_references if owner.controller)
    return not pod.workload_uid and OF_THE_NODE.isdisjoint(owners)
