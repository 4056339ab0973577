"""Nodes and pods as the API server has them, read against the manifests of a test: the checker's view of a cluster.

`placement_checker` finds broken rules in it. Shares no code with the operator, on purpose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property

from testing.checks.kubernetes_rules import amount, holds, selected, taken_by, tolerated
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster

HOSTNAME = "kubernetes.io/hostname"
REGION = "topology.kubernetes.io/region"
ZONE = "topology.kubernetes.io/zone"


@dataclass(frozen=True)
class Worker:
    """A node and the WorkerPool that it belongs to."""

    node: JSON
    pool: JSON

    @property
    def name(self) -> str:
        return str(self.node["metadata"]["name"])

    @cached_property
    def labels(self) -> dict[str, str]:
        return dict(self.node["metadata"].get("labels") or {})

    @property
    def pool_spec(self) -> JSON:
        spec: JSON = self.pool["spec"]
        return spec

    @cached_property
    def tags(self) -> dict[str, str]:
        return {**self.labels, **self.pool_spec.get("tags", {})}

    @cached_property
    def allocatable(self) -> dict[str, Decimal]:
        return {name: amount(text) for name, text in self.node["status"]["allocatable"].items()}

    @property
    def region(self) -> str | None:
        return self.labels.get(REGION) or self.pool_spec.get("region")

    @property
    def zone(self) -> str | None:
        zones = self.pool_spec.get("zones") or []
        return self.labels.get(ZONE) or (zones[0] if len(zones) == 1 else None)

    @cached_property
    def gpu_resource(self) -> str | None:
        named = (self.pool_spec.get("gpu") or {}).get("resource", "nvidia.com/gpu")
        if named in self.allocatable:
            return str(named)
        return next((name for name in sorted(self.allocatable) if name.endswith("/gpu")), None)

    @property
    def gpu_model(self) -> str | None:
        labels = self.labels
        own = labels.get("niyanta.io/gpu-model") or labels.get("nvidia.com/gpu.product")
        return (self.pool_spec.get("gpu") or {}).get("model") or own

    @property
    def gpu_memory(self) -> Decimal:
        """Bytes of one device; the label of GPU feature discovery has MiB."""
        own = amount(self.labels.get("nvidia.com/gpu.memory", 0)) * 2**20
        return amount((self.pool_spec.get("gpu") or {}).get("memory", 0)) or own

    @property
    def schedulable(self) -> bool:
        """True when it takes new pods: Ready and not cordoned."""
        conditions = self.node["status"].get("conditions") or []
        ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
        return ready and not self.node["spec"].get("unschedulable")

    def domain(self, topology: str) -> str | None:
        return self.name if topology == HOSTNAME else self.labels.get(topology)


@dataclass(frozen=True)
class RequestedWorkload:
    """A Workload's manifest with the meaning of its fields."""

    manifest: JSON

    @property
    def key(self) -> tuple[str, str]:
        meta = self.manifest["metadata"]
        return meta["namespace"], meta["name"]

    @property
    def spec(self) -> JSON:
        spec: JSON = self.manifest["spec"]
        return spec

    @property
    def pod(self) -> JSON:
        pod: JSON = self.spec["template"]["spec"]
        return pod

    @property
    def affinity(self) -> JSON:
        return self.spec.get("affinity") or {}

    @property
    def hard(self) -> JSON:
        return self.affinity.get("hard") or {}

    @property
    def labels(self) -> dict[str, str]:
        return self.manifest["metadata"].get("labels") or {}

    @cached_property
    def gpus(self) -> int:
        """GPUs of one pod; 0 when it requests no GPU."""
        written = next((int(value) for name, value in taken_by(self.pod).items() if name.endswith("/gpu")), 0)
        gpu = self.spec.get("gpu")
        return int(gpu.get("count") or written or 1) if gpu is not None else written

    def needs(self, worker: Worker) -> dict[str, Decimal]:
        """Resources that one pod takes on this worker."""
        need = taken_by(self.pod)
        if self.gpus and worker.gpu_resource:
            need[worker.gpu_resource] = Decimal(self.gpus)
        return need

    def rejection_by(self, worker: Worker) -> str | None:
        """Reason that the worker is unsuitable whatever runs there; None when it is suitable."""
        hard, offer = self.hard, worker.pool_spec
        any_of = {
            "nodeNames": worker.name,
            "pools": worker.pool["metadata"]["name"],
            "regions": worker.region,
            "zones": worker.zone,
        }
        for name, value in any_of.items():
            if hard.get(name) and value not in hard[name]:
                return f"{name}: {value} is not of {hard[name]}"
        capabilities = {*hard.get("capabilities", []), *([self.spec["type"]] if self.spec.get("type") else [])}
        if lacking := capabilities - set(offer.get("capabilities", [])):
            return f"lacks capabilities {sorted(lacking)}"
        if lacking := set(hard.get("compliance", [])) - set(offer.get("compliance", [])):
            return f"lacks compliance {sorted(lacking)}"
        tagged = {"matchLabels": hard.get("workerTags"), "matchExpressions": hard.get("workerExpressions")}
        if not selected(tagged, worker.tags):
            return "its tags do not match"
        return self._gpu_rejection(worker) or self._template_rejection(worker)

    def _gpu_rejection(self, worker: Worker) -> str | None:
        if not self.gpus:
            return None
        if worker.gpu_resource is None:
            return "it has no GPU"
        gpu = self.spec.get("gpu") or {}
        if gpu.get("models") and worker.gpu_model not in gpu["models"]:
            return f"GPU model {worker.gpu_model} is not of {gpu['models']}"
        if worker.gpu_memory < amount(gpu.get("minMemory", 0)):
            return f"GPU memory {worker.gpu_memory} is less than {gpu['minMemory']}"
        return None

    def _template_rejection(self, worker: Worker) -> str | None:
        if not selected({"matchLabels": self.pod.get("nodeSelector")}, worker.labels):
            return "its labels do not match nodeSelector"
        affinity = (self.pod.get("affinity") or {}).get("nodeAffinity") or {}
        required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
        if required is not None and not any(
            all(holds(expression, worker.labels) for expression in term.get("matchExpressions") or [])
            and all(holds(one, {"metadata.name": worker.name}) for one in term.get("matchFields") or [])
            for term in required["nodeSelectorTerms"]
        ):
            return "its labels do not match nodeAffinity"
        for taint in worker.node["spec"].get("taints") or []:
            if taint["effect"] != "PreferNoSchedule" and not tolerated(taint, self.pod.get("tolerations") or []):
                return f"taint {taint['key']}"
        return None


@dataclass(frozen=True)
class BoundPod:
    """A pod that is bound to a node and has not ended."""

    pod: JSON

    @property
    def name(self) -> str:
        meta = self.pod["metadata"]
        return f"{meta['namespace']}/{meta['name']}"

    @property
    def node(self) -> str:
        return str(self.pod["spec"]["nodeName"])

    @cached_property
    def owner(self) -> tuple[str, str] | None:
        """Namespace and name of its Workload."""
        meta = self.pod["metadata"]
        owners = [owner["name"] for owner in meta.get("ownerReferences") or [] if owner["kind"] == "Workload"]
        return (meta["namespace"], owners[0]) if owners else None

    @property
    def customer(self) -> str:
        return str(self.pod["metadata"]["labels"].get("niyanta.io/customer", ""))

    @property
    def index(self) -> str:
        return str(self.pod["metadata"]["labels"].get("niyanta.io/index", ""))


@dataclass
class ObservedCluster:
    """Nodes and pods as the API server listed them, with the manifests that were applied."""

    nodes: Sequence[JSON]
    pods: Sequence[JSON]
    workloads: Sequence[JSON]
    pools: Sequence[JSON]
    """Oldest first: a node belongs to the first pool that selects it."""
    workers: dict[str, Worker] = field(init=False)
    requested: dict[tuple[str, str], RequestedWorkload] = field(init=False)
    bound: list[BoundPod] = field(init=False)
    pods_on: dict[str, list[BoundPod]] = field(init=False)

    def __post_init__(self) -> None:
        self.workers = {}
        for node in self.nodes:
            labels = node["metadata"].get("labels") or {}
            for pool in self.pools:
                if selected(pool["spec"]["nodeSelector"], labels):
                    self.workers[node["metadata"]["name"]] = Worker(node, pool)
                    break
        self.requested = {RequestedWorkload(manifest).key: RequestedWorkload(manifest) for manifest in self.workloads}
        self.bound = [
            BoundPod(pod)
            for pod in self.pods
            if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]
        self.pods_on = defaultdict(list)
        for pod in self.bound:
            self.pods_on[pod.node].append(pod)

    @cached_property
    def placed(self) -> list[tuple[BoundPod, RequestedWorkload, Worker]]:
        """Bound pods of the requested workloads on workers of the pools."""
        found = []
        for pod in self.bound:
            workload = self.requested.get(pod.owner) if pod.owner else None
            if workload is not None and pod.node in self.workers:
                found.append((pod, workload, self.workers[pod.node]))
        return found

    @cached_property
    def pods_of(self) -> dict[tuple[str, str], list[BoundPod]]:
        found: dict[tuple[str, str], list[BoundPod]] = defaultdict(list)
        for pod in self.bound:
            if pod.owner is not None:
                found[pod.owner].append(pod)
        return found

    def free(self, worker: Worker) -> dict[str, Decimal]:
        """Allocatable resources without the requests of its pods; negative where it is overcommitted."""
        left = dict(worker.allocatable)
        for pod in self.pods_on.get(worker.name, []):
            for name, value in taken_by(pod.pod["spec"]).items():
                left[name] = left.get(name, Decimal(0)) - value
        return left

    def slots_left(self, worker: Worker) -> int | None:
        """Free slots; None when the pool has no slotsPerWorker."""
        slots = worker.pool_spec.get("slotsPerWorker")
        return None if slots is None else slots - sum(1 for pod in self.pods_on.get(worker.name, []) if pod.owner)


def observe(cluster: Cluster, workloads: Iterable[JSON], pools: Iterable[JSON]) -> ObservedCluster:
    """Lists pods and nodes now. Pods first, so that every pod's node was created before the nodes are listed."""
    pods = cluster.api.items("/api/v1/pods")
    return ObservedCluster(cluster.api.items("/api/v1/nodes"), pods, list(workloads), list(pools))
