"""Time until submitted Workloads run, on a real control plane with simulated nodes, beside as many bare pods.

Workloads are created through the API while the operator is at work, with one pod each, and bare pods for kube-scheduler
afterwards, in the same way. Seconds count from the first create until all were created, until all pods were bound and
Running, and, for Workloads, until all statuses say Running; `halfway` is the time at which half of them did.
`status_delays` counts the statuses that were written within so many seconds of the change of their row.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench.end_to_end import LABEL, bare_pod, cpu_seconds, create_all, histogram, metric, workload
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.connection import connect
from niyanta.cluster.api.kinds import CUSTOMERS, PODS, WORKER_POOLS, WORKLOADS
from niyanta.cluster.api.objects import Object, Pod
from niyanta.cluster.watch.object_store import ObjectChange
from niyanta.cluster.watch.reflector import Reflector
from niyanta.settings import Settings
from testing.cluster.nodes import NodeSpec
from testing.environment import Environment
from testing.scenarios.workloads import customer_manifest

TIMEOUT_SECONDS = 1_200.0
"""Time limit of one half; after it the figures cover what was reached."""

SETTLED_SECONDS = 5.0
"""Pause before each half."""


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""


class WorkloadPhase(Object, frozen=True):
    """A Workload with the phase in its status."""

    status: _Status = _Status()


class Milestones:
    """Records when each object of a namespace is first seen in a state."""

    def __init__(self, settings: Settings) -> None:
        self.seen: dict[tuple[str, str], dict[str, float]] = {}
        """(namespace, state) -> UID -> monotonic seconds."""
        self.written: dict[tuple[str, str], int] = {}
        """(namespace, phase) -> number of Workloads that were seen in it."""
        self.reflectors: list[Reflector[Any]] = [
            Reflector(connect(settings), PODS, Pod, self._pods),
            Reflector(connect(settings), WORKLOADS, WorkloadPhase, self._workloads),
        ]

    def _pods(self, changes: list[ObjectChange[Pod]]) -> None:
        for change in changes:
            pod = change.new
            if pod is not None and pod.spec.node_name:
                self._saw(pod.namespace, "bound", pod.uid)
                if pod.status.phase == "Running":
                    self._saw(pod.namespace, "running", pod.uid)

    def _workloads(self, changes: list[ObjectChange[WorkloadPhase]]) -> None:
        for change in changes:
            found = change.new
            if found is None:
                continue
            before = change.old.status.phase if change.old is not None else ""
            if found.status.phase and found.status.phase != before:
                key = (found.namespace, found.status.phase)
                self.written[key] = self.written.get(key, 0) + 1
            if found.status.phase == "Running":
                self._saw(found.namespace, "shown", found.uid)

    def _saw(self, namespace: str, state: str, uid: str) -> None:
        self.seen.setdefault((namespace, state), {}).setdefault(uid, time.monotonic())

    async def reached(self, namespace: str, states: tuple[str, ...], count: int, *, start: float) -> dict[str, Any]:
        """Wait until `count` objects were seen in each state; returns the seconds from `start` (monotonic)."""
        while time.monotonic() - start < TIMEOUT_SECONDS:
            if all(len(self.seen.get((namespace, state), {})) >= count for state in states):
                break
            await asyncio.sleep(0.1)
        figures: dict[str, Any] = {}
        for state in states:
            times = sorted(self.seen.get((namespace, state), {}).values())
            figures[state] = {
                "count": len(times),
                "halfway": round(times[len(times) // 2] - start, 1) if times else None,
                "all": round(times[-1] - start, 1) if times else None,
            }
        return figures


async def measure(environment: Environment, client: ApiClient, milestones: Milestones, count: int) -> Mapping[str, Any]:
    """Submit Workloads, then as many bare pods."""
    await asyncio.sleep(SETTLED_SECONDS)
    operator = environment.operators[-1]
    before = (await asyncio.to_thread(operator.http, "/metrics"))[1]
    cpu = cpu_seconds(environment)
    start = time.monotonic()
    await create_all(client, WORKLOADS, "bench-workloads", workload, count)
    created = time.monotonic() - start
    workloads = await milestones.reached("bench-workloads", ("bound", "running", "shown"), count, start=start)
    used = cpu_seconds(environment)
    text = (await asyncio.to_thread(operator.http, "/metrics"))[1]
    workloads["created"] = round(created, 1)
    written = "niyanta_status_patches_total"
    workloads["status_writes"] = round(metric(text, written) - metric(before, written))
    delays, earlier = (histogram(page, "niyanta_status_delay_seconds") for page in (text, before))
    workloads["status_delays"] = {str(bound): round(delays[bound] - earlier.get(bound, 0.0)) for bound in delays}
    workloads["phases_shown"] = {phase: seen for (_, phase), seen in sorted(milestones.written.items())}
    workloads["cpu_seconds"] = {name: round(used[name] - cpu.get(name, 0.0), 1) for name in sorted(used)}
    await asyncio.sleep(SETTLED_SECONDS)
    start = time.monotonic()
    await create_all(client, PODS, "bench-pods", bare_pod, count)
    created = time.monotonic() - start
    pods = await milestones.reached("bench-pods", ("bound", "running"), count, start=start)
    pods["created"] = round(created, 1)
    return {"workloads": workloads, "bare_pods": pods}


async def run_async(workers: int, count: int) -> dict[str, Any]:
    environment = await asyncio.to_thread(lambda: Environment.start("ramp", operators=1, fast_node_loss=False))
    try:
        cluster = environment.cluster
        for name in ("bench-workloads", "bench-pods"):
            await asyncio.to_thread(cluster.create_namespace, name)
        await asyncio.to_thread(cluster.api.post, CUSTOMERS.path(), customer_manifest("bench", "bench-workloads"))
        nodes = [NodeSpec(f"bench-{n:04d}", cpu="32", memory="128Gi", labels={LABEL: "true"}) for n in range(workers)]
        await asyncio.to_thread(lambda: cluster.create_nodes(nodes, timeout=600))
        settings = Settings(kubeconfig=str(cluster.kubeconfig), connections=48, request_timeout=60.0)
        pool = {
            "apiVersion": "niyanta.io/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": "bench"},
            "spec": {"nodeSelector": {"matchLabels": {LABEL: "true"}}},
        }
        milestones = Milestones(settings)
        async with ApiClient(connect(settings), settings) as client:
            await client.create(WORKER_POOLS, pool, namespace=environment.namespace)
            watching = [asyncio.create_task(reflector.run()) for reflector in milestones.reflectors]
            for reflector in milestones.reflectors:
                await reflector.synced.wait()
            results = await measure(environment, client, milestones, count)
            for task in watching:
                task.cancel()
        return {"workers": workers, "submitted": count, **results}
    finally:
        await asyncio.to_thread(environment.stop)


def run(workers: int = 500, count: int = 10_000) -> dict[str, Any]:
    """Run both halves in an environment of its own, which is removed afterwards."""
    return asyncio.run(run_async(workers, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(run(options.workers, options.count), indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
