"""How many workers each pool needs: what runs, and what waits packed onto workers that aren't there yet.

`Planner` keeps a snapshot of its own with hypothetical empty workers beside the real ones. It first gives the waiting
work the free room of real workers, as the next cycle will, and then packs the rest onto hypothetical workers of the
one pool that each workload counts for (`packing`), opened one after the other. So work that fits beside what runs
costs no new worker.

A workload counts for the pool where it finds room now; else for the best pool by soft score, then by name, among those
whose empty worker could hold it. When that pool may not have more workers, it counts for the next best, and when none
may, for its best again. Work that its customer's limit keeps waiting counts for no pool, and work whose pods the API
server turns down makes no worker: more of them would not help.

The scheduler's `figures` feed it and turn the answer into metrics and explanations. Deterministic; not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from niyanta.engine.explain import nearest_miss
from niyanta.engine.placement.capacity import when_empty
from niyanta.engine.placement.feasibility import is_gpu_resource
from niyanta.engine.placement.overlay import Options, Overlay
from niyanta.engine.sizing.packing import MOST_ROWS, Packing, bits_of, hypothetical
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, IdenticalWorkloads, PoolFit
from niyanta.engine.snapshot.bitset import Bits, minus, to_rows
from niyanta.engine.snapshot.deltas import Delta, StateReplaced
from niyanta.engine.snapshot.snapshot import CPU_ROW, MEMORY_ROW, SLOTS_ROW, UNLIMITED, Snapshot
from niyanta.engine.types import PendingWorkload, Requirements, Subject, WorkerInfo

__all__ = ["EmptyPool", "FitKind", "IdenticalWorkloads", "Planner", "PoolFit", "PoolLoad", "Sizing"]

FIXED_ROWS = 16
"""Most hypothetical workers where nobody adds workers: they only tell whether a group could fit on empty ones."""

CLOSEST_KEPT = 2000
"""Most kinds of work that fit nowhere for which it is remembered what comes closest."""

_NOBODY = Subject("", "")
_KINDS = ("cpu", "memory", "gpu", "slots")


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What the real workers of a pool carry, and how many it needs."""

    workers: int = 0
    ready: int = 0
    """Ready and not cordoned."""
    in_use: int = 0
    """With at least one pod of Niyanta's."""
    pods: int = 0
    needed: int = 0
    utilization: Mapping[str, float | None] = field(default_factory=dict)
    percent_sum: int = 0


@dataclass(frozen=True, slots=True)
class Sizing:
    """`verdicts` by workload; `bulk`: by kind, how many of it count for which pool."""

    loads: Mapping[str, PoolLoad]
    verdicts: Mapping[str, PoolFit]
    bulk: Mapping[object, tuple[tuple[str, int], ...]]


class Planner:
    """Follows the cluster and sizes pools."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._pools: tuple[EmptyPool, ...] = ()
        self._rows: dict[str, list[WorkerInfo]] = {}
        """The hypothetical workers of each pool, in the order they are opened."""
        self._models = Snapshot()
        """One empty worker for each zone of each pool."""
        self._closest: dict[int, tuple[Requirements, PoolFit]] = {}

    def follow(self, deltas: Iterable[Delta]) -> None:
        """Bring changes of the cluster in; the hypothetical workers stay."""
        for delta in deltas:
            self.snapshot.apply(delta)
            if isinstance(delta, StateReplaced):
                for infos in self._rows.values():
                    for info in infos:
                        self.snapshot.upsert_worker(info)

    def size(
        self,
        pools: Sequence[EmptyPool],
        pending: Sequence[PendingWorkload],
        bulk: Sequence[IdenticalWorkloads],
        options: Options,
        refused: frozenset[str] = frozenset(),
    ) -> Sizing:
        """`pending` in queue order; `bulk` is what more there is of kinds that are among `pending`; `refused`
        are ids of those whose pods the API server turns down.
        """
        self._set_pools(tuple(sorted(pools, key=lambda pool: pool.name)))
        fork = self._stock(pending, bulk, options)
        packing = Packing(fork, self._pools, self._hypothetical(), refused)
        packing.run(pending, bulk)
        verdicts = {
            id_: self._find_closest(verdict, packing.requirements[id_]) if verdict.fit is FitKind.NOWHERE else verdict
            for id_, verdict in packing.verdicts.items()
        }
        needed = packing.needed()
        real = self._real()
        names = sorted({pool.name for pool in self._pools} | {name for name, rows in real.items() if rows})
        loads = {name: self._load(real.get(name, 0), needed.get(name, 0)) for name in names}
        return Sizing(loads, verdicts, packing.bulk)

    # --- hypothetical workers ---

    def _set_pools(self, pools: tuple[EmptyPool, ...]) -> None:
        if pools == self._pools:
            return
        before = {pool.name: pool.templates for pool in self._pools}
        after = {pool.name: pool.templates for pool in pools}
        for name in before.keys() - {name for name, templates in after.items() if templates == before.get(name)}:
            for info in self._rows.pop(name, ()):
                self.snapshot.remove_worker(info.name)
        self._pools = pools
        if before != after:
            self._models = Snapshot()
            for pool in pools:
                for number, template in enumerate(pool.templates):
                    self._models.upsert_worker(hypothetical(template, number))
            self._closest.clear()

    def _stock(
        self, pending: Sequence[PendingWorkload], bulk: Sequence[IdenticalWorkloads], options: Options
    ) -> Overlay:
        """A fork with enough hypothetical workers for whatever the packing could ask for, within reason."""
        for pool in self._pools:
            self._keep(pool, len(pool.templates))
        fork = Overlay(self.snapshot, options)
        wanted = self._wanted(fork, pending, bulk)
        version = self.snapshot.index.version
        for pool in self._pools:
            self._keep(pool, wanted.get(pool.name, 0))
        return fork if version == self.snapshot.index.version else Overlay(self.snapshot, options)

    def _wanted(
        self, fork: Overlay, pending: Sequence[PendingWorkload], bulk: Sequence[IdenticalWorkloads]
    ) -> dict[str, int]:
        """By pool, how many workers all of it would fill if every class had workers of its own: more than needed."""
        kinds: dict[int, tuple[Requirements, int]] = {}
        for workload, count in (*((w, 1) for w in pending), *((b.workload, b.count) for b in bulk)):
            asked = fork.requirements_class(workload.requirements)
            fork.keep(asked)
            known = kinds.get(id(asked), (workload.requirements, 0))
            kinds[id(asked)] = known[0], known[1] + count * workload.replicas
        wanted: dict[str, int] = {}
        spare = {pool: bits_of(rows) for pool, rows in self._hypothetical().items()}
        for requirements, pods in kinds.values():
            asked, fits, most = when_empty(fork, requirements)
            alone = asked.has_peers or bool(requirements.host_ports)
            for pool in self._pools:
                rows = spare.get(pool.name, 0) & fits
                if rows:
                    each = 1 if alone else int(most[(rows & -rows).bit_length() - 1])
                    more = -(-pods // each) * len(pool.templates)
                    wanted[pool.name] = wanted.get(pool.name, 0) + more
        return wanted

    def _keep(self, pool: EmptyPool, wanted: int) -> None:
        """Have about so many hypothetical workers; few changes, as each makes the next fork dearer."""
        rows = self._rows.setdefault(pool.name, [])
        most = MOST_ROWS if pool.most is None else min(MOST_ROWS, pool.most * len(pool.templates))
        if pool.fixed:
            most = min(most, FIXED_ROWS)
        least = len(pool.templates)
        target = min(max(least, 1 << max(wanted - 1, 0).bit_length()), max(most, least)) if least else 0
        if len(rows) < target:
            for number in range(len(rows), target):
                info = hypothetical(pool.templates[number % least], number)
                rows.append(info)
                self.snapshot.upsert_worker(info)
        elif len(rows) > 8 * target:
            for info in rows[target:]:
                self.snapshot.remove_worker(info.name)
            del rows[target:]

    def _hypothetical(self) -> dict[str, list[int]]:
        rows = self.snapshot.index.rows
        return {pool: [rows[info.name] for info in infos] for pool, infos in self._rows.items()}

    # --- what there is ---

    def _real(self) -> dict[str, Bits]:
        spare = self._hypothetical()
        return {name: minus(rows, bits_of(spare.get(name, ()))) for name, rows in self.snapshot.index.pools.items()}

    def _load(self, mine: Bits, needed: int) -> PoolLoad:
        snapshot, index = self.snapshot, self.snapshot.index
        rows = to_rows(mine, snapshot.capacity)
        if not len(rows):
            return PoolLoad(needed=needed, utilization=dict.fromkeys(_KINDS))
        have, used = snapshot.allocatable[:, rows], snapshot.used[:, rows].clip(min=0)
        gpus = [row for resource, row in snapshot.resources.items() if is_gpu_resource(index, resource)]
        slotted = have[SLOTS_ROW] < UNLIMITED
        pairs = {
            "cpu": (have[CPU_ROW], used[CPU_ROW]),
            "memory": (have[MEMORY_ROW], used[MEMORY_ROW]),
            "gpu": (have[gpus].sum(axis=0), used[gpus].sum(axis=0)),
            "slots": (have[SLOTS_ROW] * slotted, used[SLOTS_ROW] * slotted),
        }
        utilization: dict[str, float | None] = {}
        fullest = np.zeros(len(rows))
        for kind, (all_of_it, taken) in pairs.items():
            total = int(all_of_it.sum())
            utilization[kind] = round(min(int(taken.sum()) / total, 1.0), 3) if total else None
            shares = (taken / all_of_it.clip(min=1)).clip(max=1.0) * (all_of_it > 0)
            fullest = np.maximum(fullest, shares)
        usable = minus(minus(mine, index.not_ready), index.cordoned)
        return PoolLoad(
            workers=len(rows),
            ready=usable.bit_count(),
            in_use=int((used[SLOTS_ROW] > 0).sum()),
            pods=int(used[SLOTS_ROW].sum()),
            needed=needed,
            utilization=utilization,
            percent_sum=round(100 * float(fullest.sum())),
        )

    # --- what fits nowhere ---

    def _find_closest(self, verdict: PoolFit, requirements: Requirements) -> PoolFit:
        """Which pool's empty worker lacks least; peers are left out, they are about what runs."""
        known = self._closest.get(id(requirements))
        if known is not None and known[0] is requirements:
            return known[1]
        probe = PendingWorkload("", 0, 1, _NOBODY, replace(requirements, near=(), anti=()))
        found = verdict
        for miss in nearest_miss(self._models, probe, limit=1):
            found = replace(verdict, closest=self._models.worker(miss.worker).pool, lacks=miss.failed)
        if len(self._closest) >= CLOSEST_KEPT:
            self._closest.clear()
        self._closest[id(requirements)] = requirements, found
        return found
