"""Breakers of workers: a worker whose kubelet rejects pods of different workloads in a row gets no work for a while.

A rejection excludes the worker for that workload alone (`outcome`); without a breaker, the whole queue would try it.
`observer` reports rejections and pods that run. `placing.cycle` passes the cluster's changes through `adjust`, which
shows such workers to the engine as cordoned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from niyanta.engine.snapshot.deltas import Delta, StateReplaced, WorkerRemoved, WorkerUpserted
from niyanta.engine.types import WorkerInfo
from niyanta.observability import log

logger = log.get(__name__)

REJECTIONS = 5
"""Workloads rejected in a row, without a pod that ran, that open a worker's breaker."""

FIRST_EXCLUSION_SECONDS = 60.0
LONGEST_EXCLUSION_SECONDS = 3600.0
"""Range of the time without work. It doubles each time that the first workload afterwards is rejected too."""


@dataclass(slots=True)
class _Rejecting:
    """A worker that rejected pods. Times are monotonic seconds."""

    workloads: set[str] = field(default_factory=set)
    exclusions: int = 0
    until: float = 0.0


class WorkerBreakers:
    """The breakers of one leadership; only workers that rejected pods have an entry."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._rejecting: dict[str, _Rejecting] = {}
        self._infos: dict[str, WorkerInfo] = {}
        """All workers, as the cluster last described them."""
        self._closed: frozenset[str] = frozenset()
        """Workers that the snapshot shows as cordoned because of their breakers."""

    def rejected(self, worker: str, workload_id: str) -> None:
        """A kubelet rejected a pod of this workload."""
        found = self._rejecting.setdefault(worker, _Rejecting())
        now = self._clock()
        if now < found.until:
            return  # bound before the breaker opened
        found.workloads.add(workload_id)
        if len(found.workloads) < (REJECTIONS if found.exclusions == 0 else 1):
            return
        found.workloads.clear()
        seconds = min(FIRST_EXCLUSION_SECONDS * 2.0 ** min(found.exclusions, 16), LONGEST_EXCLUSION_SECONDS)
        found.exclusions += 1
        found.until = now + seconds
        logger.warning("a worker's kubelet rejects all pods; it gets no work", worker=worker, seconds=seconds)

    def accepted(self, worker: str) -> None:
        """A pod runs on the worker."""
        self._rejecting.pop(worker, None)

    def open(self) -> frozenset[str]:
        """Workers that get no work now."""
        now = self._clock()
        return frozenset(name for name, found in self._rejecting.items() if now < found.until)

    def changed(self) -> bool:
        """True if the next call of `adjust` opens or closes a worker."""
        return self.open() != self._closed

    def adjust(self, deltas: Sequence[Delta]) -> list[Delta]:
        """The changes of the cluster for the engine's snapshot, with closed workers as cordoned."""
        closed = self.open()
        adjusted = [self._follow(delta, closed) for delta in deltas]
        adjusted += self._moved(closed)
        self._closed = closed
        return adjusted

    def _follow(self, delta: Delta, closed: frozenset[str]) -> Delta:
        match delta:
            case WorkerUpserted(worker):
                self._infos[worker.name] = worker
                return WorkerUpserted(_shown(worker, closed))
            case WorkerRemoved(name):
                self._infos.pop(name, None)
                self._rejecting.pop(name, None)
            case StateReplaced():
                self._infos = {worker.name: worker for worker in delta.workers}
                return replace(delta, workers=tuple(_shown(worker, closed) for worker in delta.workers))
        return delta

    def _moved(self, closed: frozenset[str]) -> Iterator[Delta]:
        for name in sorted(closed ^ self._closed):
            if name in self._infos:
                yield WorkerUpserted(_shown(self._infos[name], closed))


def _shown(worker: WorkerInfo, closed: frozenset[str]) -> WorkerInfo:
    return replace(worker, cordoned=True) if worker.name in closed and not worker.cordoned else worker
