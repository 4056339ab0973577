"""Pools, empty workers and waiting work for the tests of sizing."""

from __future__ import annotations

from niyanta.engine.placement.overlay import Options
from niyanta.engine.sizing.planner import EmptyPool, IdenticalWorkloads, Planner, Sizing
from niyanta.engine.snapshot.deltas import StateReplaced
from niyanta.engine.types import (
    ZONE_TOPOLOGY,
    Charge,
    ChargedNode,
    Expression,
    Gpu,
    Op,
    PendingWorkload,
    Quantities,
    Requirements,
    Selector,
    Subject,
    WorkerInfo,
)
from tests.engine import worlds

SUBJECT = Subject("ns", "acme", labels=(("app", "web"),))
SELF = Selector(labels=(Expression("app", Op.IN, ("web",)),))


def amounts(cpu: int = 1000, **more: int) -> Quantities:
    return tuple(
        sorted({"cpu": cpu, "pods": 1, **{k.replace("gpu", worlds.NVIDIA): v for k, v in more.items()}}.items())
    )


def template(pool: str, *, cpu: int = 4000, gpus: int = 0, zone: str = "", slots: int | None = None) -> WorkerInfo:
    labels = ((ZONE_TOPOLOGY, zone),) if zone else ()
    allocatable = {"cpu": cpu, "pods": 100} | ({worlds.NVIDIA: gpus} if gpus else {})
    return WorkerInfo(
        name="",
        pool=pool,
        labels=labels,
        tags=labels,
        allocatable=tuple(sorted(allocatable.items())),
        zone=zone,
        gpu=Gpu("A100", gpus) if gpus else None,
        slots=slots,
    )


def pool(name: str, *, most: int | None = None, fixed: bool = False, **of: int | str | None) -> EmptyPool:
    return EmptyPool(name, (template(name, **of),), most, fixed)  # type: ignore[arg-type]


def waiting(
    count: int, asked: Requirements | None = None, *, replicas: int = 1, first: int = 0
) -> list[PendingWorkload]:
    asked = asked or Requirements(amounts())
    return [PendingWorkload(f"w{n:04}", 1, 1, SUBJECT, asked, replicas) for n in range(first, first + count)]


def size(
    pools: list[EmptyPool],
    pending: list[PendingWorkload],
    *,
    workers: tuple[WorkerInfo, ...] = (),
    charges: tuple[Charge, ...] = (),
    charged_nodes: tuple[ChargedNode, ...] = (),
    identical: tuple[IdenticalWorkloads, ...] = (),
    options: Options | None = None,
) -> Sizing:
    planner = Planner()
    planner.follow([StateReplaced(workers, charges, charged_nodes)])
    return planner.size(pools, pending, identical, options or Options())


def needed(sizing: Sizing) -> dict[str, int]:
    return {name: load.needed for name, load in sizing.loads.items()}


def running(worker: str, cpu: int = 1000, *, key: str = "r/1/0") -> Charge:
    return Charge(key, worker, amounts(cpu), subject=Subject("ns", "other"))
