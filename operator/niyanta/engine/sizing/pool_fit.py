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
    """Most workers of the pool; None: no limit."""
    fixed: bool = False
    """True when the number of its workers is fixed: it has no provider."""
    daemons: Quantities | None = None
    """Amounts that DaemonSet pods take on each worker; None: not known."""
    region: str = ""
    """Region in the pool's spec, "" when unset."""


class FitKind(enum.Enum):
    """Kind of capacity where a waiting workload would fit."""

    ROOM = "Room"
    """On existing workers."""
    NEW = "New"
    """On new workers of the pool."""
    FULL = "Full"
    """On new workers of the pool, which is at its maximum."""
    EMPTY = "Empty"
    """An empty worker of the pool could hold a pod of it; it wasn't packed."""
    NEVER = "Never"
    """More workers of the pool would not help now: near terms, anti-affinity by zone, a group, a worker's name."""
    NOWHERE = "Nowhere"
    """No pool's empty worker could hold a pod of it."""
    REFUSED = "Refused"
    """The API server rejects its pods (quota, admission): more workers would not help."""
    LIMITED = "Limited"
    """Its customer is at its limit of concurrent workloads."""


@dataclass(frozen=True, slots=True)
class PoolFit:
    """The pool that a waiting workload counts for; "" when it counts for no pool.

    `closest`, `lacks`: for NOWHERE, the pool whose empty worker fails the fewest checks, and those checks.
    """

    fit: FitKind
    pool: str = ""
    closest: str = ""
    lacks: tuple[tuple[Reason, str], ...] = ()


@dataclass(frozen=True, slots=True)
class IdenticalWorkloads:
    """`count` more workloads like `workload`, which is packed individually. `key` identifies them for the caller."""

    key: object
    workload: PendingWorkload
    count: int
