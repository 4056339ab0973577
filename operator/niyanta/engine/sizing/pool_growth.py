"""Hypothetical workers of a pool: `planner` makes them, and `packing` opens as many as waiting work fills."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.snapshot.bitset import Bits
from niyanta.engine.types import HOSTNAME_TOPOLOGY, WorkerInfo

MAX_PACKED_WORKERS = 1024
"""Most hypothetical workers of one pool; work that needs more is counted by its class, not packed."""


def hypothetical(template: WorkerInfo, number: int) -> WorkerInfo:
    """An empty worker that does not exist. No node can have its name; in name order, zones alternate."""
    name = f"{template.pool}/{number:05}"
    host = {HOSTNAME_TOPOLOGY: name}
    return replace(
        template,
        name=name,
        labels=tuple(sorted((dict(template.labels) | host).items())),
        tags=tuple(sorted((host | dict(template.tags)).items())),
    )


def bits_of(workers: Iterable[int]) -> Bits:
    """The set of these workers."""
    found = 0
    for worker in workers:
        found |= 1 << worker
    return found


class PoolGrowth:
    """The hypothetical workers of one pool and how many of them are in use."""

    def __init__(self, pool: EmptyPool, workers: list[int], room: int | None) -> None:
        self.pool = pool
        self.workers = bits_of(workers)
        self.room = room
        """Most new workers of the pool; None: no limit."""
        self.closed = list(workers)
        """In the order they are opened."""
        self.used: set[int] = set()
        self.beside: set[int] = set()
        """Real workers of groups that are tied to one domain and use new workers as well."""
        self.extra = 0.0
        """Workers beyond those packed, counted by class."""

    @property
    def zones(self) -> int:
        return max(len(self.pool.templates), 1)

    @property
    def capped(self) -> bool:
        """True when the pool has as many hypothetical workers as are packed one by one."""
        return self.workers.bit_count() >= MAX_PACKED_WORKERS

    def remaining(self) -> float:
        """Number of workers that may still be added to the pool."""
        return float("inf") if self.room is None else max(self.room - len(self.used) - self.extra, 0.0)
