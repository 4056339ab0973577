"""The cluster in memory: nodes, pods, LimitRanges and RuntimeClasses, kept up to date by reflectors.

The scheduler reads the changes for its engine snapshots (`delta_cursor`) and claims the capacity of committed
placements (`claim`); listeners learn which workloads and nodes have changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from niyanta.aio import in_slices
from niyanta.cluster.api.connection import Connection
from niyanta.cluster.api.kinds import LIMIT_RANGES, NAMESPACES, NODES, RUNTIME_CLASSES
from niyanta.cluster.api.kinds import PODS as POD_KIND
from niyanta.cluster.api.objects import Key, LimitRange, Namespace, Node, Pod, RuntimeClassObject
from niyanta.cluster.state.offered_resources import OfferedResources
from niyanta.cluster.state.usage import UsageIndex
from niyanta.cluster.state.worker_info import PoolInfo, by_age, pod_charge, pools_for, worker
from niyanta.cluster.watch.object_store import ObjectChange
from niyanta.cluster.watch.reflector import Reflector
from niyanta.containment import Boundary, contained, record
from niyanta.engine.snapshot.deltas import (
    ChargedNodeRemoved,
    ChargedNodeUpserted,
    Delta,
    DeltaCursor,
    DeltaPublisher,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.types import PODS, Charge, ChargedNode, Requirements, Subject, WorkerInfo

SLICE_NODES = 250
"""Nodes evaluated again before other tasks of the event loop run (some 10 ms)."""


def _ignore(_: set[str]) -> None:
    pass


def _ignore_room() -> None:
    pass


class ClusterCache:
    """Owns the reflectors. `run()` is a task; `synced()` returns when all lists are complete.

    Listeners are called in the event loop, after the cache was updated; they must be quick.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        on_workloads: Callable[[set[str]], None] = _ignore,
        on_nodes: Callable[[set[str]], None] = _ignore,
        on_defaults: Callable[[set[str]], None] = _ignore,
        on_room: Callable[[], None] = _ignore_room,
        on_namespaces: Callable[[set[str]], None] = _ignore,
        require_namespace_label: bool = False,
    ) -> None:
        """`on_workloads`: UIDs of workloads whose pods changed. `on_nodes`: names of nodes that were added, removed, or
        changed readiness, cordon or taints. `on_defaults`: namespaces whose LimitRanges changed, "" for RuntimeClasses.
        `on_room`: a worker was added or changed (a label, a device), or a pod released capacity. `on_namespaces`:
        namespaces whose label `niyanta.io/enabled` came or went; they are watched only if `require_namespace_label`.
        """
        self._on_namespaces = on_namespaces
        self._require_namespace_label = require_namespace_label
        self._on_workloads = on_workloads
        self._on_nodes = on_nodes
        self._on_defaults = on_defaults
        self._on_room = on_room
        self._room = False
        """A change that may let waiting workloads be placed was published since the last `on_room`."""
        self.nodes: Reflector[Node] = Reflector(
            connection, NODES, Node, self._nodes_changed, slim=lambda node: node.slim
        )
        self.pods: Reflector[Pod] = Reflector(connection, POD_KIND, Pod, self._pods_changed)
        self.limits: Reflector[LimitRange] = Reflector(connection, LIMIT_RANGES, LimitRange, self._limits_changed)
        self.runtimes: Reflector[RuntimeClassObject] = Reflector(
            connection, RUNTIME_CLASSES, RuntimeClassObject, self._runtimes_changed
        )
        self.namespaces: Reflector[Namespace] = Reflector(
            connection, NAMESPACES, Namespace, self._namespaces_changed, metadata_only=True
        )
        self._pools: tuple[PoolInfo, ...] = ()
        self._workers: dict[str, WorkerInfo] = {}
        self._charged_nodes: dict[str, ChargedNode] = {}
        """Nodes that are no workers but run pods of Niyanta."""
        self._losers: dict[str, tuple[str, ...]] = {}
        """Node -> younger pools that select it too."""
        self._by_workload: dict[str, dict[Key, Pod]] = {}
        self._by_node: dict[str, dict[Key, Pod]] = {}
        self.usage = UsageIndex(self._charge_changed)
        self._offered = OfferedResources()
        self._deltas = DeltaPublisher(self._full_state)

    @property
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        """All reflectors, for health checks and metrics."""
        needed = (self.nodes, self.pods, self.limits, self.runtimes)
        return (*needed, self.namespaces) if self._require_namespace_label else needed

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the reflectors until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self.reflectors:
                tasks.create_task(reflector.run(), name=f"reflector {type(reflector).__name__}")

    async def synced(self) -> None:
        """Return when every kind has been listed once."""
        for reflector in self.reflectors:
            await reflector.synced.wait()

    def not_synced(self) -> list[str]:
        """Resources that have not been listed yet."""
        return [reflector.resource for reflector in self.reflectors if not reflector.synced.is_set()]

    async def relist_consistent(self) -> None:
        """Return when the stores are at least as new as this call (a new leader does this before it places)."""
        await asyncio.gather(*(reflector.relist_consistent() for reflector in self.reflectors))

    def silence(self) -> float:
        """Longest time, over all kinds, since the API server last sent data, in seconds. Bookmarks come each minute."""
        return time.monotonic() - min(reflector.last_contact for reflector in self.reflectors)

    # --- reads -------------------------------------------------------------------------------------------------------

    def pods_of(self, workload_uid: str) -> list[Pod]:
        """All pods of a workload, any attempt, any phase."""
        return list(self._by_workload.get(workload_uid, {}).values())

    def workloads_with_pods(self) -> Collection[str]:
        """UIDs of all workloads that have a pod."""
        return self._by_workload.keys()

    def pods_on(self, node: str) -> list[Pod]:
        """All pods bound to a node, of Niyanta and foreign ones."""
        return list(self._by_node.get(node, {}).values())

    def charge(self, pod: Pod) -> Charge | None:
        """Capacity that a pod takes on its node; None if it takes none."""
        return self.usage.of_pod(pod.uid, pod.charge_key)

    def workloads_on(self, node: str) -> set[str]:
        """UIDs of the workloads that have a pod on the node."""
        return {pod.workload_uid for pod in self._by_node.get(node, {}).values() if pod.workload_uid}

    def node(self, name: str) -> Node | None:
        """The node; None if it doesn't exist."""
        return self.nodes.store.get(("", name))

    def worker(self, name: str) -> WorkerInfo | None:
        """The worker; None if the node doesn't exist or no pool selects it."""
        return self._workers.get(name)

    @property
    def workers(self) -> Mapping[str, WorkerInfo]:
        """All workers by name."""
        return self._workers

    def overlaps(self) -> dict[str, list[str]]:
        """Pool -> nodes that it selects but that belong to an older pool, sorted."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._losers):
            for pool in self._losers[name]:
                found.setdefault(pool, []).append(name)
        return found

    def limit_ranges(self, namespace: str) -> list[LimitRange]:
        """LimitRanges of one namespace, sorted by name."""
        found = [item for key, item in self.limits.store.items() if key[0] == namespace]
        return sorted(found, key=lambda item: item.name)

    def namespace_enabled(self, namespace: str) -> bool | None:
        """True if pods may be created in a namespace: it has the label, or the label isn't required. None: the
        namespace isn't known."""
        if not self._require_namespace_label:
            return True
        found = self.namespaces.store.get(("", namespace))
        return None if found is None else found.enabled

    def namespace_gone(self, namespace: str) -> bool:
        """True if a namespace doesn't exist or is being deleted. False if namespaces aren't watched."""
        if not self._require_namespace_label or not self.namespaces.store:
            return False
        found = self.namespaces.store.get(("", namespace))
        return found is None or found.terminating

    # --- placements of the scheduler ---------------------------------------------------------------------------------

    def assume(self, pod: Pod) -> bool:
        """Take in a created pod from the server's response, ahead of the watch. False if the store is newer."""
        return self.pods.assume(pod)

    def claim(
        self, workload_id: str, attempt: int, workers: Sequence[str], requirements: Requirements, subject: Subject
    ) -> None:
        """Charge a committed placement to its workers' capacity, before its pods are observed."""
        self.usage.claim(workload_id, attempt, workers=workers, requirements=requirements, subject=subject)

    def unclaim(self, workload_id: str, attempt: int) -> None:
        """Stop charging an attempt that is over; its pods that still run stay charged."""
        self.usage.unclaim(workload_id, attempt)

    def claimed_workers(self, workload_id: str, attempt: int) -> tuple[str, ...] | None:
        """Workers of a claimed attempt, in index order; None if the attempt isn't claimed."""
        return self.usage.claimed_workers(workload_id, attempt)

    async def set_pools(self, pools: Iterable[PoolInfo]) -> None:
        """Replace the pools and evaluate every node again, in slices. Returns at once if the pools are the same."""
        ordered = by_age(pools)
        if ordered == self._pools:
            return
        self._pools = ordered
        names = [node.name for node in self.nodes.store.values()]
        async for part in in_slices(names, SLICE_NODES):
            for name in part:
                self._update_worker(name)

    # --- changes for the engine --------------------------------------------------------------------------------------

    def delta_cursor(self) -> DeltaCursor:
        """A new reader of changes. Its first read returns the whole state; no changes are kept for it before that, or a
        standby replica would collect them for ever."""
        return self._deltas.cursor()

    def close_delta_cursors(self) -> None:
        """Stop keeping changes for all readers, when a leader steps down."""
        self._deltas.close_all()

    def _full_state(self) -> StateReplaced:
        charged_nodes = tuple(self._charged_nodes.values())
        return StateReplaced(tuple(self._workers.values()), tuple(self.usage.charges()), charged_nodes)

    def _publish(self, delta: Delta) -> None:
        if self._deltas.has_readers:
            self._deltas.publish(delta)
            self._room = self._room or not isinstance(delta, PodCharged)

    def _report_room(self) -> None:
        if self._room:
            self._room = False
            with contained(Boundary.LISTENER, "capacity"):
                self._on_room()

    def _charge_changed(self, key: str, charge: Charge | None) -> None:
        self._publish(PodReleased(key) if charge is None else PodCharged(charge))

    # --- changes from the reflectors ---------------------------------------------------------------------------------

    def _nodes_changed(self, changes: list[ObjectChange[Node]]) -> None:
        notable: set[str] = set()
        for change in changes:
            name = change.object.name
            self._update_worker(name)
            old, new = change.old, change.new
            if old is None or new is None or _placement_fields(old) != _placement_fields(new):
                notable.add(name)
        with contained(Boundary.LISTENER, "nodes"):
            if notable:
                self._on_nodes(notable)
        self._report_room()

    def _update_worker(self, name: str) -> None:
        """Find the pool of a node and publish the worker if it has changed. A node that raises is no worker."""
        node = self.nodes.store.get(("", name))
        info: WorkerInfo | None = None
        self._losers.pop(name, None)
        with contained(Boundary.WORKER, name):
            pools = pools_for(node, self._pools) if node is not None else ()
            if node is not None and pools:
                info = worker(node, pools[0])
                if len(pools) > 1:
                    self._losers[name] = tuple(pool.name for pool in pools[1:])
        if info is None:
            if self._workers.pop(name, None) is not None:
                self._publish(WorkerRemoved(name))
        elif self._workers.get(name) != info:
            self._workers[name] = info
            self._publish(WorkerUpserted(info))
            for key in self._offered.offer(resource for resource, _ in info.allocatable):
                with contained(Boundary.POD, "/".join(key)):
                    self._charge(None, self.pods.store.get(key))
        self._update_charged_node(name)

    def _update_charged_node(self, name: str) -> None:
        """Publish a node that is no worker while it runs pods of Niyanta: they stay peers of others."""
        node = self.nodes.store.get(("", name))
        found: ChargedNode | None = None
        if node is not None and name not in self._workers:
            pods = self._by_node.get(name, {}).values()
            if any(pod.workload_uid and not pod.terminal for pod in pods):
                found = ChargedNode(name, tuple(sorted(node.metadata.labels.items())))
        known = self._charged_nodes.get(name)
        if found is not None and found != known:
            self._charged_nodes[name] = found
            self._publish(ChargedNodeUpserted(found))
        elif found is None and known is not None:
            del self._charged_nodes[name]
            if name not in self._workers:  # a worker of that name has replaced it
                self._publish(ChargedNodeRemoved(name))

    def _pods_changed(self, changes: list[ObjectChange[Pod]]) -> None:
        touched: set[str] = set()
        for change in changes:
            with contained(Boundary.POD, "/".join(change.object.key)):
                old, new = change.old, change.new
                if old is not None:
                    self._unindex(old, new)
                if new is not None:
                    self._index(new)
                touched.update(pod.workload_uid for pod in (old, new) if pod is not None)
                self._charge(old, new)
                for node in {pod.spec.node_name for pod in (old, new) if pod is not None and pod.workload_uid}:
                    if node not in self._workers:
                        self._update_charged_node(node)
        touched.discard("")
        with contained(Boundary.LISTENER, "pods"):
            if touched:
                self._on_workloads(touched)
        self._report_room()

    def _index(self, pod: Pod) -> None:
        if pod.workload_uid:
            self._by_workload.setdefault(pod.workload_uid, {})[pod.key] = pod
        if pod.spec.node_name:
            self._by_node.setdefault(pod.spec.node_name, {})[pod.key] = pod

    def _unindex(self, old: Pod, new: Pod | None) -> None:
        if new is None or new.workload_uid != old.workload_uid:
            _discard(self._by_workload, old.workload_uid, old.key)
        if new is None or new.spec.node_name != old.spec.node_name:
            _discard(self._by_node, old.spec.node_name, old.key)

    def _charge(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and _takes_the_same(old, new):
            return
        charge = _charge_of(new) if new is not None else None
        if old is not None and (charge is None or charge.key != old.charge_key):
            self._offered.forget(old.key)
            self.usage.pod_gone(old.uid, old.charge_key)
        if new is not None and charge is not None:
            requests = self._offered.limit(new.key, charge.requests)
            self.usage.pod(new.uid, replace(charge, requests=requests) if requests != charge.requests else charge)

    def _limits_changed(self, changes: list[ObjectChange[LimitRange]]) -> None:
        self._on_defaults({change.object.namespace for change in changes})

    def _namespaces_changed(self, changes: list[ObjectChange[Namespace]]) -> None:
        changed = {c.object.name for c in changes if c.old is None or c.new is None or c.old.enabled != c.new.enabled}
        if changed:
            self._on_namespaces(changed)

    def _runtimes_changed(self, _: list[ObjectChange[RuntimeClassObject]]) -> None:
        self._on_defaults({""})


def _placement_fields(node: Node) -> tuple[object, ...]:
    """Node fields that affect placement: readiness, cordon, taints, deletion."""
    return node.ready, node.spec.unschedulable, node.spec.taints, node.metadata.deletion_timestamp is not None


def _takes_the_same(old: Pod, new: Pod) -> bool:
    """True if no field has changed that a charge depends on. Most changes concern the status, and this comparison is
    cheaper than the sums."""
    before, now = old.metadata, new.metadata
    return (
        old.terminal == new.terminal
        and old.spec == new.spec
        and before.labels == now.labels
        and before.owner_references == now.owner_references
    )


def _charge_of(pod: Pod) -> Charge | None:
    """The charge of a pod. A pod that raises takes a place on its node; nothing else is known of it."""
    try:
        return pod_charge(pod)
    except Exception as error:
        record(Boundary.POD, f"{pod.namespace}/{pod.name}", error)
        return Charge(key=pod.charge_key, worker=pod.spec.node_name, requests=((PODS, 1),))


def _discard(index: dict[str, dict[Key, Pod]], name: str, key: Key) -> None:
    with suppress(KeyError):
        pods = index[name]
        del pods[key]
        if not pods:
            del index[name]
