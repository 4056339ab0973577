"""The openb trace as the simulation's input: tasks with their arrivals and run times, and a cluster of its nodes.

`testing.trace` finds the trace's folder.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niyanta.engine.types import Gpu, Matcher, Requirements, WorkerInfo

MIB = 1 << 20
LOAD = 1.2
LONGEST_RUN_SECONDS = 4 * 3600
FULL_RATE_FROM_SECOND = 10_000_000
"""Second of the trace at which its full rate of arrivals begins."""
FOLD_SECONDS = 48 * 3600
POOLS = {"T4": "t4", "G2": "g", "G3": "g", "P100": "volta", "V100M16": "volta", "V100M32": "volta"}
CORES = (4, 8, 16, 32, 64, 96, 128)
GIBS = (8, 32, 64, 128, 256, 512, 768)
"""Sizes to which requests are rounded up, so that there are fewer requirement classes."""


@dataclass(frozen=True)
class Task:
    """A task of the trace: times in seconds, whole GPUs, and the GPU models that it may use (empty: any)."""

    name: str
    arrives: int
    runs: float
    requirements: Requirements
    qos: str
    gpus: int
    models: tuple[str, ...]


def load_tasks(folder: Path, hours: int) -> list[Task]:
    """Tasks that arrive in the first `hours`, in order of arrival, folded to 48 hours."""
    shared: dict[tuple[Any, ...], Requirements] = {}
    tasks = []
    with (folder / "openb_pod_list_gpuspec33.csv").open() as file:
        for row in csv.DictReader(file):
            created, deleted = int(row["creation_time"]), int(row["deletion_time"])
            arrives = (created - FULL_RATE_FROM_SECOND) % FOLD_SECONDS
            if created < FULL_RATE_FROM_SECOND or arrives >= hours * 3600:
                continue
            gpus = int(row["num_gpu"])
            cores = next(size for size in CORES if 1000 * size >= int(row["cpu_milli"]))
            memory = next(1024 * size for size in GIBS if 1024 * size >= int(row["memory_mib"]))
            models = tuple(sorted(set(row["gpu_spec"].split("|")) - {""}))
            key = (cores, memory, gpus, models)
            if key not in shared:
                requests = (("cpu", 1000 * cores), ("memory", memory * MIB), ("pods", 1))
                shared[key] = Requirements(requests, Matcher(gpu_models=models), gpu_count=gpus, wants_gpu=gpus > 0)
            runs = float(min(max(deleted - created, 1), LONGEST_RUN_SECONDS))
            tasks.append(Task(row["name"], arrives, runs, shared[key], row["qos"], gpus, models))
    return sorted(tasks, key=lambda task: (task.arrives, task.name))


def load_cluster(folder: Path, tasks: list[Task], hours: int) -> list[WorkerInfo]:
    """Three pools of the trace's nodes; the number of nodes of each GPU model follows the load on that model."""
    nodes: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    with (folder / "openb_node_list_gpu_node.csv").open() as file:
        for row in csv.DictReader(file):
            nodes[row["model"]].append((int(row["gpu"]), int(row["cpu_milli"]), int(row["memory_mib"])))
    del nodes["A10"]
    gpus_of = {model: sum(gpus for gpus, _, _ in known) for model, known in nodes.items()}
    load = dict.fromkeys(nodes, 0.0)
    for task in tasks:
        allowed = [model for model in task.models or nodes if model in nodes]
        for model in allowed:
            load[model] += task.gpus * task.runs * gpus_of[model] / sum(gpus_of[m] for m in allowed)
    workers = []
    for model, known in sorted(nodes.items()):
        # Nodes are taken evenly from the list, the largest first, so that every shape that a task may need is present.
        known.sort(reverse=True)
        wanted = load[model] / (LOAD * hours * 3600)
        count = max(round(wanted * len(known) / gpus_of[model]), 1)
        for number in range(count):
            gpus, cpu, memory = known[number * len(known) // count]
            workers.append(make_worker(f"{model.lower()}-{number:03}", model, gpus, cpu, memory))
    return workers


def make_worker(name: str, model: str, gpus: int, cpu: int, memory: int) -> WorkerInfo:
    allocatable = (("cpu", cpu), ("memory", memory * MIB), ("nvidia.com/gpu", gpus), ("pods", 110))
    return WorkerInfo(name, POOLS[model], (), (), allocatable, gpu=Gpu(model, gpus))


def fits_empty(task: Task, worker: WorkerInfo) -> bool:
    have = dict(worker.allocatable)
    if worker.gpu is None or (task.models and worker.gpu.model not in task.models):
        return False
    return task.gpus <= worker.gpu.count and all(have[name] >= amount for name, amount in task.requirements.requests)
