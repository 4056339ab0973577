"""Speed and memory of the engine on a large, busy cluster.

    python -m bench.engine [--workers 5000] [--pending 10000] [--profile]

There are two cases, both on workers that are 70 % full: in `different` each workload has its own requirements; in
`repeated` 20 sets of requirements share the queue. Of the sets, 30 % have hostname anti-affinity, 10 % zone
anti-affinity and 20 % soft terms; 5 % of the workloads are groups of 4-8 pods, and about a third request GPUs. All
numbers are for one core, from pending workloads to plan, and include the creation of the snapshot's overlay. Peak
memory is that of a new process with 100,000 pending workloads.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    HOSTNAME_TOPOLOGY,
    REGION_TOPOLOGY,
    ZONE_TOPOLOGY,
    Charge,
    Expression,
    Gpu,
    Matcher,
    Op,
    PeerTerm,
    PendingWorkload,
    Plan,
    Requirements,
    Scope,
    Selector,
    SoftTerm,
    Subject,
    Taint,
    Toleration,
    WorkerInfo,
)

GIB = 1 << 30
REGIONS = ("eu-west", "eu-central", "us-east", "us-west")
ZONES = {region: tuple(f"{region}-{letter}" for letter in "abc") for region in REGIONS}
REGIMES = ("gdpr", "hipaa", "soc2", "pci")
TYPES = ("video-transcoding", "ml-training", "ml-inference", "etl", "rendering")
MODELS = (("A100", 80, 8), ("H100", 80, 8), ("L4", 24, 4), ("T4", 16, 4))
GPU_TAINT = Taint("nvidia.com/gpu", "present", "NoSchedule")
MIX_SUBJECTS = 60


# --- the cluster -----------------------------------------------------------------------------------------------------


def make_worker(rng: Random, number: int) -> WorkerInfo:
    """Two CPU shapes and four GPU shapes (40 % of the workers), 12 zones, a dozen labels."""
    region = REGIONS[number % 4]
    zone = ZONES[region][number // 4 % 3]
    name = f"ip-10-{number >> 16}-{number >> 8 & 255}-{number & 255}.{region}.internal"
    gpu = None
    cores, memory = rng.choice(((32, 128), (64, 256)))
    kind = "general"
    if rng.random() < 0.4:
        model, size, count = rng.choice(MODELS)
        gpu = Gpu(model, count, size * GIB)
        cores, memory, kind = (96, 768, model.lower()) if count == 8 else (48, 192, model.lower())
    labels = {
        HOSTNAME_TOPOLOGY: name,
        ZONE_TOPOLOGY: zone,
        REGION_TOPOLOGY: region,
        "kubernetes.io/arch": rng.choice(("amd64", "amd64", "arm64")),
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": f"{kind}-{cores}",
        "topology.example.com/rack": f"{zone}-r{rng.randrange(20)}",
        "example.com/generation": str(rng.randint(3, 7)),
        "example.com/disk": rng.choice(("nvme", "ebs")),
        "example.com/lifecycle": rng.choice(("spot", "on-demand", "on-demand")),
    }
    tags = labels | {"tier": rng.choice(("gold", "silver", "bronze")), "network": rng.choice(("10g", "25g", "100g"))}
    allocatable = {
        "cpu": cores * 1000 - 110,
        "memory": memory * GIB - rng.randrange(1, 5000) * 4096,
        "pods": 110,
        "ephemeral-storage": 200 * GIB,
    }
    if gpu is not None:
        allocatable[gpu.resource] = gpu.count
    return WorkerInfo(
        name=name,
        pool=f"{region}-{kind}",
        labels=tuple(sorted(labels.items())),
        tags=tuple(sorted(tags.items())),
        allocatable=tuple(sorted(allocatable.items())),
        capabilities=frozenset(t for t in TYPES if rng.random() < 0.7),
        compliance=frozenset(r for r in REGIMES if rng.random() < 0.6),
        region=region,
        zone=zone,
        gpu=gpu,
        taints=(GPU_TAINT,) if gpu is not None and rng.random() < 0.5 else (),
        slots=rng.choice((None, 40)),
        ready=rng.random() > 0.01,
        cordoned=rng.random() < 0.01,
    )


def make_subject(rng: Random, number: int) -> Subject:
    """A subject of one of 200 apps in 40 namespaces of 20 customers; its `job` label is unique, as that of a Job."""
    app = rng.randrange(200)
    labels = {"app": f"app-{app}", "job": f"job-{number}", "set": f"set-{rng.randrange(600)}"}
    return Subject(f"ns-{app % 40}", f"customer-{app % 20}", TYPES[app % 5], tuple(sorted(labels.items())))


def fill(snapshot: Snapshot, rng: Random) -> int:
    """Charge every worker to about 70 % of its cpu, memory and GPUs. Returns the number of pods."""
    number = 0
    for name in snapshot.workers:
        info = snapshot.worker(name)
        have = dict(info.allocatable)
        goal = rng.uniform(0.45, 0.95)
        cpu = memory = gpus = 0
        while cpu < goal * have["cpu"]:
            share = rng.uniform(0.08, 0.2)
            amounts = {"cpu": int(share * have["cpu"]), "memory": int(share * have["memory"]), "pods": 1}
            count = 0
            if info.gpu is not None and gpus < goal * info.gpu.count - 0.5:
                count = rng.choice((1, 2))
                gpus += count
            ours = rng.random() < 0.7
            subject = make_subject(rng, number) if ours else None
            anti = (host_anti(subject),) if subject is not None and rng.random() < 0.3 else ()
            requests = tuple(sorted(amounts.items()))
            snapshot.charge(Charge(f"{number:08x}/1/0", name, requests, count, (), subject, anti))
            number += 1
            cpu += amounts["cpu"]
            memory += amounts["memory"]
    return number


def host_anti(subject: Subject) -> PeerTerm:
    """Anti-affinity to subjects with the same `set` label in the namespace."""
    labels = dict(subject.labels)
    return PeerTerm(Selector(labels=(Expression("set", Op.IN, (labels["set"],)),)), scope=Scope.NAMESPACE)


# --- the queue -------------------------------------------------------------------------------------------------------


def make_matcher(rng: Random, parts: int) -> Matcher:
    """A hard matcher with `parts` conditions, drawn from a realistic vocabulary."""
    given: dict[str, Any] = {}
    expressions: list[Expression] = []
    for kind in rng.sample(("region", "compliance", "capability", "tier", "arch", "generation", "spot", "zone"), parts):
        if kind == "region":
            given["regions"] = tuple(rng.sample(REGIONS, rng.choice((1, 2))))
        elif kind == "zone":
            given["zones"] = tuple(rng.sample([zone for zones in ZONES.values() for zone in zones], 6))
        elif kind == "compliance":
            given["compliance"] = tuple(rng.sample(REGIMES, rng.choice((1, 1, 2))))
        elif kind == "capability":
            given["capabilities"] = (rng.choice(TYPES),)
        elif kind == "tier":
            expressions.append(Expression("tier", Op.IN, tuple(rng.sample(("gold", "silver", "bronze"), 2))))
        elif kind == "arch":
            expressions.append(Expression("kubernetes.io/arch", Op.IN, ("amd64",)))
        elif kind == "generation":
            expressions.append(Expression("example.com/generation", Op.GT, (rng.choice(("3", "4")),)))
        else:
            expressions.append(Expression("example.com/lifecycle", Op.NOT_IN, ("spot",)))
    return Matcher(**given, tags=tuple(expressions))


def make_requirements(rng: Random, subject: Subject, number: int) -> Requirements:
    """Random requirements; `number` makes their requests unique."""
    amounts = {"cpu": rng.choice((100, 250, 500, 1000, 2000)) + number % 97, "pods": 1}
    amounts["memory"] = rng.choice((1, 2, 4)) * GIB + number * 4096
    hard = make_matcher(rng, rng.choice((0, 1, 2, 2, 3)))
    gpu_count = 0
    tolerations: tuple[Toleration, ...] = ()
    if rng.random() < 1 / 3:
        gpu_count = rng.choice((1, 1, 1, 1, 2))
        tolerations = (Toleration(GPU_TAINT.key, exists=True),)
        if rng.random() < 0.5:
            hard = replace(hard, gpu_models=tuple(rng.sample([m[0] for m in MODELS], 2)))
    anti: list[PeerTerm] = []
    if rng.random() < 0.3:
        anti.append(host_anti(subject))
    if rng.random() < 0.1:
        anti.append(replace(host_anti(subject), topology=ZONE_TOPOLOGY))
    soft: tuple[SoftTerm, ...] = ()
    if rng.random() < 0.2:
        soft = tuple(SoftTerm(rng.randint(1, 100), make_matcher(rng, 1)) for _ in range(rng.randint(1, 3)))
    return Requirements(
        requests=tuple(sorted(amounts.items())),
        hard=hard,
        soft=soft,
        anti=tuple(anti),
        tolerations=tolerations,
        gpu_count=gpu_count,
        wants_gpu=gpu_count > 0,
    )


def make_pending(rng: Random, count: int, classes: int | None) -> list[PendingWorkload]:
    """Pending workloads with `classes` shared sets of requirements; None: each has its own requirements and subject."""
    subjects = [make_subject(rng, number) for number in range(count if classes is None else MIX_SUBJECTS)]
    sets = [
        make_requirements(rng, subjects[n % len(subjects)], n) for n in range(count if classes is None else classes)
    ]
    return [
        PendingWorkload(
            id=f"{number:032x}",
            version=1,
            attempt=1,
            subject=subjects[number] if classes is None else rng.choice(subjects),
            requirements=sets[number] if classes is None else rng.choice(sets),
            replicas=rng.randint(4, 8) if rng.random() < 0.05 else 1,
            queued_at=number,
        )
        for number in range(count)
    ]


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Timing:
    """One plan and the seconds it took."""

    seconds: float
    cpu_seconds: float
    plan: Plan

    def row(self) -> dict[str, Any]:
        decided = len(self.plan.placements) + len(self.plan.rejections)
        return {
            "decisions": decided,
            "decisions_per_second": round(decided / self.seconds),
            "decisions_per_cpu_second": round(decided / self.cpu_seconds),
            "seconds": round(self.seconds, 4),
            "placed": len(self.plan.placements),
            "pods": sum(len(placement.workers) for placement in self.plan.placements),
            "rejected": len(self.plan.rejections),
        }


def measure(snapshot: Snapshot, pending: list[PendingWorkload], repeats: int) -> dict[str, Any]:
    """Figures of the fastest of several equal cycles, as the machine is shared; seconds of the first, cold cycle."""
    timings = []
    for _ in range(repeats):
        started, cpu = time.perf_counter(), time.process_time()
        plan = schedule(snapshot, pending, now=0)
        timings.append(Timing(time.perf_counter() - started, time.process_time() - cpu, plan))
    assert all(timing.plan == timings[0].plan for timing in timings)
    best = min(timings, key=lambda timing: timing.seconds)
    return best.row() | {"first_seconds": round(timings[0].seconds, 4)}


def build(workers: int, seed: int = 1) -> tuple[Snapshot, dict[str, float]]:
    """A filled snapshot, and figures of its construction."""
    rng = Random(seed)
    infos = [make_worker(rng, number) for number in range(workers)]
    snapshot = Snapshot()
    started = time.perf_counter()
    for info in infos:
        snapshot.upsert_worker(info)
    loaded = time.perf_counter()
    pods = fill(snapshot, rng)
    return snapshot, {"upserts_per_second": round(workers / (loaded - started)), "pods": pods}


def run(workers: int = 5000, pending: int = 10_000, repeats: int = 3, *, memory: bool = True) -> dict[str, Any]:
    """Run all cases; returns figures that can be written as JSON."""
    snapshot, built = build(workers)
    # Without this the garbage collector traverses the whole cluster again and again; the operator freezes likewise.
    gc.freeze()
    result: dict[str, Any] = {"workers": workers, "cluster": built}
    result["different"] = measure(snapshot, make_pending(Random(2), pending, None), repeats)
    result["repeated"] = measure(snapshot, make_pending(Random(3), pending, 20), repeats)
    result["repeated_long_queue"] = measure(snapshot, make_pending(Random(3), pending * 10, 20), repeats)
    if memory:
        command = [sys.executable, "-m", "bench.engine", "--workers", str(workers), "--memory"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result["memory"] = json.loads(done.stdout)
    return result


def peak_memory(workers: int) -> dict[str, float]:
    """Peak resident MiB of this process: after imports, with the snapshot, and after a cycle over 100,000 workloads."""
    steps = {"imports_mb": _peak()}
    snapshot, _ = build(workers)
    steps["snapshot_mb"] = _peak()
    pending = make_pending(Random(3), 100_000, 20)
    steps["pending_mb"] = _peak()
    schedule(snapshot, pending, now=0)
    steps["repeated_mb"] = _peak()
    del pending
    schedule(snapshot, make_pending(Random(2), 10_000, None), now=0)
    steps["different_mb"] = _peak()
    return steps


def _peak() -> float:
    # The maximum of getrusage is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def profile(workers: int, pending: int) -> None:
    """Print a profile sorted by each function's own time. The profiler's overhead inflates small functions."""
    snapshot, _ = build(workers)
    for name, classes in (("different", None), ("repeated", 20)):
        queue = make_pending(Random(2), pending, classes)
        schedule(snapshot, queue, now=0)
        profiler = cProfile.Profile()
        profiler.runcall(schedule, snapshot, queue, now=0)
        print(f"== {name} ==")
        pstats.Stats(profiler).sort_stats("tottime").print_stats(22)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=5000)
    parser.add_argument("--pending", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print a profile instead of the figures")
    parser.add_argument("--memory", action="store_true", help="print only the peak memory of this process")
    arguments = parser.parse_args()
    if arguments.profile:
        profile(arguments.workers, arguments.pending)
    elif arguments.memory:
        print(json.dumps(peak_memory(arguments.workers)))
    else:
        print(json.dumps(run(arguments.workers, arguments.pending, arguments.repeats), indent=2))


if __name__ == "__main__":
    main()
