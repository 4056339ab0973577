"""Packing of waiting work onto real workers and then onto hypothetical ones; `planner` uses it.

Works on an overlay in which the hypothetical workers begin without capacity. A worker gets its capacity when a workload
finds no room on the workers opened before, and loses it again when it was not used. So the engine's choice of workers
applies, and no strategy spreads work over workers that are not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np

from niyanta.engine.placement.capacity import capacity_when_empty
from niyanta.engine.placement.feasibility import needs_gpu
from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.placer import Placer
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, IdenticalWorkloads, PoolFit
from niyanta.engine.sizing.pool_growth import PoolGrowth, bits_of
from niyanta.engine.snapshot.bitset import Bits, from_bool, minus, to_indices
from niyanta.engine.snapshot.snapshot import PODS_RESOURCE, SLOTS_RESOURCE
from niyanta.engine.types import PODS, DecisionFault, PendingWorkload


class Packing:
    """One packing: `run` once, then read `pool_fits`, `identical`, `faults` and `needed`.

    A workload whose packing raises becomes a fault; it counts for no pool, and all others are packed.
    """

    def __init__(
        self,
        overlay: Overlay,
        pools: Sequence[EmptyPool],
        hypothetical: Mapping[str, list[int]],
        refused: frozenset[str] = frozenset(),
    ) -> None:
        """`refused`: workloads whose pods the API server rejects; they take no capacity and need no worker."""
        self.overlay = overlay
        self._refused = refused
        self.placer = Placer(overlay)
        self.pool_fits: dict[str, PoolFit] = {}
        self.workloads: dict[str, PendingWorkload] = {}
        self.identical: dict[object, tuple[tuple[str, int], ...]] = {}
        self._pools = {pool.name: pool for pool in pools}
        self._hypothetical = dict(hypothetical)
        self._all = bits_of(worker for workers in self._hypothetical.values() for worker in workers)
        self._free = [resource.copy() for resource in overlay.free]
        """Free amounts while all hypothetical workers were open."""
        self._base = overlay.base.copy()
        self._growth: dict[str, PoolGrowth] = {}
        self._candidates: dict[int, tuple[RequirementClass, list[str], dict[str, int]]] = {}

    def run(self, pending: Sequence[PendingWorkload], identical: Sequence[IdenticalWorkloads] = ()) -> None:
        """Fill real workers, then new workers, both in queue order; then count `identical` by class."""
        self._close([worker for workers in self._hypothetical.values() for worker in workers])
        for workload in pending:
            if workload.id not in self._refused:
                self.placer.decide(workload)
        for placement in self.placer.placements:
            self.pool_fits[placement.id] = PoolFit(FitKind.ROOM, placement.pools[0])
        self._measure()
        for fault in self.placer.faults:
            self.pool_fits[fault.id] = PoolFit(FitKind.NOWHERE)
        for workload in pending:
            self.workloads[workload.id] = workload
            if workload.id in self.pool_fits:
                continue
            try:
                self.pool_fits[workload.id] = self._grow(workload)
            except Exception as error:
                self.placer.fail(workload, error)
                self.pool_fits[workload.id] = PoolFit(FitKind.NOWHERE)
        for more in identical:
            try:
                self.identical[more.key] = tuple(self._count(more))
            except Exception as error:
                self.placer.fail(more.workload, error)
                self.identical[more.key] = ()

    @property
    def faults(self) -> tuple[DecisionFault, ...]:
        """Workloads whose packing raised, each once."""
        return tuple({fault.id: fault for fault in self.placer.faults}.values())

    def needed(self) -> dict[str, int]:
        """Pool -> workers in use after the packing."""
        found: dict[str, int] = {}
        for name, workers in self.overlay.index.pools.items():
            own = minus(workers, self._all)
            used = (own & self._in_use()).bit_count()
            growth = self._growth.get(name)
            if growth is not None:
                new = len(growth.used) + int(growth.extra)
                used += new
                # Whole idle workers that cannot take any waiting workload do not replace new workers. Either pods of
                # others fill them, or they are in the wrong zone: then each other zone may get one worker first (as
                # many as a tied group uses in its zone) but no more, because a zone that never gets a worker would
                # make the pool grow without end.
                idle = minus(own & self._whole(name), self._in_use())
                taken = idle & self._taken(growth.pool)
                elsewhere = (new + len(growth.beside)) * (growth.zones - 1)
                if new:
                    used += taken.bit_count() + min(minus(idle, taken).bit_count(), elsewhere)
            found[name] = used
        return found

    # --- real workers ---

    def _in_use(self) -> Bits:
        """Workers with pods of Niyanta, running or placed by this packing."""
        return (
            from_bool(self.overlay.snapshot.allocatable[SLOTS_RESOURCE] > self.overlay.free[SLOTS_RESOURCE])
            & self.overlay.index.alive
        )

    def _whole(self, pool: str) -> Bits:
        """Workers equivalent to a new one of the pool: ready, not cordoned, and with at least its capacity.

        A worker that is still starting (with a not-ready taint, or without its device plugin) counts as a new one.
        Counted as idle, it would be ordered twice.
        """
        index, snapshot = self.overlay.index, self.overlay.snapshot
        usable = minus(minus(index.alive, index.not_ready), index.cordoned)
        examples = self._hypothetical.get(pool)
        if not examples:
            return usable
        offers = snapshot.allocatable[:, examples[:1]]
        usable &= from_bool(np.logical_and.reduce(snapshot.allocatable >= offers))
        for taint, workers in index.taints.items():
            if taint not in index.infos[examples[0]].taints:
                usable = minus(usable, workers)
        return usable

    def _taken(self, pool: EmptyPool) -> Bits:
        """Workers where pods that are neither Niyanta's nor of DaemonSets take capacity."""
        if pool.daemons is None:
            return 0
        snapshot = self.overlay.snapshot
        usual = dict(pool.daemons)
        taken = np.zeros(snapshot.capacity, np.bool_)
        for name, resource in snapshot.resources.items():
            if name != PODS:
                taken |= snapshot.foreign[resource] > usual.get(name, 0)
        return from_bool(taken)

    def _measure(self) -> None:
        """Compute how many new workers each pool may have; starting workers count as new, idle ones do not."""
        in_use = self._in_use()
        for name, pool in self._pools.items():
            there = minus(self.overlay.index.pools.get(name, 0), self._all) & (in_use | self._whole(name))
            room = None if pool.max_workers is None else max(pool.max_workers - there.bit_count(), 0)
            self._growth[name] = PoolGrowth(pool, self._hypothetical.get(name, []), 0 if pool.fixed else room)

    # --- one workload ---

    def _grow(self, workload: PendingWorkload) -> PoolFit:
        if self.placer.is_at_limit(workload):
            return PoolFit(FitKind.LIMITED)
        _, pools, each = self._candidates_of(workload)
        if not pools:
            return PoolFit(FitKind.NOWHERE)
        if workload.id in self._refused:
            return PoolFit(FitKind.REFUSED, pools[0])
        full = ""
        for name in pools:
            fit = self._place(workload, self._growth[name], each[name]) if name in each else FitKind.NEVER
            if fit is FitKind.NEW:
                return PoolFit(FitKind.NEW, name)
            if fit is FitKind.FULL and not full:
                full = name
        return PoolFit(FitKind.FULL, full) if full else PoolFit(FitKind.NEVER, pools[0])

    def empty_fit(self, workload: PendingWorkload) -> PoolFit:
        """The first pool whose empty worker could hold a pod of the workload; nothing is packed."""
        try:
            pools = self._candidates_of(workload)[1]
        except Exception as error:
            self.placer.fail(workload, error)
            return PoolFit(FitKind.NOWHERE)
        return PoolFit(FitKind.EMPTY, pools[0]) if pools else PoolFit(FitKind.NOWHERE)

    def _candidates_of(self, workload: PendingWorkload) -> tuple[RequirementClass, list[str], dict[str, int]]:
        """Pools whose empty workers could take a pod, best first, and the pods per new worker, if pools can grow."""
        requirement_class = self.overlay.class_of(workload.requirements, workload.subject.customer)
        known = self._candidates.get(id(requirement_class))
        if known is not None:
            return known
        possible, pods_each = capacity_when_empty(self.overlay, requirement_class)
        ranked: list[tuple[int, str]] = []
        each: dict[str, int] = {}
        for name, workers in self.overlay.index.pools.items():
            if name not in self._pools:
                continue
            new = workers & possible & self._all
            here = new or workers & possible
            for level, part in enumerate(requirement_class.levels):
                if here & part:
                    ranked.append((level, name))
                    break
            if new:
                each[name] = int(pods_each[to_indices(new, self.overlay.snapshot.capacity)].max())
        if self.overlay.options.keep_gpu_workers_free and not needs_gpu(self.overlay.index, workload.requirements):
            # It may use existing GPU workers, but needs no new GPU worker while another pool could hold it.
            plain = [(level, name) for level, name in ranked if not self._has_gpus(name)]
            ranked = plain or ranked
        found = self._candidates[id(requirement_class)] = requirement_class, [name for _, name in sorted(ranked)], each
        return found

    def _has_gpus(self, pool: str) -> bool:
        return bool(self.overlay.index.pools.get(pool, 0) & self.overlay.index.gpu)

    def _place(self, workload: PendingWorkload, growth: PoolGrowth, each: int) -> FitKind:
        """Place on real workers and opened workers of this pool, then on as few additional ones as possible."""
        wanted = workload.requirements
        if workload.replicas > 1 and (wanted.near or (wanted.topology is not None and wanted.topology.required)):
            return self._place_tied(workload, growth, each)
        simple = workload.replicas == 1 and not wanted.near and not wanted.anti
        blocked = minus(self._all, growth.workers)
        opened: list[int] = []
        replicas_placed = -1
        try:
            while (fit := self._try_to_place(workload, growth, blocked)) is None:
                if simple and growth.remaining() < 1:
                    fit = FitKind.FULL
                elif opened and self.placer.replicas_placed <= replicas_placed:
                    fit = FitKind.NEVER
                elif not growth.closed and growth.capped and growth.remaining() >= 1:
                    growth.extra += 1 / each if simple else 0
                    fit = FitKind.NEW
                elif not growth.closed:
                    fit = FitKind.FULL
                if fit is not None:
                    break
                replicas_placed = self.placer.replicas_placed
                missing = workload.replicas - replicas_placed
                size = max(-(-missing // each), 1) * growth.zones
                batch, growth.closed = growth.closed[:size], growth.closed[size:]
                self._open(batch)
                opened += batch
        finally:
            idle = [worker for worker in opened if worker not in growth.used]
            self._close(idle)
            growth.closed = idle + growth.closed
        return fit

    def _place_tied(self, workload: PendingWorkload, growth: PoolGrowth, each: int) -> FitKind:
        """Place a group that near terms or a topology may tie to one domain, on as few additional workers as possible.

        More workers never make a group fit worse, so the smallest number that holds it is found by bisection.
        """
        blocked = minus(self._all, growth.workers)
        fit = self._try_to_place(workload, growth, blocked)
        if fit is not None:
            return fit
        alone = workload.requirements.anti or workload.requirements.host_ports
        growth.closed = self._alternating(growth.closed)
        per_zone = workload.replicas if alone else -(-workload.replicas // each)
        most = min(per_zone * growth.zones, len(growth.closed))
        least, found = 0, most + 1
        while found - least > 1:
            # The upper bound first: what doesn't fit there fits nowhere.
            middle = most if found > most else (least + found) // 2
            if self._fits_with(workload, growth, blocked, growth.closed[:middle]):
                found = middle
            elif middle == most:
                if most == per_zone * growth.zones:
                    return FitKind.NEVER
                return FitKind.NEW if growth.capped and growth.remaining() >= 1 else FitKind.FULL
            else:
                least = middle
        opened, growth.closed = growth.closed[:found], growth.closed[found:]
        self._open(opened)
        try:
            fit = self._try_to_place(workload, growth, blocked)
        finally:
            idle = [worker for worker in opened if worker not in growth.used]
            self._close(idle)
            growth.closed = idle + growth.closed
        if fit is FitKind.NEW:
            placed = {self.overlay.index.by_name[name] for name in self.placer.placements[-1].workers}
            growth.beside |= {worker for worker in placed if not self._all >> worker & 1}
        return fit or FitKind.NEVER

    def _fits_with(self, workload: PendingWorkload, growth: PoolGrowth, blocked: Bits, opened: list[int]) -> bool:
        """True if the workload would be placed with these workers open; nothing is changed."""
        held = False

        def reject(_: list[int]) -> bool:
            nonlocal held
            held = True
            return False

        self._open(opened)
        try:
            self.placer.fit(workload, blocked, accept=reject)
        finally:
            self._close(opened)
        return held

    def _alternating(self, workers: list[int]) -> list[int]:
        """The workers in an order in which zones alternate, so that few of them are as many in each zone."""
        zones: dict[str, list[int]] = {}
        for worker in workers:
            zones.setdefault(self.overlay.index.infos[worker].zone, []).append(worker)
        return [worker for group in zip_longest(*zones.values()) for worker in group if worker is not None]

    def _try_to_place(self, workload: PendingWorkload, growth: PoolGrowth, blocked: Bits) -> FitKind | None:
        """NEW: placed. FULL: it needs more workers than the pool may have. None: it does not fit on opened workers."""
        refused = False

        def within_limit(workers: list[int]) -> bool:
            nonlocal refused
            refused = (
                len({worker for worker in workers if growth.workers >> worker & 1} - growth.used) > growth.remaining()
            )
            return not refused

        workers = self.placer.fit(workload, blocked, accept=within_limit)
        growth.used.update(worker for worker in workers if growth.workers >> worker & 1)
        return FitKind.NEW if workers else FitKind.FULL if refused else None

    # --- many of a kind ---

    def _count(self, more: IdenticalWorkloads) -> list[tuple[str, int]]:
        """Distribute by class, without packing: fractions of workers add up, and the sum is rounded down."""
        workload, count = more.workload, more.count
        customer = workload.subject.customer
        if customer in self.placer.remaining:
            count = min(count, self.placer.remaining[customer])
            self.placer.remaining[customer] -= count
        pool_fit = self.pool_fits.get(workload.id, PoolFit(FitKind.NOWHERE))
        if not count or not pool_fit.pool:
            return []
        requirement_class, pools, each = self._candidates_of(workload)
        if pool_fit.fit in (FitKind.ROOM, FitKind.NEVER, FitKind.REFUSED) or requirement_class.has_peers:
            return [(pool_fit.pool, count)]
        found: list[tuple[str, int]] = []
        for name in pools:
            if name not in each or not count:
                continue
            growth = self._growth[name]
            pods = 1 if workload.requirements.host_ports else each[name]
            one = workload.replicas / pods
            part = min(count, int(growth.remaining() / one)) if growth.room is not None else count
            if part:
                growth.extra += part * one
                found.append((name, part))
                count -= part
        if count:
            found.append((pools[0], count))
        return found

    # --- opening and closing ---

    def _close(self, workers: list[int]) -> None:
        """Set the free capacity of these workers to zero."""
        overlay = self.overlay
        for left, free in zip(overlay.free_list, overlay.free, strict=True):
            for worker in workers:
                left[worker] = free[worker] = 0
        self._changed(workers)

    def _open(self, workers: list[int]) -> None:
        """Give these workers the free capacity of empty workers."""
        overlay = self.overlay
        for left, free, full in zip(overlay.free_list, overlay.free, self._free, strict=True):
            for worker in workers:
                left[worker] = free[worker] = int(full[worker])
        self._changed(workers)

    def _changed(self, workers: list[int]) -> None:
        overlay = self.overlay
        for worker in workers:
            overlay.base[worker] = overlay.base_list[worker] = int(self._base[worker])
            if overlay.free_list[PODS_RESOURCE][worker] >= 1 and overlay.free_list[SLOTS_RESOURCE][worker] >= 1:
                overlay.open_workers |= 1 << worker
            else:
                overlay.open_workers = minus(overlay.open_workers, 1 << worker)
            overlay.change_log.append(worker)
