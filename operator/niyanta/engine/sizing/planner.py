"""Workers that each pool needs: for running work, and for waiting work packed onto workers that do not exist yet.

`Planner` keeps a separate snapshot with hypothetical empty workers beside the real ones. It first gives the waiting
work the free room of real workers, as the next cycle will, and then packs the rest onto hypothetical workers of the
one pool that each workload counts for (`packing`), opened one after the other. So work that fits beside running pods
needs no new worker.

A workload counts for the pool where it finds room now; else for the best pool by soft score, then by name, among pools
whose empty worker could hold it. When that pool may not have more workers, it counts for the next best, and when no
pool may have more, for its best again. Work that waits because of its customer's limit counts for no pool, and work
whose pods the API server rejects needs no worker: more workers would not help.

The scheduler's demand statistics use it and turn the result into metrics and texts. Deterministic; not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from niyanta.engine.explain import nearest_miss
from niyanta.engine.placement.capacity import capacity_when_empty
from niyanta.engine.placement.feasibility import is_gpu_resource
from niyanta.engine.placement.overlay import Options, Overlay
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.sizing.packing import Packing
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, IdenticalWorkloads, PoolFit
from niyanta.engine.sizing.pool_growth import MAX_PACKED_WORKERS, bits_of, hypothetical
from niyanta.engine.snapshot.bitset import Bits, minus, to_indices
from niyanta.engine.snapshot.deltas import Delta, StateReplaced
from niyanta.engine.snapshot.following import DeltaFault, follow
from niyanta.engine.snapshot.snapshot import CPU_RESOURCE, MEMORY_RESOURCE, SLOTS_RESOURCE, UNLIMITED_SLOTS, Snapshot
from niyanta.engine.types import DecisionFault, PendingWorkload, Requirements, Subject, WorkerInfo

__all__ = ["EmptyPool", "FitKind", "IdenticalWorkloads", "Planner", "PoolFit", "PoolLoad", "Sizing"]

MAX_WORKERS_OF_FIXED_POOL = 16
"""Most hypothetical workers of a fixed pool: they only show whether a group could fit on empty workers."""

MAX_CLOSEST_KEPT = 2000
"""Most requirement sets that fit nowhere for which the closest pool is remembered."""

_KINDS = ("cpu", "memory", "gpu", "slots")


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """Load of a pool's real workers, and the number of workers that it needs."""

    workers: int = 0
    ready: int = 0
    """Workers that are ready and not cordoned."""
    in_use: int = 0
    """Workers with at least one pod of Niyanta."""
    pods: int = 0
    needed: int = 0
    utilization: Mapping[str, float | None] = field(default_factory=dict)
    percent_sum: int = 0


@dataclass(frozen=True, slots=True)
class Sizing:
    """Result of one sizing. `loads` by pool, `pool_fits` by workload id; `identical`: key -> (pool, workloads).

    `faults`: workloads whose packing raised; they fit nowhere. `empty_fits`: by key, of workloads that weren't packed.
    """

    loads: Mapping[str, PoolLoad]
    pool_fits: Mapping[str, PoolFit]
    identical: Mapping[object, tuple[tuple[str, int], ...]]
    faults: tuple[DecisionFault, ...] = ()
    empty_fits: Mapping[str, PoolFit] = field(default_factory=dict)


class Planner:
    """Follows the cluster and sizes pools."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._pools: tuple[EmptyPool, ...] = ()
        self._hypothetical_infos: dict[str, list[WorkerInfo]] = {}
        """The hypothetical workers of each pool, in the order they are opened."""
        self._empty_workers = Snapshot()
        """One empty worker for each zone of each pool."""
        self._closest: dict[tuple[int, str], tuple[Requirements, PoolFit]] = {}
        """By requirements object and, when pools list customers, customer."""

    def follow(self, deltas: Iterable[Delta]) -> list[DeltaFault]:
        """Apply changes of the cluster; the hypothetical workers stay. Returns the changes that raised: when there are
        any, the whole state has to follow."""
        faults: list[DeltaFault] = []
        for delta in deltas:
            self.snapshot, raised = follow(self.snapshot, [delta])
            faults += raised
            if isinstance(delta, StateReplaced):
                for infos in self._hypothetical_infos.values():
                    for info in infos:
                        self.snapshot.upsert_worker(info)
        return faults

    def size(
        self,
        pools: Sequence[EmptyPool],
        pending: Sequence[PendingWorkload],
        identical: Sequence[IdenticalWorkloads],
        options: Options,
        refused: frozenset[str] = frozenset(),
        unpacked: Sequence[tuple[str, PendingWorkload]] = (),
    ) -> Sizing:
        """Size all pools.

        `pending` is in queue order; `identical` counts more workloads like some of `pending`; `refused` are ids of
        workloads whose pods the API server rejects. `unpacked`: keys and workloads for which only the first pool is
        found whose empty worker could hold a pod; they need no worker.
        """
        self._set_pools(tuple(sorted(pools, key=lambda pool: pool.name)))
        overlay = self._stocked_overlay(pending, identical, options)
        packing = Packing(overlay, self._pools, self._hypothetical(), refused)
        packing.run(pending, identical)
        needed = packing.needed()
        empty_fits = {key: packing.empty_fit(workload) for key, workload in unpacked}
        faults = {fault.id: fault for fault in packing.faults}
        pool_fits = {
            id_: self._with_closest(pool_fit, packing.workloads[id_], faults)
            for id_, pool_fit in packing.pool_fits.items()
        }
        for key, workload in unpacked:
            empty_fits[key] = self._with_closest(empty_fits[key], workload, faults)
        real = self._real()
        names = sorted({pool.name for pool in self._pools} | {name for name, workers in real.items() if workers})
        loads = {name: self._load(real.get(name, 0), needed.get(name, 0)) for name in names}
        return Sizing(loads, pool_fits, packing.identical, tuple(faults.values()), empty_fits)

    # --- hypothetical workers ---

    def _set_pools(self, pools: tuple[EmptyPool, ...]) -> None:
        if pools == self._pools:
            return
        before = {pool.name: pool.templates for pool in self._pools}
        after = {pool.name: pool.templates for pool in pools}
        for name in before.keys() - {name for name, templates in after.items() if templates == before.get(name)}:
            for info in self._hypothetical_infos.pop(name, ()):
                self.snapshot.remove_worker(info.name)
        self._pools = pools
        if before != after:
            self._empty_workers = Snapshot()
            for pool in pools:
                for number, template in enumerate(pool.templates):
                    self._empty_workers.upsert_worker(hypothetical(template, number))
            self._closest.clear()

    def _stocked_overlay(
        self, pending: Sequence[PendingWorkload], identical: Sequence[IdenticalWorkloads], options: Options
    ) -> Overlay:
        """An overlay with as many hypothetical workers as the packing may need, up to the pools' bounds."""
        for pool in self._pools:
            self._provide(pool, len(pool.templates))
        overlay = Overlay(self.snapshot, options)
        wanted = self._wanted(overlay, pending, identical)
        version = self.snapshot.index.version
        for pool in self._pools:
            self._provide(pool, wanted.get(pool.name, 0))
        return overlay if version == self.snapshot.index.version else Overlay(self.snapshot, options)

    def _wanted(
        self, overlay: Overlay, pending: Sequence[PendingWorkload], identical: Sequence[IdenticalWorkloads]
    ) -> dict[str, int]:
        """Pool -> workers that all work would fill if classes shared no worker: an upper bound."""
        kinds: dict[int, tuple[RequirementClass, int]] = {}
        for workload, count in (*((w, 1) for w in pending), *((b.workload, b.count) for b in identical)):
            try:
                requirement_class = overlay.class_of(workload.requirements, workload.subject.customer)
            except Exception:  # noqa: S112 - the packing meets the same error, and reports it
                continue
            overlay.remember(requirement_class)
            known = kinds.get(id(requirement_class), (requirement_class, 0))[1]
            kinds[id(requirement_class)] = requirement_class, known + count * workload.replicas
        wanted: dict[str, int] = {}
        spare = {pool: bits_of(workers) for pool, workers in self._hypothetical().items()}
        for requirement_class, pods in kinds.values():
            try:
                possible, pods_each = capacity_when_empty(overlay, requirement_class)
            except Exception:  # noqa: S112 - the packing meets the same error, and reports it
                continue
            alone = requirement_class.has_peers or bool(requirement_class.requirements.host_ports)
            for pool in self._pools:
                workers = spare.get(pool.name, 0) & possible
                if workers:
                    each = 1 if alone else int(pods_each[(workers & -workers).bit_length() - 1])
                    more = -(-pods // each) * len(pool.templates)
                    wanted[pool.name] = wanted.get(pool.name, 0) + more
        return wanted

    def _provide(self, pool: EmptyPool, wanted: int) -> None:
        """Keep about `wanted` hypothetical workers, with few changes: each makes the next overlay more expensive."""
        workers = self._hypothetical_infos.setdefault(pool.name, [])
        most = (
            MAX_PACKED_WORKERS
            if pool.max_workers is None
            else min(MAX_PACKED_WORKERS, pool.max_workers * len(pool.templates))
        )
        if pool.fixed:
            most = min(most, MAX_WORKERS_OF_FIXED_POOL)
        least = len(pool.templates)
        target = min(max(least, 1 << max(wanted - 1, 0).bit_length()), max(most, least)) if least else 0
        if len(workers) < target:
            for number in range(len(workers), target):
                info = hypothetical(pool.templates[number % least], number)
                workers.append(info)
                self.snapshot.upsert_worker(info)
        elif len(workers) > 8 * target:
            for info in workers[target:]:
                self.snapshot.remove_worker(info.name)
            del workers[target:]

    def _hypothetical(self) -> dict[str, list[int]]:
        workers = self.snapshot.index.by_name
        return {pool: [workers[info.name] for info in infos] for pool, infos in self._hypothetical_infos.items()}

    # --- real workers ---

    def _real(self) -> dict[str, Bits]:
        spare = self._hypothetical()
        return {
            name: minus(workers, bits_of(spare.get(name, ()))) for name, workers in self.snapshot.index.pools.items()
        }

    def _load(self, mine: Bits, needed: int) -> PoolLoad:
        snapshot, index = self.snapshot, self.snapshot.index
        workers = to_indices(mine, snapshot.capacity)
        if not len(workers):
            return PoolLoad(needed=needed, utilization=dict.fromkeys(_KINDS))
        have, used = snapshot.allocatable[:, workers], snapshot.used[:, workers].clip(min=0)
        gpus = [resource for name, resource in snapshot.resources.items() if is_gpu_resource(index, name)]
        slotted = have[SLOTS_RESOURCE] < UNLIMITED_SLOTS
        pairs = {
            "cpu": (have[CPU_RESOURCE], used[CPU_RESOURCE]),
            "memory": (have[MEMORY_RESOURCE], used[MEMORY_RESOURCE]),
            "gpu": (have[gpus].sum(axis=0), used[gpus].sum(axis=0)),
            "slots": (have[SLOTS_RESOURCE] * slotted, used[SLOTS_RESOURCE] * slotted),
        }
        utilization: dict[str, float | None] = {}
        fullest = np.zeros(len(workers))
        for kind, (all_of_it, taken) in pairs.items():
            total = int(all_of_it.sum())
            utilization[kind] = round(min(int(taken.sum()) / total, 1.0), 3) if total else None
            shares = (taken / all_of_it.clip(min=1)).clip(max=1.0) * (all_of_it > 0)
            fullest = np.maximum(fullest, shares)
        usable = minus(minus(mine, index.not_ready), index.cordoned)
        return PoolLoad(
            workers=len(workers),
            ready=usable.bit_count(),
            in_use=int((used[SLOTS_RESOURCE] > 0).sum()),
            pods=int(used[SLOTS_RESOURCE].sum()),
            needed=needed,
            utilization=utilization,
            percent_sum=round(100 * float(fullest.sum())),
        )

    # --- workloads without a pool ---

    def _with_closest(self, pool_fit: PoolFit, workload: PendingWorkload, faults: dict[str, DecisionFault]) -> PoolFit:
        """For a workload that fits nowhere, with the pool that comes closest; one that raises is added to `faults`."""
        if pool_fit.fit is not FitKind.NOWHERE or workload.id in faults:
            return pool_fit
        try:
            return self._find_closest(pool_fit, workload)
        except Exception as error:
            faults[workload.id] = DecisionFault.of(workload, error)
            return pool_fit

    def _find_closest(self, pool_fit: PoolFit, workload: PendingWorkload) -> PoolFit:
        """Find the pool whose empty worker lacks least, among those that the customer may use.

        Peer terms are left out, as they depend on running pods.
        """
        requirements, customer = workload.requirements, workload.subject.customer
        key = id(requirements), customer if self._empty_workers.index.is_restricted else ""
        known = self._closest.get(key)
        if known is not None and known[0] is requirements:
            return known[1]
        probe = PendingWorkload("", 0, 1, Subject("", customer), replace(requirements, near=(), anti=()))
        found = pool_fit
        for miss in nearest_miss(self._empty_workers, probe, limit=1):
            found = replace(pool_fit, closest=self._empty_workers.worker(miss.worker).pool, lacks=miss.failed)
        if len(self._closest) >= MAX_CLOSEST_KEPT:
            self._closest.clear()
        self._closest[key] = requirements, found
        return found
