"""Converts nodes and pods to the engine's types: the pool of a node, the worker's capacity, and the capacity a pod
takes.

Pure; `cache` calls it for each change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from niyanta.cluster.api.objects import ContainerResources, Node, Pod, PodContainer
from niyanta.engine.label_expressions import label_matches
from niyanta.engine.types import (
    PODS,
    REGION_TOPOLOGY,
    ZONE_TOPOLOGY,
    Charge,
    Expression,
    Gpu,
    HostPort,
    Labels,
    Quantities,
    Strategy,
    Subject,
    Taint,
    WorkerInfo,
)
from niyanta.resources.labels import CUSTOMER, TYPE, WORKLOAD_LABELS, workload_labels
from niyanta.resources.models.base import InvalidManifestError
from niyanta.resources.quantity import base_units

GPU_SUFFIX = "/gpu"
DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"
GPU_MODEL_LABELS = ("niyanta.io/gpu-model", "nvidia.com/gpu.product")
GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"
"""MiB of one device, as NVIDIA's feature discovery writes it."""
DEFAULT_PODS = 110
"""The kubelet's default, for nodes without allocatable pods."""
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - the value Kubernetes uses for "any address"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
"""Label of the nodes of the control plane."""
MOST_OF_A_RESOURCE = 2**50
"""Larger amounts of a node or a pod count as this (1 PiB), so that sums over a worker's pods stay below 64 bits."""
BLOCKING_EFFECTS = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class PoolGpuInfo:
    """GPUs that a pool declares; `memory` is bytes of one device, 0 if not declared."""

    model: str = ""
    count: int = 0
    memory: int = 0
    resource: str = DEFAULT_GPU_RESOURCE


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """WorkerPool fields that select its workers and determine their capacity.

    `created` is its creationTimestamp as text, whose order is that of time.
    """

    name: str
    created: str = ""
    match_labels: Labels = ()
    match_expressions: tuple[Expression, ...] = ()
    region: str = ""
    zones: tuple[str, ...] = ()
    tags: Labels = ()
    capabilities: frozenset[str] = frozenset()
    compliance: frozenset[str] = frozenset()
    gpu: PoolGpuInfo | None = None
    slots_per_worker: int | None = None
    strategy: Strategy = Strategy.PACK
    customers: frozenset[str] | None = None
    """Customers that may use its workers; None: every customer."""

    def selects(self, labels: Mapping[str, str]) -> bool:
        """True if the pool's node selector matches. As in Kubernetes, all parts must match, and an empty selector
        matches every node; but one of the control plane only if the selector names its label."""
        if CONTROL_PLANE in labels and not self._names(CONTROL_PLANE):
            return False
        for key, value in self.match_labels:
            if labels.get(key) != value:
                return False
        return all(label_matches(labels, e.key, e.op, e.values) for e in self.match_expressions)

    def _names(self, key: str) -> bool:
        return any(key == name for name, _ in self.match_labels) or any(key == e.key for e in self.match_expressions)


def by_age(pools: Iterable[PoolInfo]) -> tuple[PoolInfo, ...]:
    """Pools by age, oldest first, ties by name: a node belongs to the first pool that selects it."""
    return tuple(sorted(pools, key=lambda pool: (pool.created, pool.name)))


def pools_for(node: Node, pools: tuple[PoolInfo, ...]) -> tuple[PoolInfo, ...]:
    """The pools that select the node, in the order of `pools` (by_age). The node belongs to the first one."""
    labels = node.metadata.labels
    return tuple(pool for pool in pools if pool.selects(labels))


def worker(node: Node, pool: PoolInfo) -> WorkerInfo:
    """The engine's view of the node as a worker of `pool`."""
    labels = node.metadata.labels
    allocatable = _amounts(node.status.allocatable)
    allocatable.setdefault(PODS, DEFAULT_PODS)
    return WorkerInfo(
        name=node.name,
        pool=pool.name,
        labels=_sorted(labels),
        tags=_sorted({**labels, **dict(pool.tags)}),
        allocatable=quantities(allocatable),
        capabilities=pool.capabilities,
        compliance=pool.compliance,
        region=labels.get(REGION_TOPOLOGY) or pool.region,
        zone=labels.get(ZONE_TOPOLOGY) or (pool.zones[0] if len(pool.zones) == 1 else ""),
        gpu=_gpu(labels, allocatable, pool.gpu),
        taints=tuple(
            Taint(taint.key, taint.value, taint.effect)
            for taint in node.spec.taints
            if taint.effect in BLOCKING_EFFECTS
        ),
        slots=pool.slots_per_worker,
        ready=node.ready,
        # A node that is being deleted takes no new pods either.
        cordoned=node.spec.unschedulable or node.metadata.deletion_timestamp is not None,
        strategy=pool.strategy,
        customers=pool.customers,
    )


def _gpu(labels: Mapping[str, str], allocatable: Mapping[str, int], pool: PoolGpuInfo | None) -> Gpu | None:
    """GPUs of a worker; None without any. The count is the one that the node reports, because the kubelet admits no
    more.

    A worker of a GPU pool whose device plugin isn't running yet is a GPU worker with 0 devices.
    """
    resource = _gpu_resource(allocatable, pool)
    if resource is None:
        return None
    model = pool.model if pool else ""
    memory = pool.memory if pool else 0
    if not model:
        model = next((labels[key] for key in GPU_MODEL_LABELS if labels.get(key)), "")
    if not memory and labels.get(GPU_MEMORY_LABEL, "").isdigit():
        memory = int(labels[GPU_MEMORY_LABEL]) * 2**20
    return Gpu(model=model, count=allocatable.get(resource, 0), memory=memory, resource=resource)


def _gpu_resource(allocatable: Mapping[str, int], pool: PoolGpuInfo | None) -> str | None:
    """The pool's GPU resource if the node offers it, else the GPU resource of which the node has most."""
    if pool is not None and pool.resource in allocatable:
        return pool.resource
    offered = sorted((-count, name) for name, count in allocatable.items() if name.endswith(GPU_SUFFIX))
    if offered:
        return offered[0][1]
    return pool.resource if pool is not None else None


# --- pods ------------------------------------------------------------------------------------------------------------


def pod_requests(pod: Pod) -> Quantities:
    """Capacity that the pod takes from its node, computed like kube-scheduler and the kubelet, and pods=1.

    Containers and sidecars (init containers with restartPolicy Always) add up; any other init container runs beside the
    sidecars started before it, and the larger of both sums counts. Pod-level requests replace the sums of their
    resources. The overhead is added last. https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
    """
    total: dict[str, int] = {}
    for container in pod.spec.containers:
        _add(total, _requested(container.resources))
    sidecars: dict[str, int] = {}
    starting: dict[str, int] = {}
    for container in pod.spec.init_containers:
        own = _requested(container.resources)
        if container.restart_policy == "Always":
            _add(total, own)
            _add(sidecars, own)
            peak = sidecars
        else:
            peak = dict(sidecars)
            _add(peak, own)
        for name, amount in peak.items():
            starting[name] = max(starting.get(name, 0), amount)
    for name, amount in starting.items():
        total[name] = max(total.get(name, 0), amount)
    if pod.spec.resources is not None:
        total.update(_requested(pod.spec.resources))
    _add(total, _amounts(pod.spec.overhead))
    total[PODS] = 1
    return quantities(total)


def _requested(resources: ContainerResources) -> dict[str, int]:
    """Requests of a container. A limit without a request is also the request, as the API server's defaulting has it."""
    return {**_amounts(resources.limits), **_amounts(resources.requests)}


def host_ports(pod: Pod) -> tuple[HostPort, ...]:
    """Ports that the pod takes on its node; with hostNetwork these are all container ports."""
    found: set[tuple[int, str, str]] = set()
    for container in (*pod.spec.containers, *_sidecars(pod)):
        for port in container.ports:
            number = port.host_port or (port.container_port if pod.spec.host_network else 0)
            if number:
                found.add((number, port.protocol, port.host_ip or ANY_ADDRESS))
    return tuple(HostPort(number, protocol, address) for number, protocol, address in sorted(found))


def _sidecars(pod: Pod) -> Iterable[PodContainer]:
    return (container for container in pod.spec.init_containers if container.restart_policy == "Always")


def pod_subject(pod: Pod) -> Subject | None:
    """Fields of a Niyanta pod that affinity terms match, from its labels and its annotation; None for foreign pods."""
    if not pod.workload_uid:
        return None
    labels = pod.metadata.labels
    return Subject(
        namespace=pod.namespace,
        customer=labels.get(CUSTOMER, ""),
        type=labels.get(TYPE, ""),
        labels=_sorted(workload_labels({WORKLOAD_LABELS: pod.metadata.annotations.workload_labels or "{}"})),
    )


def pod_charge(pod: Pod) -> Charge | None:
    """Capacity that the pod takes on its node; None before it is bound and after its containers have ended.

    A terminating pod still counts, because its containers run until it is gone.
    """
    if not pod.spec.node_name or pod.terminal:
        return None
    return Charge(
        key=pod.charge_key,
        worker=pod.spec.node_name,
        requests=pod_requests(pod),
        host_ports=host_ports(pod),
        subject=pod_subject(pod),
    )


# --- amounts ---------------------------------------------------------------------------------------------------------


def quantities(amounts: Mapping[str, int]) -> Quantities:
    """Amounts sorted by name, without zeros."""
    return tuple(sorted((name, min(amount, MOST_OF_A_RESOURCE)) for name, amount in amounts.items() if amount))


def _amounts(texts: Mapping[str, str]) -> dict[str, int]:
    """Amounts in base units. An amount that `base_units` refuses (such as a negative allocatable) counts as 0."""
    found = {}
    for name, text in texts.items():
        try:
            found[name] = min(base_units(name, text, name), MOST_OF_A_RESOURCE)
        except InvalidManifestError:
            found[name] = 0
    return found


def _add(total: dict[str, int], amounts: Mapping[str, int]) -> None:
    for name, amount in amounts.items():
        total[name] = total.get(name, 0) + amount


def _sorted(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))
