"""Specs and statuses of Workloads as text for the demo's tables."""

from __future__ import annotations

from testing.cluster.api_client import JSON
from testing.scenarios.workloads import node_names


def workers_of(status: JSON) -> str:
    """`worker x3, other` of a status."""
    found: dict[str, int] = {}
    for worker in node_names(status):
        found[worker] = found.get(worker, 0) + 1
    return ", ".join(f"{name} x{count}" if count > 1 else name for name, count in found.items())


def score(status: JSON) -> str:
    return str(status["score"]) if status.get("score") is not None else ""


def where(status: JSON) -> str:
    """The workers of a placed workload; the reason of one that waits."""
    if status.get("phase") in ("Scheduled", "Running", "Succeeded"):
        return workers_of(status)
    return str(status.get("message") or status.get("reason") or "")


def outcome(status: JSON) -> str:
    phase = status.get("phase", "not accepted")
    if not status.get("assignments"):
        return f"{phase}: {status.get('message') or status.get('reason', '')}"
    tries = f", attempt {status['attempts']}" if status.get("attempts", 1) > 1 else ""
    pool = status["assignments"][0].get("poolName")
    return f"{phase} on {workers_of(status)} (pool {pool}, score {score(status)}{tries})"


def requirements(spec: JSON) -> str:
    """The parts of a spec that affect its placement."""
    affinity = spec.get("affinity", {})
    hard = affinity.get("hard", {})
    parts = [f"{spec['replicas']} pods together"] if spec.get("replicas", 1) > 1 else []
    parts += [f"capability {spec['type']}"] if spec.get("type") else []
    if gpu := spec.get("gpu"):
        parts.append(f"{gpu.get('count', 1)} GPU of {' or '.join(gpu.get('models', ['any model']))}")
    parts += [f"{name} {' and '.join(hard[name])}" for name in ("regions", "compliance") if hard.get(name)]
    parts += [_expression(item) for item in hard.get("workerExpressions", [])]
    parts += [f"in the {_domain(item)} of {_selected(item)}" for item in hard.get("near", [])]
    parts += [f"no {_domain(item)} with {_selected(item)}" for item in affinity.get("anti", [])]
    parts += [f"prefers ({item['weight']}): {_preference(item)}" for item in affinity.get("soft", [])]
    return "; ".join(parts) or "any worker with room"


def _expression(item: JSON) -> str:
    signs = {"Gt": ">", "Lt": "<", "In": "in", "NotIn": "not"}
    return f"{item['key']} {signs.get(item['operator'], item['operator'])} {', '.join(item.get('values', []))}"


def _domain(item: JSON) -> str:
    return str(item.get("topologyKey", "hostname")).rsplit("/", 1)[-1].replace("hostname", "worker")


def _selected(item: JSON) -> str:
    labels = item.get("workloadSelector", {}).get("matchLabels", {})
    return ", ".join([*item.get("types", []), *(f"{key}={value}" for key, value in labels.items())])


def _preference(item: JSON) -> str:
    gpu = item.get("gpu", {}).get("models", [])
    tags = [f"{key}={value}" for key, value in item.get("workerTags", {}).items()]
    return ", ".join([*item.get("regions", []), *(f"GPU {model}" for model in gpu), *tags])
