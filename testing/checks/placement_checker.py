"""An independent judge of placements: what the API server shows, held against the manifests that were applied.

Reads nodes and pods from the API server and nothing else; what was asked for and what the pools offer are the manifests
of the test itself. Shares no code with the operator on purpose: it is slow, per object, and meant to be read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property

from testing.checks.kubernetes_rules import amount, holds, host_ports, ports_collide, selected, taken_by, tolerated
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster

HOSTNAME = "kubernetes.io/hostname"
REGION = "topology.kubernetes.io/region"
ZONE = "topology.kubernetes.io/zone"


@dataclass(frozen=True)
class Worker:
    """A node and the pool that has it."""

    node: JSON
    pool: JSON

    @property
    def name(self) -> str:
        return str(self.node["metadata"]["name"])

    @cached_property
    def labels(self) -> dict[str, str]:
        return dict(self.node["metadata"].get("labels") or {})

    @property
    def offer(self) -> JSON:
        spec: JSON = self.pool["spec"]
        return spec

    @cached_property
    def tags(self) -> dict[str, str]:
        return {**self.labels, **self.offer.get("tags", {})}

    @cached_property
    def room(self) -> dict[str, Decimal]:
        return {name: amount(text) for name, text in self.node["status"]["allocatable"].items()}

    @property
    def region(self) -> str | None:
        return self.labels.get(REGION) or self.offer.get("region")

    @property
    def zone(self) -> str | None:
        zones = self.offer.get("zones") or []
        return self.labels.get(ZONE) or (zones[0] if len(zones) == 1 else None)

    @cached_property
    def gpu_resource(self) -> str | None:
        named = (self.offer.get("gpu") or {}).get("resource", "nvidia.com/gpu")
        if named in self.room:
            return str(named)
        return next((name for name in sorted(self.room) if name.endswith("/gpu")), None)

    @property
    def gpu_model(self) -> str | None:
        labels = self.labels
        own = labels.get("niyanta.io/gpu-model") or labels.get("nvidia.com/gpu.product")
        return (self.offer.get("gpu") or {}).get("model") or own

    @property
    def gpu_memory(self) -> Decimal:
        """Of one device, in bytes; feature discovery's label has MiB."""
        own = amount(self.labels.get("nvidia.com/gpu.memory", 0)) * 2**20
        return amount((self.offer.get("gpu") or {}).get("memory", 0)) or own

    @property
    def open(self) -> bool:
        """Takes new pods: Ready and not cordoned."""
        conditions = self.node["status"].get("conditions") or []
        ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
        return ready and not self.node["spec"].get("unschedulable")

    def domain(self, topology: str) -> str | None:
        return self.name if topology == HOSTNAME else self.labels.get(topology)


@dataclass(frozen=True)
class RequestedWorkload:
    """A Workload's manifest, read as its author means it."""

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
        """Devices for one pod; 0: it asks for none."""
        written = next((int(value) for name, value in taken_by(self.pod).items() if name.endswith("/gpu")), 0)
        gpu = self.hard.get("gpu")
        return int(gpu.get("count") or written or 1) if gpu is not None else written

    def needs(self, worker: Worker) -> dict[str, Decimal]:
        """What one pod takes of this worker."""
        need = taken_by(self.pod)
        if self.gpus and worker.gpu_resource:
            need[worker.gpu_resource] = Decimal(self.gpus)
        return need

    def refused_by(self, worker: Worker) -> str | None:
        """Why the worker is none for it, whatever runs there; None: it would do."""
        hard, offer = self.hard, worker.offer
        any_of = {
            "workerIds": worker.name,
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
        return self._refused_gpu(worker) or self._refused_template(worker)

    def _refused_gpu(self, worker: Worker) -> str | None:
        if not self.gpus:
            return None
        if worker.gpu_resource is None:
            return "it has no GPU"
        gpu = self.hard.get("gpu") or {}
        if gpu.get("models") and worker.gpu_model not in gpu["models"]:
            return f"GPU model {worker.gpu_model} is not of {gpu['models']}"
        if worker.gpu_memory < amount(gpu.get("minMemory", 0)):
            return f"GPU memory {worker.gpu_memory} is less than {gpu['minMemory']}"
        return None

    def _refused_template(self, worker: Worker) -> str | None:
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
    """A pod that has a node and has not ended."""

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
    """Nodes and pods as the API server had them, beside the manifests that were applied."""

    nodes: Sequence[JSON]
    pods: Sequence[JSON]
    workloads: Sequence[JSON]
    pools: Sequence[JSON]
    """Oldest first: the first that selects a node has it."""
    workers: dict[str, Worker] = field(init=False)
    asked: dict[tuple[str, str], RequestedWorkload] = field(init=False)
    live: list[BoundPod] = field(init=False)
    on: dict[str, list[BoundPod]] = field(init=False)

    def __post_init__(self) -> None:
        self.workers = {}
        for node in self.nodes:
            labels = node["metadata"].get("labels") or {}
            for pool in self.pools:
                if selected(pool["spec"]["nodeSelector"], labels):
                    self.workers[node["metadata"]["name"]] = Worker(node, pool)
                    break
        self.asked = {RequestedWorkload(manifest).key: RequestedWorkload(manifest) for manifest in self.workloads}
        self.live = [
            BoundPod(pod)
            for pod in self.pods
            if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]
        self.on = defaultdict(list)
        for pod in self.live:
            self.on[pod.node].append(pod)

    @cached_property
    def ours(self) -> list[tuple[BoundPod, RequestedWorkload, Worker]]:
        """BoundPod pods of the workloads asked about, on known workers."""
        found = []
        for pod in self.live:
            asked = self.asked.get(pod.owner) if pod.owner else None
            if asked is not None and pod.node in self.workers:
                found.append((pod, asked, self.workers[pod.node]))
        return found

    @cached_property
    def pods_of(self) -> dict[tuple[str, str], list[BoundPod]]:
        found: dict[tuple[str, str], list[BoundPod]] = defaultdict(list)
        for pod in self.live:
            if pod.owner is not None:
                found[pod.owner].append(pod)
        return found

    def free(self, worker: Worker) -> dict[str, Decimal]:
        left = dict(worker.room)
        for pod in self.on.get(worker.name, []):
            for name, value in taken_by(pod.pod["spec"]).items():
                left[name] = left.get(name, Decimal(0)) - value
        return left

    def slots_left(self, worker: Worker) -> int | None:
        slots = worker.offer.get("slotsPerWorker")
        return None if slots is None else slots - sum(1 for pod in self.on.get(worker.name, []) if pod.owner)


def observe(cluster: Cluster, workloads: Iterable[JSON], pools: Iterable[JSON]) -> ObservedCluster:
    """Looks at the cluster as it is now. Pods first: a pod seen may then lack its node, never the other way round."""
    pods = cluster.api.items("/api/v1/pods")
    return ObservedCluster(cluster.api.items("/api/v1/nodes"), pods, list(workloads), list(pools))


# Violations


def violations(seen: ObservedCluster) -> list[str]:
    """Every rule that what runs breaks, in words; empty: none."""
    return [*_capacity(seen), *_workers(seen), *_counts(seen), *_ports(seen), *_anti(seen), *_near(seen)]


def _capacity(seen: ObservedCluster) -> list[str]:
    found = []
    for worker in seen.workers.values():
        found += [f"{worker.name}: {-left} {name} too many" for name, left in seen.free(worker).items() if left < 0]
        slots = seen.slots_left(worker)
        if slots is not None and slots < 0:
            found.append(f"{worker.name}: {-slots} pods more than slots")
    return found


def _workers(seen: ObservedCluster) -> list[str]:
    strangers = (pod for pod in seen.live if pod.owner in seen.asked and pod.node not in seen.workers)
    found = [f"{pod.name} is on {pod.node}, which no pool selects" for pod in strangers]
    for pod, asked, worker in seen.ours:
        if why := asked.refused_by(worker):
            found.append(f"{pod.name} on {worker.name}: {why}")
        takes = taken_by(pod.pod["spec"])
        for name, value in asked.needs(worker).items():
            if takes.get(name, Decimal(0)) < value:
                found.append(f"{pod.name} takes {takes.get(name, 0)} {name}, asked for {value}")
    return found


def _counts(seen: ObservedCluster) -> list[str]:
    found = []
    for key, asked in seen.asked.items():
        pods, wanted = seen.pods_of.get(key, []), asked.spec.get("replicas", 1)
        indexes = Counter(pod.index for pod in pods)
        if twice := sorted(index for index, times in indexes.items() if times > 1):
            found.append(f"{'/'.join(key)}: indexes {twice} live more than once")
        if pods and len(pods) != wanted:
            found.append(f"{'/'.join(key)}: {len(pods)} of {wanted} pods, all or none was asked for")
    return found


def _ports(seen: ObservedCluster) -> list[str]:
    found = []
    for worker in seen.workers:
        pods = [(pod, host_ports(pod.pod["spec"])) for pod in seen.on.get(worker, [])]
        for number, (pod, ports) in enumerate(pods):
            for other, others in pods[:number]:
                if ports_collide(ports, others):
                    found.append(f"{pod.name} and {other.name} share a host port of {worker}")
    return found


def _means(
    term: JSON, carrier: RequestedWorkload, carrier_customer: str, pod: BoundPod, other: RequestedWorkload
) -> bool:
    """Whether the term of `carrier` speaks of the pod of `other`."""
    scope = term.get("scope", "Namespace")
    if scope == "Namespace" and carrier.key[0] != other.key[0]:
        return False
    if scope == "Customer" and carrier_customer != pod.customer:
        return False
    if term.get("types") and other.spec.get("type") not in term["types"]:
        return False
    if term.get("customers") and pod.customer not in term["customers"]:
        return False
    return selected(term.get("workloadSelector"), other.labels)


def _anti(seen: ObservedCluster) -> list[str]:
    found = []
    carriers = [entry for entry in seen.ours if entry[1].affinity.get("anti")]
    for pod, asked, worker in carriers:
        for term in asked.affinity["anti"]:
            topology = term.get("topologyKey", HOSTNAME)
            domain = worker.domain(topology)
            for other, other_asked, other_worker in seen.ours:
                if other.name == pod.name or domain is None or other_worker.domain(topology) != domain:
                    continue
                if _means(term, asked, pod.customer, other, other_asked):
                    found.append(f"{pod.name} keeps away from {other.name}, and both are in {topology}={domain}")
    return found


def _near(seen: ObservedCluster) -> list[str]:
    found = []
    for pod, asked, worker in seen.ours:
        for term in asked.hard.get("near", []):
            domain = worker.domain(term.get("topologyKey", HOSTNAME))
            others = (entry for entry in seen.ours if entry[0].name != pod.name)
            if domain is None or not any(_is_near(term, asked, entry, domain) for entry in others):
                found.append(f"{pod.name} on {worker.name} is near nobody that it asked for")
    return found


def _is_near(
    term: JSON, asked: RequestedWorkload, peer: tuple[BoundPod, RequestedWorkload, Worker], domain: str
) -> bool:
    pod, other, worker = peer
    same = worker.domain(term.get("topologyKey", HOSTNAME)) == domain
    return same and _means({**term, "scope": "Namespace"}, asked, pod.customer, pod, other)


# What waits, and need not


def needlessly_waiting(seen: ObservedCluster) -> list[str]:
    """Workloads of one pod without a pod that some worker has room for, with that worker. Anti and near terms aside."""
    found = []
    room = {name: (worker, seen.free(worker)) for name, worker in seen.workers.items() if worker.open}
    for key, asked in seen.asked.items():
        if seen.pods_of.get(key) or asked.spec.get("replicas", 1) != 1 or asked.spec.get("suspend"):
            continue
        for name, (worker, free) in room.items():
            enough = all(free.get(resource, Decimal(0)) >= need for resource, need in asked.needs(worker).items())
            slots = seen.slots_left(worker)
            if enough and (slots is None or slots > 0) and asked.refused_by(worker) is None:
                found.append(f"{'/'.join(key)} waits, and {name} could take it")
                break
    return found
