"""Short ways to make the Kubernetes objects that fakes keep."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from niyanta.cluster.api.objects import Node, NodeMetadata, NodeSpec, NodeStatus, NodeTaint, StatusCondition
from niyanta.resources.labels import API_VERSION
from niyanta.resources.models.customer import Customer


def node(
    name: str,
    *,
    cpu: str = "4",
    ready: bool = True,
    cordoned: bool = False,
    taints: tuple[NodeTaint, ...] = (),
    labels: Mapping[str, str] | None = None,
    allocatable: Mapping[str, str] | None = None,
) -> Node:
    """A node with `cpu`, 16Gi of memory and room for 110 pods, or with exactly `allocatable`."""
    return Node(
        metadata=NodeMetadata(name=name, uid=str(uuid.uuid4()), labels=dict(labels or {})),
        spec=NodeSpec(taints=taints, unschedulable=cordoned),
        status=NodeStatus(
            allocatable=dict(allocatable or {"cpu": cpu, "memory": "16Gi", "pods": "110"}),
            conditions=(StatusCondition("Ready", "True" if ready else "Unknown"),),
        ),
    )


def customer(name: str, *namespaces: str, **spec: Any) -> Customer:
    """A Customer that may use `namespaces` ("*": all)."""
    body = {"tier": "Standard", "namespaces": list(namespaces), **spec}
    return Customer.model_validate(
        {"apiVersion": API_VERSION, "kind": "Customer", "metadata": {"name": name}, "spec": body}
    )


def workload(name: str, *, namespace: str = "team", cpu: str | None = "1", **spec: Any) -> dict[str, Any]:
    """A Workload object as the API server stores it, with one container that requests `cpu` (None: nothing)."""
    container: dict[str, Any] = {"name": "main", "image": "busybox"}
    if cpu is not None:
        container["resources"] = {"requests": {"cpu": cpu}}
    return {
        "apiVersion": API_VERSION,
        "kind": "Workload",
        "metadata": {"name": name, "namespace": namespace, "uid": str(uuid.uuid4()), "generation": 1},
        "spec": {"template": {"spec": {"containers": [container]}}, **spec},
    }


def restricted(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec of a Workload whose containers meet the restricted Pod Security standard, as REST submissions must."""
    context = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod = spec["template"]["spec"]
    containers = [{**container, "securityContext": context} for container in pod["containers"]]
    return {**spec, "template": {**spec["template"], "spec": {**pod, "containers": containers}}}
