"""Breakers of workers: a worker whose kubelet rejects pods of different workloads in a row gets no work for a while, of
one customer or of all.

A rejection excludes the worker for that workload alone (`outcome`); without a breaker, the whole queue would try it.
`observer` reports rejections and pods that run. `placing.cycle` passes the cluster's changes through `adjust`, which
shows such workers to the engine as closed to a customer, or as cordoned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from niyanta.engine.snapshot.deltas import Delta, StateReplaced, WorkerRemoved, WorkerUpserted
from niyanta.engine.types import WorkerInfo
from niyanta.observability import log

logger = log.get(__name__)

REJECTIONS = 5
"""Workloads rejected in a row, without a pod that ran, that open a breaker: of one customer for that customer, of
several customers for all."""

OF_ONE_CUSTOMER = 3
"""Most rejected workloads of one customer that count for all: the rest must be of others, because a customer may bring
about rejections by what its pods ask for."""

FIRST_EXCLUSION_SECONDS = 60.0
LONGEST_EXCLUSION_SECONDS = 3600.0
"""Range of the time without work. It doubles each time that the first workload afterwards is rejected too; for all
customers, the first workloads of two of them."""

EVERYONE = ""
"""Stands for all customers."""


@dataclass(slots=True)
class _Exclusion:
    """Exclusion of one customer's work, or of all work. Times are monotonic seconds."""

    times: int = 0
    until: float = 0.0

    def begin(self, now: float) -> float:
        """Exclude from now on; returns the time in seconds."""
        seconds = min(FIRST_EXCLUSION_SECONDS * 2.0 ** min(self.times, 16), LONGEST_EXCLUSION_SECONDS)
        self.times += 1
        self.until = now + seconds
        return seconds


@dataclass(slots=True)
class _Rejecting:
    """A worker that rejected pods, by customer."""

    workloads: dict[str, set[str]] = field(default_factory=dict)
    """Rejected workloads that count for the customer alone."""
    shared: dict[str, set[str]] = field(default_factory=dict)
    """Rejected workloads that count for all customers."""
    exclusions: dict[str, _Exclusion] = field(default_factory=dict)

    def excludes(self, customer: str, now: float) -> bool:
        """True if the worker gets no work of this customer; `EVERYONE`: of any."""
        found = self.exclusions.get(customer)
        return found is not None and now < found.until

    def times(self, customer: str) -> int:
        """Number of exclusions since a pod of the customer ran."""
        found = self.exclusions.get(customer)
        return 0 if found is None else found.times


class WorkerBreakers:
    """The breakers of one leadership; only workers that rejected pods have an entry."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._rejecting: dict[str, _Rejecting] = {}
        self._infos: dict[str, WorkerInfo] = {}
        """All workers, as the cluster last described them."""
        self._closed: Mapping[str, frozenset[str]] = {}
        """Workers that the snapshot shows as closed because of their breakers -> to these customers."""

    def rejected(self, worker: str, workload_id: str, customer: str) -> None:
        """A kubelet rejected a pod of this workload, for a reason that doesn't depend on the pod alone."""
        found = self._rejecting.setdefault(worker, _Rejecting())
        now = self._clock()
        if found.excludes(EVERYONE, now) or found.excludes(customer, now):
            return  # bound before the breaker opened
        own = found.workloads.setdefault(customer, set())
        own.add(workload_id)
        if len(own) >= (REJECTIONS if found.times(customer) == 0 else 1):
            own.clear()
            self._exclude(worker, found, customer, now)
        often = found.times(EVERYONE) == 0
        most = OF_ONE_CUSTOMER if often else 1
        shared = found.shared.setdefault(customer, set())
        if len(shared) < most:
            shared.add(workload_id)
        if sum(len(ids) for ids in found.shared.values()) >= (REJECTIONS if often else 2):
            found.shared.clear()
            self._exclude(worker, found, EVERYONE, now)

    def _exclude(self, worker: str, found: _Rejecting, customer: str, now: float) -> None:
        seconds = found.exclusions.setdefault(customer, _Exclusion()).begin(now)
        logger.warning(
            "a worker's kubelet rejects pods; it gets no work of the customer",
            worker=worker,
            customer=customer or "(all)",
            seconds=seconds,
        )

    def accepted(self, worker: str, customer: str) -> None:
        """A pod of this customer runs on the worker."""
        found = self._rejecting.get(worker)
        if found is None:
            return
        found.shared.clear()
        found.workloads.pop(customer, None)
        for name in (customer, EVERYONE):
            found.exclusions.pop(name, None)
        if not found.workloads and not found.exclusions:
            del self._rejecting[worker]

    def open(self) -> Mapping[str, frozenset[str]]:
        """Workers that get no work of some customers now -> these customers, or EVERYONE."""
        now = self._clock()
        closed = {}
        for worker, found in self._rejecting.items():
            customers = frozenset(name for name in found.exclusions if found.excludes(name, now))
            if customers:
                closed[worker] = customers
        return closed

    def changed(self) -> bool:
        """True if the next call of `adjust` opens or closes a worker."""
        return self.open() != self._closed

    def adjust(self, deltas: Sequence[Delta]) -> list[Delta]:
        """The changes of the cluster for the engine's snapshot, with workers as their breakers show them."""
        closed = self.open()
        adjusted = [self._follow(delta, closed) for delta in deltas]
        adjusted += self._moved(closed)
        self._closed = closed
        return adjusted

    def _follow(self, delta: Delta, closed: Mapping[str, frozenset[str]]) -> Delta:
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

    def _moved(self, closed: Mapping[str, frozenset[str]]) -> Iterator[Delta]:
        for name in sorted({*closed, *self._closed}):
            if name in self._infos and closed.get(name) != self._closed.get(name):
                yield WorkerUpserted(_shown(self._infos[name], closed))


def _shown(worker: WorkerInfo, closed: Mapping[str, frozenset[str]]) -> WorkerInfo:
    customers = closed.get(worker.name)
    if not customers:
        return worker
    return replace(worker, cordoned=worker.cordoned or EVERYONE in customers, rejected_customers=customers - {EVERYONE})
