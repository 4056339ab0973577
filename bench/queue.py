"""Cost of cycles with many parked classes.

    python -m bench.queue [--workers 5000] [--classes 20000]

Each class has its own requirements, and its workload needs more than any worker has free; customers share the classes.
The workers are those of `bench.engine`, 70 % full. Seconds are those of one cycle, from the cluster's changes to the
applied plan, the median of several: `park` the whole time until all classes are parked, and `idle`, `pod_ends`,
`node_changes` and `workers_changed` (50 at once) with all classes parked. `repeated` and `different` are the workloads
of `bench.engine`, from the queue instead of a list.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from statistics import median
from typing import Any

from bench.engine import GIB, build, make_pending
from niyanta.engine.queue.plan import plan_queue
from niyanta.engine.queue.queue import Queue
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import Charge, PendingWorkload, Requirements, Subject

CUSTOMERS = 200
REPEATS = 7
CYCLE_SECONDS = 0.25


def too_large(number: int) -> PendingWorkload:
    """A workload of its own class that no worker has room for."""
    amounts = (("cpu", 90_000 + number % 5000), ("memory", 700 * GIB + number * 4096), ("pods", 1))
    subject = Subject(f"ns-{number % CUSTOMERS}", f"customer-{number % CUSTOMERS}")
    return PendingWorkload(
        f"{number:06}", 1, 1, subject, Requirements(amounts), queued_at=number, queue_class=f"class-{number}"
    )


def cycle(snapshot: Snapshot, queue: Queue, seconds: float | None = None) -> int:
    """Run one cycle; returns the number of classes that were left undecided."""
    end = None if seconds is None else time.perf_counter() + seconds
    plan = plan_queue(snapshot, queue, 0, stop=None if end is None else lambda: time.perf_counter() > end)
    queue.follow(plan)
    return plan.plan.undecided


def timed(snapshot: Snapshot, queue: Queue, change: Callable[[int], None]) -> float:
    """Median seconds of a cycle after a change."""
    found = []
    for number in range(REPEATS):
        change(number)
        started = time.perf_counter()
        cycle(snapshot, queue)
        found.append(time.perf_counter() - started)
    return round(median(found), 5)


def parked(workers: int, classes: int) -> dict[str, Any]:
    """Cycles with all classes parked."""
    snapshot, _ = build(workers)
    queue = Queue()
    for number in range(classes):
        queue.push(too_large(number))
    started, times = time.perf_counter(), []
    left = 1
    while left:
        begun = time.perf_counter()
        left = cycle(snapshot, queue, CYCLE_SECONDS)
        times.append(time.perf_counter() - begun)
    names = list(snapshot.workers)
    pods = {name: [charge for charge in snapshot.charges(name) if charge.subject is not None] for name in names[:50]}

    def ends(number: int) -> None:
        charge = next(charges for charges in pods.values() if len(charges) > number)[number]
        snapshot.release(charge.key)

    def changes(number: int) -> None:
        info = snapshot.worker(names[number])
        snapshot.upsert_worker(replace(info, ready=not info.ready))

    def many(number: int) -> None:
        for place in range(50):
            name = names[100 + place]
            snapshot.charge(Charge(f"more-{number}-{place}", name, (("cpu", 1), ("pods", 1))))
            snapshot.release(f"more-{number}-{place}")

    return {
        "classes": classes,
        "active_after_park": queue.counts()[0],
        "park_seconds": round(time.perf_counter() - started, 3),
        "longest_cycle_seconds": round(max(times), 3),
        "idle_seconds": timed(snapshot, queue, lambda _: None),
        "pod_ends_seconds": timed(snapshot, queue, ends),
        "node_changes_seconds": timed(snapshot, queue, changes),
        "workers_changed_seconds": timed(snapshot, queue, many),
    }


def dealt_with(workers: int, pending: int, classes: int | None) -> dict[str, int]:
    """Workloads per second that a cycle places or parks with their class, of the fastest of three equal cycles."""
    best: dict[str, int] = {}
    for _ in range(3):
        snapshot, _ = build(workers)
        queue = Queue()
        for workload in make_pending(Random(3), pending, classes):
            key = f"{workload.subject.namespace}/{id(workload.subject)}/{id(workload.requirements)}/{workload.replicas}"
            queue.push(replace(workload, queue_class=key))
        started = time.perf_counter()
        found = plan_queue(snapshot, queue, 0)
        rate = round(pending / (time.perf_counter() - started))
        if rate > best.get("per_second", 0):
            best = {"per_second": rate, "placed": len(found.plan.placements), "classes_parked": len(found.parks)}
    return best


def run(workers: int = 5000, classes: int = 20_000) -> dict[str, Any]:
    """Run all cases; returns figures that can be written as JSON."""
    return {
        "parked": parked(workers, classes),
        "different": dealt_with(workers, 10_000, None),
        "repeated": dealt_with(workers, 10_000, 20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=20_000)
    options = parser.parse_args()
    print(json.dumps(run(options.workers, options.classes), indent=2))


if __name__ == "__main__":
    main()
