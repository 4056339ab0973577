"""Cost of the Workload CRD's schema and rules at the API server, for creates and for writes of the status.

    python -m bench.admission_cost [--rounds 40] [--size 50]

Copies of the CRD in groups of their own take the same requests in turn, one round each, so that the load of the machine
affects all alike: as shipped; without the rules (x-kubernetes-validations) over updates, over the template, or both;
without any rules; and without rules and with a template of any fields. Statuses are written by server-side apply, as
the operator does. The figures are the median of the latency, and the API server's CPU time, per request in
milliseconds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from niyanta.resources.models.base import PRESERVE, VALIDATIONS
from niyanta.resources.schema.crds import KINDS, definition
from testing.cluster.api_client import APPLY_PATCH, JSON
from testing.cluster.cluster import Cluster

WARM_UP_ROUNDS = 3
Figures = dict[str, list[float]]


def without_rules(schema: Any) -> Any:
    """A copy of a schema without rules."""
    if isinstance(schema, dict):
        return {key: without_rules(part) for key, part in schema.items() if key != VALIDATIONS}
    return [without_rules(part) for part in schema] if isinstance(schema, list) else schema


def spec_of(crd: JSON) -> JSON:
    """The schema of a CRD's spec."""
    found: JSON = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def variants() -> dict[str, JSON]:
    """Group -> CRD."""
    shipped = definition(KINDS[0])
    free, loose, opened = copy.deepcopy(shipped), copy.deepcopy(shipped), without_rules(shipped)
    del spec_of(free)[VALIDATIONS]
    spec_of(loose)["properties"]["template"] = without_rules(spec_of(loose)["properties"]["template"])
    both = copy.deepcopy(loose)
    del spec_of(both)[VALIDATIONS]
    spec_of(opened)["properties"]["template"] = {"type": "object", PRESERVE: True}
    made = {}
    for name, crd in (
        ("shipped", shipped),
        ("without-update-rules", free),
        ("without-template-rules", loose),
        ("without-both", both),
        ("without-rules", without_rules(shipped)),
        ("open-template", opened),
    ):
        group = f"{name}.bench.invalid"
        made[group] = copy.deepcopy(crd)
        made[group]["metadata"]["name"] = f"workloads.{group}"
        made[group]["spec"]["group"] = group
        made[group]["spec"]["names"]["shortNames"] = []
        made[group]["spec"]["names"]["categories"] = []
    return made


def workload(group: str, name: str) -> JSON:
    """A Workload of ordinary size."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    container = {
        "name": "main",
        "image": "registry.invalid/train:1.2.3",
        "command": ["python", "-m", "train"],
        "args": [f"--option-{number}=value" for number in range(8)],
        "env": [{"name": f"SETTING_{number}", "value": f"value {number}"} for number in range(12)],
        "livenessProbe": probe,
        "resources": {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "16Gi"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "containers": [container],
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "10Gi"}}],
    }
    return {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name},
        "spec": {"type": "train", "replicas": 2, "template": {"metadata": {"labels": {"app": "train"}}, "spec": spec}},
    }


def status(group: str, name: str, number: int) -> JSON:
    at = f"2030-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}Z"
    conditions = [
        {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": at}
        for kind in ("Accepted", "Scheduled", "Running")
    ]
    assigned = [
        {"index": index, "nodeName": f"node-{index}", "poolName": "gpu", "podName": f"{name}-1-{index}"}
        for index in range(2)
    ]
    found: JSON = {"phase": "Running", "customer": "acme", "assignments": assigned, "conditions": conditions}
    found["attempts"] = number
    return {"apiVersion": f"{group}/v1alpha1", "kind": "Workload", "metadata": {"name": name}, "status": found}


def measure(cluster: Cluster, rounds: int, size: int) -> dict[str, dict[str, float]]:
    """`<group> <request>` -> figures."""
    taken: dict[str, Figures] = defaultdict(lambda: {"latency": [], "cpu": []})

    @contextmanager
    def timed(key: str, kept: bool) -> Iterator[Callable[[Callable[[], object]], None]]:
        latencies: list[float] = []

        def one(send: Callable[[], object]) -> None:
            began = time.perf_counter()
            send()
            latencies.append(1000 * (time.perf_counter() - began))

        before = sum(cluster.api_server().cpu_times()[:2])
        yield one
        spent = 1000 * (sum(cluster.api_server().cpu_times()[:2]) - before) / size
        if kept:
            taken[key]["latency"] += latencies
            taken[key]["cpu"].append(spent)

    def one_round(group: str, number: int) -> None:
        path, kept = f"/apis/{group}/v1alpha1/namespaces/default/workloads", number >= WARM_UP_ROUNDS
        names = [f"job-{number}-{index}" for index in range(size)]
        with timed(f"{group} create", kept) as one:
            for name in names:
                one(lambda name=name: cluster.api.post(path, workload(group, name)))  # type: ignore[misc]
        with timed(f"{group} status", kept) as one:
            for name in names:
                one(lambda name=name: write_status(cluster, f"{path}/{name}/status", status(group, name, number)))  # type: ignore[misc]

    groups = list(variants())
    for number in range(WARM_UP_ROUNDS + rounds):
        for shift in range(len(groups)):
            one_round(groups[(number + shift) % len(groups)], number)
    return {
        key: {"median_ms": statistics.median(found["latency"]), "cpu_ms": statistics.mean(found["cpu"])}
        for key, found in sorted(taken.items())
    }


def write_status(cluster: Cluster, path: str, body: JSON) -> JSON:
    query = {"fieldManager": "niyanta", "force": "true"}
    return cluster.api.request("PATCH", path, body, query=query, content_type=APPLY_PATCH)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.admission_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--size", type=int, default=50, help="requests of a round")
    options = parser.parse_args()
    with Cluster.create("admission-cost", fast_node_loss=False, durable=True) as cluster:
        for crd in variants().values():
            cluster.apply(crd)
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        for name, figures in measure(cluster, options.rounds, options.size).items():
            print(f"{name:<40} " + "  ".join(f"{key} {value:6.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
