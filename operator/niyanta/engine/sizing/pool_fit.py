"""Values of sizing: pools with their empty workers go in, a `PoolFit` for each waiting workload comes out."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from niyanta.engine.types import PendingWorkload, Quantities, Reason, WorkerInfo


@dataclass(frozen=True, slots=True)
class EmptyPool:
    """A pool with its empty workers: one template per zone; no templates if their capacity is not known."""

    name: str
    templates: tuple[WorkerInfo, ...] = ()
    max_workers: int | None = None
    """Most workers that the pool may have; None: no limit."""
    fixed: bool = False
    """True if the number of its workers is fixed: no provider adds any."""
    daemons: Quantities | None = None
    """Amounts that DaemonSet pods take on each worker; None: not known."""
    region: str = ""
    """The pool's own, "" when unset."""


class FitKind(enum.Enum):
    """Kind of capacity where a waiting workload would fit."""

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
    """The pool that a waiting workload counts for; "" if for no pool.

    `closest`, `lacks`: for NOWHERE, the pool whose empty worker fails the fewest checks, and those checks.
    """

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
