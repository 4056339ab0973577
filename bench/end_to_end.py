"""Time from queued to bound on a real control plane: Workloads by Niyanta, bare pods by kube-scheduler, and Jobs.

The same client creates all three with the same number of connections, on the same 1,000 simulated workers. A rate is
objects / (last pod bound - start). For Workloads the start is the moment their WorkerPool appears: by then all of them
wait in the queue, and Niyanta creates the pods within the measured time. For pods and Jobs it is the first create.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.connection import connect
from niyanta.cluster.api.kinds import PODS, WORKER_POOLS, WORKLOADS, ResourceKind
from niyanta.cluster.api.objects import Pod
from niyanta.cluster.watch.object_store import ObjectChange
from niyanta.cluster.watch.reflector import Reflector
from niyanta.settings import Settings
from testing.cluster.nodes import NodeSpec
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.placement import CUSTOMERS
from testing.scenarios.workloads import customer_manifest

JOBS = ResourceKind("batch", "v1", "jobs", "Job")
LABEL = "bench.niyanta.io/worker"
TIMEOUT_SECONDS = 300.0
"""Time limit of one measurement; after it the rate covers the pods bound so far."""

RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class Watcher:
    """Watches the API server and records when it first sees each pod bound, by namespace."""

    def __init__(self, settings: Settings) -> None:
        self.bound: dict[str, dict[str, float]] = {}
        self.reflector = Reflector(connect(settings), PODS, Pod, self._changes)

    def _changes(self, changes: list[ObjectChange[Pod]]) -> None:
        now = time.monotonic()
        for change in changes:
            pod = change.new
            if pod is not None and pod.spec.node_name:
                self.bound.setdefault(pod.namespace, {}).setdefault(pod.uid, now)

    async def until(self, namespace: str, count: int, *, start: float) -> dict[str, Any]:
        """Wait for `count` bound pods; returns the figures relative to `start` (monotonic seconds)."""
        while len(self.bound.get(namespace, {})) < count and time.monotonic() - start < TIMEOUT_SECONDS:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        seen = sorted(self.bound.get(namespace, {}).values())
        if not seen:
            return {"count": 0, "seconds": TIMEOUT_SECONDS, "per_second": 0.0}
        seconds = seen[-1] - start
        first = seen[0] - start
        return {
            "count": len(seen),
            "seconds": round(seconds, 2),
            "first_after": round(first, 2),
            "per_second": round(len(seen) / seconds, 1),
        }


def pod_spec() -> dict[str, Any]:
    return {
        "containers": [
            {
                "name": "main",
                "image": "busybox",
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                "securityContext": RESTRICTED,
            }
        ],
        "restartPolicy": "Never",
        "nodeSelector": {LABEL: "true"},
    }


def bare_pod(number: int) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": pod_spec()}


def job(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"job-{number}"},
        "spec": {"template": {"spec": pod_spec()}},
    }


def workload(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": f"work-{number}"},
        "spec": {"template": {"spec": pod_spec()}},
    }


async def create_all(
    client: ApiClient, kind: ResourceKind, namespace: str, make: Callable[[int], Mapping[str, Any]], count: int
) -> None:
    """Create `count` objects over all connections of the client."""
    numbers: Iterable[int] = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await client.create(kind, make(number), namespace=namespace)

    await asyncio.gather(*(worker() for _ in range(48)))


async def wait_pending(environment: Environment, count: int) -> None:
    """Wait until the queue holds `count` workloads. Raises TimeoutError."""
    operator = environment.operators[-1]
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        status, text = await asyncio.to_thread(operator.http, "/metrics")
        if status == 200 and metric(text, "niyanta_queue_depth") >= count:
            return
        await asyncio.sleep(0.5)
    raise TimeoutError("the Workloads were not all queued")


def metric(text: str, name: str) -> float:
    """Value of a sample without labels; 0 when absent."""
    found = re.search(rf"^{re.escape(name)} ([0-9.e+-]+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def histogram(text: str, name: str) -> dict[float, float]:
    """Upper bound -> cumulative count of an unlabelled histogram."""
    found = re.findall(rf'^{re.escape(name)}_bucket{{le="([^"]+)"}} ([0-9.e+-]+)$', text, re.MULTILINE)
    return {float(bound): float(count) for bound, count in found}


def quantile(before: Mapping[float, float], after: Mapping[float, float], q: float) -> float:
    """Upper bound of the bucket with the q-quantile of the observations between two scrapes."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    total = max(counts.values(), default=0.0)
    return next((bound for bound, count in counts.items() if total and count >= q * total), 0.0)


def cpu_seconds(environment: Environment) -> dict[str, float]:
    """CPU seconds used so far by each program of the environment and by this client."""
    used: dict[str, float] = {}
    directory, operators = str(environment.run.path), {process.pid for process in environment.operators}
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        with contextlib.suppress(psutil.Error):
            if process.pid in operators:
                used["operator"] = _cpu(process)
            elif process.pid == os.getpid():
                used["client"] = _cpu(process)
            elif directory in " ".join(process.info["cmdline"] or ()):
                family = [process, *process.children(recursive=True)]
                used[process.info["name"]] = used.get(process.info["name"], 0.0) + sum(map(_cpu, family))
    return used


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def phases(before: str, after: str) -> dict[str, float]:
    """Seconds that the leader's loop spent in each phase between two scrapes."""
    pattern = re.compile(r'^niyanta_cycle_phase_seconds_sum{phase="(\w+)"} ([0-9.e+-]+)$', re.MULTILINE)
    then = dict(pattern.findall(before))
    return {name: round(float(total) - float(then.get(name, 0)), 2) for name, total in pattern.findall(after)}


async def measure_workloads(
    environment: Environment, client: ApiClient, watcher: Watcher, count: int
) -> dict[str, Any]:
    """Queue `count` Workloads while no pool can take them, then create the pool."""
    operator = environment.operators[-1]
    applied_from = time.monotonic()
    await create_all(client, WORKLOADS, "bench-workloads", workload, count)
    await wait_pending(environment, count)
    queued_after = time.monotonic() - applied_from
    before = await _metrics(operator)
    cpu_before = cpu_seconds(environment)
    pool = {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "bench"},
        "spec": {"nodeSelector": {"matchLabels": {LABEL: "true"}}},
    }
    start = time.monotonic()
    await client.create(WORKER_POOLS, pool, namespace=environment.namespace)
    result = await watcher.until("bench-workloads", count, start=start)
    cpu_after = cpu_seconds(environment)
    after = await _metrics(operator)
    result["cpu_seconds"] = {name: round(cpu_after[name] - cpu_before.get(name, 0.0), 2) for name in sorted(cpu_after)}
    result["leader_loop_seconds"] = phases(before, after)
    stalls = (histogram(before, "niyanta_loop_stall_seconds"), histogram(after, "niyanta_loop_stall_seconds"))
    result["queued_per_second"] = round(count / queued_after, 1)
    result["loop_stall_p50"] = quantile(*stalls, 0.5)
    result["loop_stall_p99"] = quantile(*stalls, 0.99)
    result["loop_stall_max"] = quantile(*stalls, 1.0)
    return result


async def _metrics(operator: OperatorProcess) -> str:
    return (await asyncio.to_thread(operator.http, "/metrics"))[1]


async def run_async(workers: int, count: int, jobs: int) -> dict[str, Any]:
    environment = await asyncio.to_thread(lambda: Environment.start("bench", operators=1, fast_node_loss=False))
    try:
        cluster = environment.cluster
        for name in ("bench-workloads", "bench-pods", "bench-jobs"):
            await asyncio.to_thread(cluster.create_namespace, name)
        await asyncio.to_thread(cluster.api.post, CUSTOMERS, customer_manifest("bench", "bench-workloads"))
        nodes = [NodeSpec(f"bench-{n:04d}", cpu="32", memory="128Gi", labels={LABEL: "true"}) for n in range(workers)]
        await asyncio.to_thread(lambda: cluster.create_nodes(nodes, timeout=600))
        settings = Settings(kubeconfig=str(cluster.kubeconfig), connections=48, request_timeout=30.0)
        watcher = Watcher(settings)
        results: dict[str, Any] = {"workers": workers}
        async with ApiClient(connect(settings), settings) as client:
            watching = asyncio.create_task(watcher.reflector.run())
            await watcher.reflector.synced.wait()
            results["workloads"] = await measure_workloads(environment, client, watcher, count)
            start = time.monotonic()
            await create_all(client, PODS, "bench-pods", bare_pod, count)
            results["bare_pods"] = await watcher.until("bench-pods", count, start=start)
            start = time.monotonic()
            await create_all(client, JOBS, "bench-jobs", job, jobs)
            results["jobs"] = await watcher.until("bench-jobs", jobs, start=start)
            watching.cancel()
        return results
    finally:
        await asyncio.to_thread(environment.stop)


def run(workers: int = 1000, count: int = 2000, jobs: int = 1000) -> dict[str, Any]:
    """Run the whole comparison in an environment of its own, which is removed afterwards."""
    return asyncio.run(run_async(workers, count, jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(run(options.workers, options.count, options.jobs), indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
