"""A leader with a large REST backlog on a real control plane: cost of cycles and of being idle, memory, failover.

    python -m bench.scale [--rows 1000000] [--customers 200] [--classes 20000] [--workers 5000]

Every workload asks for more than any worker has, so that all classes are parked; then workers with room are added, and
the leader is killed beside a standby. `loaded` counts from the operator's start until the first row of each class is
in memory and all of them are parked. `idle_cpu` is the share of one core that the leader's process takes over a minute
with everything parked. `failover` counts from SIGKILL until the first placement of the next leader was committed.
Cycles and stalls are those of the first leader's metrics, as upper bounds of their buckets.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import psutil
import psycopg

from bench.backlog import fill
from bench.end_to_end import LABEL, histogram, metric, quantile
from niyanta.cluster.api.kinds import CUSTOMERS, WORKER_POOLS
from niyanta.store.postgres.migrate import migrate
from testing.cluster.nodes import NodeSpec
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import customer_manifest

TIMEOUT_SECONDS = 900.0
IDLE_SECONDS = 60.0
ROOMY_WORKERS = 20
FIRST_CPU = 4_000
"""Millicores that the smallest class asks for; the workers have less, the roomy ones more."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.2)


class Scale:
    """One environment with its backlog."""

    def __init__(self, environment: Environment, *, rows: int, customers: int, classes: int) -> None:
        self.environment = environment
        self.rows, self.customers, self.classes = rows, customers, classes

    def prepare(self, workers: int) -> None:
        """Make customers, namespaces, the pool, the workers and the backlog."""
        cluster = self.environment.cluster
        for number in range(self.customers):
            cluster.create_namespace(f"n{number}")
            cluster.api.post(CUSTOMERS.path(), customer_manifest(f"c{number}", f"n{number}"))
        group = f"/apis/niyanta.io/v1alpha1/namespaces/{self.environment.namespace}/workerpools"
        pool = {"apiVersion": "niyanta.io/v1alpha1", "kind": WORKER_POOLS.kind, "metadata": {"name": "bench"}}
        cluster.api.post(group, {**pool, "spec": {"nodeSelector": {"matchLabels": {LABEL: "true"}}}})
        self.add_workers("full", workers, cpu="2")
        migrate(self.environment.dsn)
        fill(self.environment.dsn, self.rows, customers=self.customers, classes=self.classes, cpu=FIRST_CPU)

    def add_workers(self, name: str, count: int, *, cpu: str) -> None:
        """Add workers of a size."""
        nodes = [NodeSpec(f"{name}-{n:04d}", cpu=cpu, memory="512Gi", labels={LABEL: "true"}) for n in range(count)]
        self.environment.cluster.create_nodes(nodes, timeout=TIMEOUT_SECONDS)

    def parked(self, operator: OperatorProcess) -> bool:
        """True when all classes are parked."""
        return metric(operator.http("/metrics")[1], 'niyanta_queue_classes{state="parked"}') >= self.classes

    def placements(self) -> int:
        """Placements that were committed."""
        with psycopg.connect(self.environment.dsn) as connection:
            row = connection.execute("SELECT count(*) FROM attempts").fetchone()
        return int(row[0]) if row else 0


def measure(scale: Scale) -> dict[str, Any]:
    """Start a leader, let it park everything, let it idle, and kill it."""
    started = time.monotonic()
    leader = scale.environment.start_operator("leader")
    until(lambda: scale.parked(leader), "all classes are parked")
    found: dict[str, Any] = {"loaded_seconds": round(time.monotonic() - started, 1)}
    process = psutil.Process(leader.pid)
    standby = scale.environment.start_operator("standby")
    time.sleep(10)  # what loading left to do, such as reasons to write
    before, at = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(IDLE_SECONDS)
    used = sum(process.cpu_times()[:2]) - before
    found["idle_cpu"] = round(used / (time.monotonic() - at), 4)
    found["resident_mib"] = round(process.memory_info().rss / 2**20)
    text = leader.http("/metrics")[1]
    cycles = histogram(text, "niyanta_cycle_seconds")
    stalls = histogram(text, "niyanta_loop_stall_seconds")
    found["cycles"] = {"count": round(max(cycles.values(), default=0)), "p99_seconds": quantile({}, cycles, 0.99)}
    found["loop_stalls"] = {"p99_seconds": quantile({}, stalls, 0.99), "longest_seconds": quantile({}, stalls, 1.0)}
    scale.add_workers("room", ROOMY_WORKERS, cpu="64")
    until(lambda: scale.placements() > 0, "the first placement")
    leader.sigkill()
    killed = time.monotonic()
    scale.add_workers("more", ROOMY_WORKERS, cpu="64")
    placed = scale.placements()
    until(lambda: scale.placements() > placed, "a placement by the next leader")
    found["failover_seconds"] = round(time.monotonic() - killed, 1)
    found["standby_mib"] = round(psutil.Process(standby.pid).memory_info().rss / 2**20)
    return found


def run(*, rows: int = 1_000_000, customers: int = 200, classes: int = 20_000, workers: int = 5_000) -> dict[str, Any]:
    """Run the measurement."""
    found: dict[str, Any] = {"rows": rows, "customers": customers, "classes": classes, "workers": workers}
    with Environment.start("bench-scale", durable=True, fast_node_loss=False) as environment:
        scale = Scale(environment, rows=rows, customers=customers, classes=classes)
        started = time.monotonic()
        scale.prepare(workers)
        found["prepared_seconds"] = round(time.monotonic() - started, 1)
        return found | measure(scale)


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 1_000_000), ("customers", 200), ("classes", 20_000), ("workers", 5_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    print(json.dumps(run(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
