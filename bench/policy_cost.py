"""Cost of the policy `niyanta-labels` for a kubelet's write of the status of a pod that isn't Niyanta's.

    python -m bench.policy_cost [--writes 4000]

Two equal pods are written in turn by PATCH pods/status. The policy's binding leaves out the namespace of one of them,
so the load of the machine affects both alike. The figures are quantiles of the latency, and how much the policy adds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import yaml

from testing.cluster.api_client import JSON, STRATEGIC_PATCH, ApiError
from testing.cluster.cluster import Cluster
from testing.environment import CHART, RELEASE
from testing.waiting import until

WITH, WITHOUT = "bench-with", "bench-without"
"""Namespaces; the binding leaves the second one out."""
POLICY = "niyanta-labels"
WARM_UP_WRITES = 300


def typical_pod() -> JSON:
    """A pod of an ordinary Deployment that no scheduler binds, so that nothing else writes its status."""
    labels = {"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "web", "pod-template-hash": "5d4f8c7b9"}
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    container = {
        "name": "web",
        "image": "registry.invalid/web:1.2.3",
        "env": [{"name": f"SETTING_{number}", "value": f"value {number}"} for number in range(12)],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": probe,
        "livenessProbe": probe,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    return {
        "metadata": {"name": "typical", "labels": labels, "annotations": annotations},
        "spec": {"schedulerName": "none", "containers": [container, {**container, "name": "proxy", "ports": []}]},
    }


def status_patch(number: int) -> JSON:
    """A status as a kubelet patches it; the number makes each one a change."""
    at = f"2030-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}Z"
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": at} for kind in kinds]
    containers = [
        {
            "name": name,
            "image": "registry.invalid/web:1.2.3",
            "imageID": f"registry.invalid/web@sha256:{'0' * 64}",
            "containerID": f"containerd://{'1' * 64}",
            "ready": True,
            "started": True,
            "restartCount": number,
            "state": {"running": {"startedAt": at}},
        }
        for name in ("web", "proxy")
    ]
    status = {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions, "containerStatuses": containers}
    return {"status": status}


def install(cluster: Cluster) -> None:
    """Install the chart's policy, with a binding for every namespace but one."""
    values = ("--set", "postgres.dsn=postgresql://x,image.repository=none,api.enabled=false")
    rendered = cluster.helm("template", RELEASE, str(CHART), "--namespace", "niyanta-system", *values)
    chosen = [item for item in yaml.safe_load_all(rendered) if item and item["metadata"]["name"] == POLICY]
    name = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [WITHOUT]}
    for item in chosen:
        if item["kind"].endswith("Binding"):
            item["spec"]["matchResources"] = {"namespaceSelector": {"matchExpressions": [name]}}
    cluster.apply(*chosen)


def is_enforced(cluster: Cluster, namespace: str) -> bool:
    forged: Any = {"metadata": {"annotations": {"niyanta.io/forged": "x"}}}
    try:
        cluster.api.request("PATCH", path(namespace), forged, query={"dryRun": "All"}, content_type=STRATEGIC_PATCH)
    except ApiError as error:
        if POLICY not in str(error):
            raise
        return True
    return False


def path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/typical/status"


def measure(cluster: Cluster, writes: int) -> dict[str, float]:
    """Quantiles of the latency without the policy, microseconds, and the percent that it adds to each."""
    for namespace in (WITH, WITHOUT):
        cluster.create_namespace(namespace, enabled=False)
        cluster.api.post(f"/api/v1/namespaces/{namespace}/pods", typical_pod())
    install(cluster)
    until(lambda: is_enforced(cluster, WITH), what="the policy is enforced")
    assert not is_enforced(cluster, WITHOUT)
    taken: dict[str, list[float]] = {WITH: [], WITHOUT: []}
    for number in range(WARM_UP_WRITES + writes):
        for namespace in (WITH, WITHOUT) if number % 2 else (WITHOUT, WITH):
            began = time.perf_counter()
            cluster.api.patch(path(namespace), status_patch(number), content_type=STRATEGIC_PATCH)
            if number >= WARM_UP_WRITES:
                taken[namespace].append((time.perf_counter() - began) * 1e6)
    found: dict[str, float] = {}
    for percent in (10, 25, 50):
        cost, base = (statistics.quantiles(taken[where], n=100)[percent - 1] for where in (WITH, WITHOUT))
        found[f"p{percent}_without_us"] = base
        found[f"p{percent}_added_percent"] = 100 * (cost / base - 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.policy_cost", description=__doc__)
    parser.add_argument("--writes", type=int, default=4000)
    options = parser.parse_args()
    with Cluster.create("policy-cost", fast_node_loss=False, durable=True) as cluster:
        for name, value in measure(cluster, options.writes).items():
            print(f"{name:<22} {value:10.2f}")


if __name__ == "__main__":
    main()
