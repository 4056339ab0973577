"""One packing of waiting work onto real workers and then onto hypothetical ones: the heart of `sizing`.

Works on a fork in which the hypothetical workers begin without any room. A worker gets its room when a workload finds
none on those opened before it, and loses it again when it wasn't used: so the engine's own choice of workers decides,
and no strategy spreads work over workers that nobody needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from niyanta.engine.placement.capacity import when_empty
from niyanta.engine.placement.feasibility import needs_gpu
from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.placer import Placer
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, IdenticalWorkloads, PoolFit
from niyanta.engine.snapshot.bitset import Bits, from_bool, minus, to_rows
from niyanta.engine.snapshot.snapshot import PODS_ROW, SLOTS_ROW
from niyanta.engine.types import HOSTNAME_TOPOLOGY, PODS, PendingWorkload, Requirements, WorkerInfo

MOST_ROWS = 1024
"""Most hypothetical workers of one pool; what needs more is counted by its class, not packed."""


def hypothetical(template: WorkerInfo, number: int) -> WorkerInfo:
    """An empty worker that isn't there yet. No node can have its name; in name order, zones alternate."""
    name = f"{template.pool}/{number:05}"
    host = {HOSTNAME_TOPOLOGY: name}
    return replace(
        template,
        name=name,
        labels=tuple(sorted((dict(template.labels) | host).items())),
        tags=tuple(sorted((host | dict(template.tags)).items())),
    )


def bits_of(rows: Iterable[int]) -> Bits:
    """The set of some rows."""
    found = 0
    for row in rows:
        found |= 1 << row
    return found


class _Spares:
    """The hypothetical workers of one pool."""

    def __init__(self, pool: EmptyPool, rows: list[int], room: int | None) -> None:
        self.pool = pool
        self.rows = bits_of(rows)
        self.room = room
        """Most of them that may be used; None: no limit."""
        self.closed = list(rows)
        """In the order they are opened."""
        self.used: set[int] = set()
        self.extra = 0.0
        """Workers beyond those packed, counted by class."""

    @property
    def zones(self) -> int:
        return max(len(self.pool.templates), 1)

    @property
    def capped(self) -> bool:
        """Whether there might have been more of them, but that is as many as are packed one by one."""
        return self.rows.bit_count() >= MOST_ROWS

    def left(self) -> float:
        """How many more workers the pool may have."""
        return float("inf") if self.room is None else max(self.room - len(self.used) - self.extra, 0.0)


class Packing:
    """`run` once; then `verdicts`, `bulk` and `needed` tell what came out."""

    def __init__(
        self,
        fork: Overlay,
        pools: Sequence[EmptyPool],
        hypothetical: Mapping[str, list[int]],
        refused: frozenset[str] = frozenset(),
    ) -> None:
        """`refused`: workloads whose pods the API server turns down; they take no room and no worker."""
        self.fork = fork
        self._refused = refused
        self.decider = Placer(fork)
        self.verdicts: dict[str, PoolFit] = {}
        self.requirements: dict[str, Requirements] = {}
        self.bulk: dict[object, tuple[tuple[str, int], ...]] = {}
        self._pools = {pool.name: pool for pool in pools}
        self._rows = dict(hypothetical)
        self._all = bits_of(row for rows in self._rows.values() for row in rows)
        self._free = [column.copy() for column in fork.free]
        """Free amounts as they were when all was open."""
        self._base = fork.base.copy()
        self._spares: dict[str, _Spares] = {}
        self._candidates: dict[int, tuple[RequirementClass, list[str], dict[str, int]]] = {}

    def run(self, pending: Sequence[PendingWorkload], bulk: Sequence[IdenticalWorkloads] = ()) -> None:
        """First the room there is, then new workers, each in queue order; then what is counted by class."""
        self._close([row for rows in self._rows.values() for row in rows])
        for workload in pending:
            if workload.id not in self._refused:
                self.decider.decide(workload)
        for placement in self.decider.placements:
            self.verdicts[placement.id] = PoolFit(FitKind.ROOM, placement.pool)
        self._measure()
        for workload in pending:
            self.requirements[workload.id] = workload.requirements
            if workload.id not in self.verdicts:
                self.verdicts[workload.id] = self._grow(workload)
        for more in bulk:
            self.bulk[more.key] = tuple(self._count(more))

    def needed(self) -> dict[str, int]:
        """Workers in use after all that, by pool."""
        found: dict[str, int] = {}
        for name, rows in self.fork.index.pools.items():
            own = minus(rows, self._all)
            used = (own & self._in_use()).bit_count()
            spares = self._spares.get(name)
            if spares is not None:
                new = len(spares.used) + int(spares.extra)
                used += new
                # Whole idle workers that can take none of what waits stand for none of the new ones. Either pods of
                # others fill them, or they are in the wrong zone: then each other zone may get one first and no more,
                # or a zone that never gets any would make the pool grow for ever.
                idle = minus(own & self._whole(name), self._in_use())
                taken = idle & self._taken(spares.pool)
                if new:
                    used += taken.bit_count() + min(minus(idle, taken).bit_count(), new * (spares.zones - 1))
            found[name] = used
        return found

    # --- what is there ---

    def _in_use(self) -> Bits:
        """Workers that Niyanta's pods are on, or would be by now."""
        return from_bool(self.fork.snapshot.allocatable[SLOTS_ROW] > self.fork.free[SLOTS_ROW]) & self.fork.index.alive

    def _whole(self, pool: str) -> Bits:
        """Workers that are what a new one of the pool would be: ready, open, and with all that it offers.

        One that is still starting (its not-ready taint isn't gone, its device plugin isn't up) stands for a new one.
        Counted as idle it would be ordered twice.
        """
        index, snapshot = self.fork.index, self.fork.snapshot
        usable = minus(minus(index.alive, index.not_ready), index.cordoned)
        spares = self._rows.get(pool)
        if not spares:
            return usable
        offers = snapshot.allocatable[:, spares[:1]]
        usable &= from_bool(np.logical_and.reduce(snapshot.allocatable >= offers))
        for taint, rows in index.taints.items():
            if taint not in index.infos[spares[0]].taints:
                usable = minus(usable, rows)
        return usable

    def _taken(self, pool: EmptyPool) -> Bits:
        """Workers where others than Niyanta, and than what every worker has, take something."""
        if pool.daemons is None:
            return 0
        snapshot = self.fork.snapshot
        usual = dict(pool.daemons)
        taken = np.zeros(snapshot.capacity, np.bool_)
        for name, column in snapshot.resources.items():
            if name != PODS:
                taken |= snapshot.foreign[column] > usual.get(name, 0)
        return from_bool(taken)

    def _measure(self) -> None:
        """How many new workers each pool may have: those still starting are among them, idle ones aren't."""
        in_use = self._in_use()
        for name, pool in self._pools.items():
            there = minus(self.fork.index.pools.get(name, 0), self._all) & (in_use | self._whole(name))
            room = None if pool.most is None else max(pool.most - there.bit_count(), 0)
            self._spares[name] = _Spares(pool, self._rows.get(name, []), 0 if pool.fixed else room)

    # --- one workload ---

    def _grow(self, workload: PendingWorkload) -> PoolFit:
        if self.decider.is_at_limit(workload):
            return PoolFit(FitKind.LIMITED)
        _, pools, each = self._candidates_of(workload)
        if not pools:
            return PoolFit(FitKind.NOWHERE)
        if workload.id in self._refused:
            return PoolFit(FitKind.REFUSED, pools[0])
        full = ""
        for name in pools:
            fit = self._place(workload, self._spares[name], each[name]) if name in each else FitKind.NEVER
            if fit is FitKind.NEW:
                return PoolFit(FitKind.NEW, name)
            if fit is FitKind.FULL and not full:
                full = name
        return PoolFit(FitKind.FULL, full) if full else PoolFit(FitKind.NEVER, pools[0])

    def _candidates_of(self, workload: PendingWorkload) -> tuple[RequirementClass, list[str], dict[str, int]]:
        """Pools that could hold a pod when empty, best first; and for those that could on a new worker, how many."""
        asked = self.fork.requirements_class(workload.requirements)
        known = self._candidates.get(id(asked))
        if known is not None:
            return known
        asked, fits, most = when_empty(self.fork, workload.requirements)
        ranked: list[tuple[int, str]] = []
        each: dict[str, int] = {}
        for name, rows in self.fork.index.pools.items():
            if name not in self._pools:
                continue
            new = rows & fits & self._all
            here = new or rows & fits
            for level, part in enumerate(asked.levels):
                if here & part:
                    ranked.append((level, name))
                    break
            if new:
                each[name] = int(most[to_rows(new, self.fork.snapshot.capacity)].max())
        if self.fork.options.keep_gpu_workers_free and not needs_gpu(self.fork.index, workload.requirements):
            # It may use GPU workers that are there, but none is made for it while others could hold it.
            plain = [(level, name) for level, name in ranked if not self._has_gpus(name)]
            ranked = plain or ranked
        found = self._candidates[id(asked)] = asked, [name for _, name in sorted(ranked)], each
        return found

    def _has_gpus(self, pool: str) -> bool:
        return bool(self.fork.index.pools.get(pool, 0) & self.fork.index.gpu)

    def _place(self, workload: PendingWorkload, spares: _Spares, each: int) -> FitKind:
        """On real workers and opened ones of this pool; then with as few more of them as it takes."""
        simple = workload.replicas == 1 and not workload.requirements.near and not workload.requirements.anti
        blocked = minus(self._all, spares.rows)
        opened: list[int] = []
        reached = -1
        while (fit := self._fits(workload, spares, blocked)) is None:
            if simple and spares.left() < 1:
                fit = FitKind.FULL
            elif opened and self.decider.reached <= reached:
                fit = FitKind.NEVER
            elif not spares.closed and spares.capped and spares.left() >= 1:
                spares.extra += 1 / each if simple else 0
                fit = FitKind.NEW
            elif not spares.closed:
                fit = FitKind.FULL
            if fit is not None:
                break
            reached = self.decider.reached
            workers = max(-(-(workload.replicas - reached) // each), 1)
            batch, spares.closed = spares.closed[: workers * spares.zones], spares.closed[workers * spares.zones :]
            self._open(batch)
            opened += batch
        idle = [row for row in opened if row not in spares.used]
        self._close(idle)
        spares.closed = idle + spares.closed
        return fit

    def _fits(self, workload: PendingWorkload, spares: _Spares, blocked: Bits) -> FitKind | None:
        """NEW: placed. FULL: it would be, on more workers than the pool may have. None: there is no room."""
        refused = False

        def within_limit(rows: list[int]) -> bool:
            nonlocal refused
            refused = len({row for row in rows if spares.rows >> row & 1} - spares.used) > spares.left()
            return not refused

        rows = self.decider.fit(workload, blocked, accept=within_limit)
        spares.used.update(row for row in rows if spares.rows >> row & 1)
        return FitKind.NEW if rows else FitKind.FULL if refused else None

    # --- many of a kind ---

    def _count(self, more: IdenticalWorkloads) -> list[tuple[str, int]]:
        """Share out by class, without packing: fractions of workers add up, and the sum is rounded down."""
        workload, count = more.workload, more.count
        customer = workload.subject.customer
        if customer in self.decider.remaining:
            count = min(count, self.decider.remaining[customer])
            self.decider.remaining[customer] -= count
        verdict = self.verdicts.get(workload.id, PoolFit(FitKind.NOWHERE))
        if not count or not verdict.pool:
            return []
        asked, pools, each = self._candidates_of(workload)
        if verdict.fit in (FitKind.ROOM, FitKind.NEVER, FitKind.REFUSED) or asked.has_peers:
            return [(verdict.pool, count)]
        found: list[tuple[str, int]] = []
        for name in pools:
            if name not in each or not count:
                continue
            spares = self._spares[name]
            pods = 1 if workload.requirements.host_ports else each[name]
            one = workload.replicas / pods
            part = min(count, int(spares.left() / one)) if spares.room is not None else count
            if part:
                spares.extra += part * one
                found.append((name, part))
                count -= part
        if count:
            found.append((pools[0], count))
        return found

    # --- opening and closing ---

    def _close(self, rows: list[int]) -> None:
        """No room there."""
        fork = self.fork
        for left, free in zip(fork.left, fork.free, strict=True):
            for row in rows:
                left[row] = free[row] = 0
        self._changed(rows)

    def _open(self, rows: list[int]) -> None:
        """The room of an empty worker."""
        fork = self.fork
        for left, free, full in zip(fork.left, fork.free, self._free, strict=True):
            for row in rows:
                left[row] = free[row] = int(full[row])
        self._changed(rows)

    def _changed(self, rows: list[int]) -> None:
        fork = self.fork
        for row in rows:
            fork.base[row] = fork.base_list[row] = int(self._base[row])
            if fork.left[PODS_ROW][row] >= 1 and fork.left[SLOTS_ROW][row] >= 1:
                fork.open |= 1 << row
            else:
                fork.open = minus(fork.open, 1 << row)
            fork.log.append(row)
