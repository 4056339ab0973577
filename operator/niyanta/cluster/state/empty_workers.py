"""Capacity of an empty worker of each pool, and the largest size of the pool: for sizing and explanations.

Sources in order of precedence: the pool's workerShape, the node template of its provider, its smallest current worker,
its smallest former worker. `KubernetesCluster` passes them to the scheduler's demand statistics, which store them in
Postgres.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from niyanta.aio import in_slices
from niyanta.cluster.api.objects import Node, NodeMetadata, NodeSpec, NodeStatus, NodeTaint, Pod, StatusCondition
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.state.worker_info import DEFAULT_PODS, PoolInfo, quantities, worker
from niyanta.containment import Boundary, contained
from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.types import CPU, HOSTNAME_TOPOLOGY, MEMORY, PODS, REGION_TOPOLOGY, ZONE_TOPOLOGY, Op, WorkerInfo
from niyanta.resources.models.base import InvalidManifestError
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.quantity import base_units

SLICE_WORKERS = 200
"""Workers read before other tasks of the event loop run."""

MOST_ZONES = 16
"""Most zones of a pool that sizing considers."""

_OWN_LABELS = frozenset({HOSTNAME_TOPOLOGY, ZONE_TOPOLOGY})
_PASSING_TAINTS = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/", "ToBeDeletedBy", "DeletionCandidateOf")
"""Prefixes of taints that describe a node's condition and that a new node wouldn't have."""


@dataclass(frozen=True, slots=True)
class EmptyWorker:
    """An empty worker. `allocatable` is in base units, without the share of DaemonSets; `zones` are sorted."""

    allocatable: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()
    """(key, value, effect)"""
    zones: tuple[str, ...] = ()
    daemons: Mapping[str, int] = field(default_factory=dict)
    """The most that DaemonSets take on any worker."""


def to_record(empty: EmptyWorker) -> dict[str, Any]:
    """The record that is stored in Postgres."""
    return asdict(empty)


def from_record(record: Mapping[str, Any]) -> EmptyWorker:
    """The inverse of `to_record`."""
    return EmptyWorker(
        allocatable=record["allocatable"],
        labels=record.get("labels", {}),
        taints=tuple((key, value, effect) for key, value, effect in record.get("taints", ())),
        zones=tuple(record.get("zones", ())),
        daemons=record.get("daemons", {}),
    )


# --- from the manifest -----------------------------------------------------------------------------------------------


def declared(pool: WorkerPool) -> EmptyWorker | None:
    """The empty worker that the manifest declares; None if it declares none."""
    shape = pool.spec.worker_shape
    if shape is not None:
        taints = tuple((taint.key, taint.value, taint.effect.value) for taint in shape.taints)
        return EmptyWorker(_units(shape.allocatable), dict(shape.labels), taints)
    provider = pool.spec.provider
    if provider is None or provider.kwok is None or provider.kwok.node_template is None:
        return None
    template = provider.kwok.node_template
    status = _mapping(template.get("status"))
    offers = _mapping(status.get("allocatable") or status.get("capacity"))
    if not offers:
        return None
    raw = _mapping(template.get("spec")).get("taints")
    taints = tuple(
        (str(taint.get("key", "")), str(taint.get("value") or ""), str(taint.get("effect", "")))
        for taint in (raw if isinstance(raw, list) else ())
        if isinstance(taint, Mapping)
    )
    labels = _mapping(_mapping(template.get("metadata")).get("labels"))
    return EmptyWorker(_units(offers), {str(key): str(value) for key, value in labels.items()}, taints)


def limit(pool: WorkerPool, workers: int) -> tuple[int | None, bool]:
    """(largest size of the pool, True if it is fixed). The size is None without a limit; it is fixed at the current
    number of workers if nothing adds workers."""
    most = pool.spec.max_replicas
    if most is None and pool.spec.provider is None:
        return workers, True
    return most, False


# --- from current workers --------------------------------------------------------------------------------------------


async def observed(cache: ClusterCache) -> dict[str, EmptyWorker]:
    """The smallest ready worker of each pool, as it would be with the pods of DaemonSets alone. Pools without a ready
    worker are left out. Runs in slices.
    """
    smallest: dict[str, tuple[tuple[int, ...], str, dict[str, int]]] = {}
    labels: dict[str, dict[str, str]] = {}
    zones: dict[str, set[str]] = {}
    daemons: dict[str, dict[str, int]] = {}
    async for part in in_slices(list(cache.workers.values()), SLICE_WORKERS):
        for info in part:
            # A GPU worker has no devices until its device plugin runs.
            if not info.ready or (info.gpu is not None and not info.gpu.count):
                continue
            room = dict(info.allocatable)
            taken: dict[str, int] = {}
            for pod in cache.pods_on(info.name):
                if stays(pod) and not pod.terminal:
                    charge = cache.charge(pod)
                    for name, amount in charge.requests if charge is not None else ():
                        room[name] = max(room.get(name, 0) - amount, 0)
                        taken[name] = taken.get(name, 0) + amount
            usual = daemons.setdefault(info.pool, {})
            for name, amount in taken.items():
                usual[name] = max(usual.get(name, 0), amount)
            gpus = room.get(info.gpu.resource, 0) if info.gpu is not None else 0
            key = (gpus, room.get(CPU, 0), room.get(MEMORY, 0), room.get(PODS, 0))
            mine = smallest.get(info.pool)
            if mine is None or (key, info.name) < mine[:2]:
                smallest[info.pool] = key, info.name, room
            own = dict(info.labels)
            known = labels.setdefault(info.pool, own)
            if known is not own:
                labels[info.pool] = {name: value for name, value in known.items() if own.get(name) == value}
            zones.setdefault(info.pool, set()).add(own.get(ZONE_TOPOLOGY, ""))
    found = {}
    for pool, (_, name, room) in smallest.items():
        node = cache.node(name)
        found[pool] = EmptyWorker(
            allocatable=dict(sorted(room.items())),
            labels={key: value for key, value in sorted(labels[pool].items()) if key not in _OWN_LABELS},
            taints=tuple(
                (taint.key, taint.value, taint.effect)
                for taint in (node.spec.taints if node is not None else ())
                if not taint.key.startswith(_PASSING_TAINTS)
            ),
            zones=tuple(sorted(zones[pool] - {""}))[:MOST_ZONES],
            daemons=dict(sorted(daemons[pool].items())),
        )
    return found


def stays(pod: Pod) -> bool:
    """True for pods that an empty worker has too: those of DaemonSets, and static pods of the node."""
    return any(owner.controller and owner.kind in ("DaemonSet", "Node") for owner in pod.metadata.owner_references)


# --- for the engine --------------------------------------------------------------------------------------------------


def empty_worker(view: PoolInfo, empty: EmptyWorker, name: str, zone: str = "") -> WorkerInfo:
    """A new worker of the pool, converted by the same function as real nodes."""
    labels = dict(empty.labels)
    for expression in view.match_expressions:
        if expression.op is Op.IN and expression.values:
            labels.setdefault(expression.key, expression.values[0])
        elif expression.op is Op.EXISTS:
            labels.setdefault(expression.key, "")
    labels.update(view.match_labels)
    if zone:
        labels[ZONE_TOPOLOGY] = zone
    if view.region:
        labels.setdefault(REGION_TOPOLOGY, view.region)
    if name:
        labels[HOSTNAME_TOPOLOGY] = name
    allocatable = dict(empty.allocatable)
    allocatable.setdefault(PODS, DEFAULT_PODS)
    if view.gpu is not None and not any(resource.endswith("/gpu") for resource in allocatable):
        allocatable.setdefault(view.gpu.resource, view.gpu.count)
    texts = {
        resource: f"{amount}m" if resource == CPU else str(amount) for resource, amount in sorted(allocatable.items())
    }
    node = Node(
        metadata=NodeMetadata(name=name, labels=labels),
        spec=NodeSpec(taints=tuple(NodeTaint(key, value, effect) for key, value, effect in empty.taints)),
        status=NodeStatus(allocatable=texts, conditions=(StatusCondition("Ready", "True"),)),
    )
    return worker(node, view)


def empty_pool(pool: WorkerPool, view: PoolInfo, learned: EmptyWorker | None, workers: int) -> EmptyPool:
    """The pool as sizing needs it. `learned`: its empty worker as observed now or earlier; `workers`: their number."""
    most, fixed = limit(pool, workers)
    empty = declared(pool) or learned
    if empty is None:
        return EmptyPool(view.name, (), most, fixed, region=view.region)
    daemons = quantities(learned.daemons) if learned is not None else None
    own = empty.labels.get(ZONE_TOPOLOGY, "")
    zones = view.zones or empty.zones or (own,)
    templates = tuple(empty_worker(view, empty, "", zone) for zone in zones[:MOST_ZONES])
    return EmptyPool(view.name, templates, most, fixed, daemons, view.region)


def empty_pools(
    pools: Iterable[WorkerPool],
    views: Iterable[PoolInfo],
    *,
    learned: Mapping[str, EmptyWorker],
    workers: Mapping[str, int],
) -> tuple[EmptyPool, ...]:
    """All pools by name. `views` are their PoolInfos, in any order. A pool that raises is left out."""
    by_name = {view.name: view for view in views}
    found = []
    for pool in sorted(pools, key=lambda pool: pool.metadata.name):
        name = pool.metadata.name
        with contained(Boundary.POOL_SIZE, name):
            if name in by_name:
                found.append(empty_pool(pool, by_name[name], learned.get(name), workers.get(name, 0)))
    return tuple(found)


def _units(amounts: Mapping[str, Any]) -> dict[str, int]:
    found = {}
    for name, amount in amounts.items():
        try:
            found[str(name)] = base_units(str(name), amount, str(name))
        except InvalidManifestError:
            found[str(name)] = 0
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
