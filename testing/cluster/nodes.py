"""Simulated nodes as data: their fields, and the Node object that makes kwok simulate the kubelet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FAKE = "kwok.x-k8s.io/node"
"""Annotation (value "fake") that makes kwok manage a node."""


@dataclass(frozen=True)
class NodeSpec:
    """A simulated node. cpu, memory and extra_resources are Kubernetes quantities; `gpus` counts `gpu_resource`."""

    name: str
    cpu: str = "8"
    memory: str = "32Gi"
    pods: int = 110
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    extra_resources: Mapping[str, str] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        resources = {"cpu": self.cpu, "memory": self.memory, "pods": str(self.pods), **self.extra_resources}
        if self.gpus:
            resources[self.gpu_resource] = str(self.gpus)
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            **self.labels,
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels, "annotations": {FAKE: "fake", **self.annotations}},
            "spec": {"taints": [dict(taint) for taint in self.taints]},
            "status": {"capacity": resources, "allocatable": resources},
        }


def ready_status(node: Mapping[str, Any]) -> str | None:
    """Status of the node's Ready condition: "True", "False" or "Unknown"; None without the condition."""
    for condition in node.get("status", {}).get("conditions", []):
        if condition["type"] == "Ready":
            return str(condition["status"])
    return None


def is_usable(node: Mapping[str, Any]) -> bool:
    """True when it is Ready, without the taints of new and unreachable nodes and of a cordon that has ended."""
    taints = {taint["key"] for taint in node.get("spec", {}).get("taints", [])}
    if "node.kubernetes.io/unschedulable" in taints and not node["spec"].get("unschedulable"):
        return False
    return ready_status(node) == "True" and not taints & {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    }


def nodes_of_pool(pool: Mapping[str, Any], count: int) -> list[NodeSpec]:
    """`count` nodes that the manifest of a WorkerPool selects, with its GPUs, region, and zones in turn."""
    name = str(pool["metadata"]["name"])
    spec = pool.get("spec", {})
    zones = spec.get("zones") or [""]
    region = spec.get("region", "")
    specs = []
    for number in range(count):
        topology = {
            "topology.kubernetes.io/region": region,
            "topology.kubernetes.io/zone": zones[number % len(zones)],
        }
        labels = {
            **{key: value for key, value in topology.items() if value},
            **spec.get("nodeSelector", {}).get("matchLabels", {}),
        }
        gpus = int(spec.get("gpu", {}).get("count", 0))
        cpu, memory = ("96", "768Gi") if gpus else ("16", "64Gi")
        specs.append(NodeSpec(f"{name}-{number}", cpu=cpu, memory=memory, gpus=gpus, labels=labels))
    return specs
