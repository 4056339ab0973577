"""The four flows, each as the stages that a tracer is to follow, and the objects that they are tried with."""

from __future__ import annotations

from typing import Any

from tools.flow_hops.tracer import Stage

NAMESPACE = "niyanta-system"
POOL = "pool"
NODE_CPU = 4

LOOP = "LeaderLoop._run_rounds"
ENGINE = "Cycle._plan"
"""The engine's thread, which the loop waits for."""

BESIDE = ("LeaderTimers.run", "RowChanges.follow", "BacklogLoader.run")
"""Parts of a round that its timers start, whatever a flow does."""

FLOWS: dict[str, tuple[str, tuple[Stage, ...]]] = {
    "a": (
        "watch event to pod",
        (
            Stage(("KopfWatcher._watch.<locals>.on_event",)),
            Stage((LOOP, ENGINE), until="PodCreator.submit", without=BESIDE),
            Stage(("PodCreator._create_pods",)),
        ),
    ),
    "b": (
        "POST to row",
        (
            Stage(
                ("InflightLimiter.__call__", "_submit", "Authenticator.principal", "SubmissionBatcher._run"),
            ),
        ),
    ),
    "c": (
        "pod phase to status",
        (
            Stage(("Reflector._read",), until="WorkQueue.put_workloads"),
            Stage((LOOP,), until="WorkloadStatusWriter.write", without=BESIDE),
            Stage(("WorkloadStatusWriter.run", "WorkloadStatusWriter._write")),
        ),
    ),
    "d": (
        "queue to workers_needed",
        (
            Stage(("StatsCollector.run", "StatsCollector._plan"), without=("StatsCollector._learn_empty_workers",)),
            Stage(("StatsReader.run",)),
            Stage(("_Serving._answer",)),
        ),
    ),
}


def node() -> dict[str, Any]:
    """A ready worker of the pool."""
    capacity = {"cpu": str(NODE_CPU), "memory": "16Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "worker", "labels": {"pool": POOL}},
        "spec": {},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def worker_pool() -> dict[str, Any]:
    """A pool that may grow."""
    return _resource("WorkerPool", POOL, {"nodeSelector": {"matchLabels": {"pool": POOL}}, "maxReplicas": 5})


def customer() -> dict[str, Any]:
    """A Customer with one namespace."""
    return _resource("Customer", "acme", {"tier": "Standard", "namespaces": ["team"]})


def workload(name: str) -> dict[str, Any]:
    """A Workload that needs most of a worker, and meets the restricted Pod Security standard."""
    safe = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    container = {
        "name": "main",
        "image": "busybox",
        "securityContext": safe,
        "resources": {"requests": {"cpu": str(NODE_CPU - 1)}},
    }
    found = _resource("Workload", name, {"template": {"spec": {"containers": [container]}}})
    found["metadata"]["namespace"] = "team"
    return found


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "niyanta.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
