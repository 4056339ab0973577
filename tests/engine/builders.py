"""Small clusters and workloads, written by hand."""

from __future__ import annotations

from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    ZONE_TOPOLOGY,
    Expression,
    Gpu,
    Op,
    PeerTerm,
    PendingWorkload,
    Plan,
    Requirements,
    Selector,
    Subject,
    WorkerInfo,
)

GIB = 1 << 30
WEB = Subject("ns", "acme", "web", (("app", "web"),))
DB = Subject("ns", "acme", "db", (("app", "db"),))
POD = Requirements((("cpu", 1000), ("memory", GIB), ("pods", 1)))
ALIKE = PeerTerm(Selector(labels=(Expression("app", Op.IN, ("web",)),)))
NEAR_DB = PeerTerm(Selector(types=("db",)), ZONE_TOPOLOGY)
NEAR_WEB = PeerTerm(Selector(types=("web",)), ZONE_TOPOLOGY)


def node(name: str, zone: str = "", cpu: int = 4000, gpus: int = 0, slots: int | None = None) -> WorkerInfo:
    allocatable = {"cpu": cpu, "memory": 16 * GIB, "pods": 10} | ({"nvidia.com/gpu": gpus} if gpus else {})
    labels = ((ZONE_TOPOLOGY, zone),) if zone else ()
    gpu = Gpu("A100", gpus) if gpus else None
    return WorkerInfo(name, "pool", labels, labels, tuple(sorted(allocatable.items())), gpu=gpu, slots=slots)


def wants(name: str, requirements: Requirements = POD, subject: Subject = WEB, replicas: int = 1) -> PendingWorkload:
    return PendingWorkload(name, 7, 2, subject, requirements, replicas)


def snapshot(*nodes: WorkerInfo) -> Snapshot:
    made = Snapshot()
    for info in nodes:
        made.upsert_worker(info)
    return made


def workers(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {p.id: p.workers for p in plan.placements}
