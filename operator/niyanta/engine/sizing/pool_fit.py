"""The words of sizing: pools with their empty workers go in, a verdict on each waiting workload comes out."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from niyanta.engine.types import PendingWorkload, Quantities, Reason, WorkerInfo


@dataclass(frozen=True, slots=True)
class EmptyPool:
    """A pool with what an empty worker of it offers: one template for each zone; none: nobody knows."""

    name: str
    templates: tuple[WorkerInfo, ...] = ()
    most: int | None = None
    """Most workers it may have; None: no limit."""
    fixed: bool = False
    """Nobody adds workers to it: it has those that it has."""
    daemons: Quantities | None = None
    """What pods that every worker has take on one of them; None: not known."""
    region: str = ""
    """The pool's own, "" when unset."""


class FitKind(enum.Enum):
    """Where a waiting workload would find its room."""

    ROOM = "Room"
    """On workers that are there."""
    NEW = "New"
    """On new workers of the pool."""
    FULL = "Full"
    """On new workers of the pool, but it may have no more."""
    NEVER = "Never"
    """On no number of new workers as things stand: near terms, anti-affinity by zone, a group, a worker's name."""
    NOWHERE = "Nowhere"
    """No pool's empty worker could hold a pod of it."""
    REFUSED = "Refused"
    """The API server turns its pods down (quota, admission): no worker would help."""
    LIMITED = "Limited"
    """Its customer runs as many workloads as it may."""


@dataclass(frozen=True, slots=True)
class PoolFit:
    """`pool`: the one it counts for; "" when it counts for none. `closest`, `lacks`: for NOWHERE, the pool whose empty
    worker fails the fewest checks, and those."""

    fit: FitKind
    pool: str = ""
    closest: str = ""
    lacks: tuple[tuple[Reason, str], ...] = ()


@dataclass(frozen=True, slots=True)
class IdenticalWorkloads:
    """`count` more workloads like `workload`, which is among those looked at one by one. `key` is the caller's."""

    key: object
    workload: PendingWorkload
    count: int
