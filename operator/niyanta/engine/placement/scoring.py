"""Scores, one function per concern, in the order they decide:

1. `levels`: with `keep_gpu_workers_free`, workers without GPU before GPU workers (for workloads that need no GPU), then
   the soft terms. Workers of one level are equal in both.
2. `StrategyScore`: the pool's strategy, on the free share that would be left after placing.
3. The worker's name, ascending.

2 and 3 are one int64, `score * NAME_STEP + name rank`, so a choice is one argmax.

Free share left, 0 to SHARE: the weighted mean over cpu (1), memory (1) and, on a GPU worker, GPUs (2) of free /
capacity after placing. Pack prefers the smallest (best fit), Spread the largest. It is a difference of two integer
sums, of the worker before placing (kept per worker) and of the request (once per class and shape of worker):

    left = sum_r floor(unit_r * max(free_r, 0) / capacity_r) - sum_r floor(unit_r * request_r / capacity_r)

Capacities are rounded up to 6 significant bits for this, so that nodes which differ by a few KiB share one shape;
memory counts in KiB so that the products stay inside int64.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from niyanta.engine.placement.feasibility import matching, node_term
from niyanta.engine.snapshot.bitset import Bits, IntArray, minus, to_rows
from niyanta.engine.snapshot.worker_index import WorkerIndex
from niyanta.engine.types import SoftTerm, Strategy

NEUTRAL: Final = 50.0
"""Score of every worker when there is no soft term."""

SHARE: Final = 1 << 20
SCORE_BITS: Final = 21
NAME_STEP: Final = 1 << 22
"""More than the largest number of workers (4 million)."""
LEVEL_STEP: Final = NAME_STEP << SCORE_BITS
"""Level * LEVEL_STEP + strategy and name: the whole order in one int64, for up to 2^20 levels."""
_MAX_TAKEN: Final = SHARE + 1


def soft_bits(index: WorkerIndex, term: SoftTerm) -> Bits:
    """Workers that fulfil a wish."""
    if term.matcher is not None:
        return matching(index, term.matcher)
    return node_term(index, term.node) if term.node is not None else 0


def levels(
    index: WorkerIndex, static: Bits, soft: tuple[SoftTerm, ...], *, gpu_last: bool
) -> tuple[tuple[Bits, ...], tuple[float, ...]]:
    """Split the workers of `static` by preference, best first, with the soft score (0-100) of each part.

    Score = 100 * weight of matched terms / weight of all terms; neutral without terms. No part is empty.
    """
    if not soft:
        return _gpu_last(index, [(static, NEUTRAL)]) if gpu_last else ((static,), (NEUTRAL,))
    parts: dict[int, Bits] = {0: static}
    total = 0
    for term in soft:
        wanted = soft_bits(index, term)
        total += term.weight
        split: dict[int, Bits] = {}
        for weight, rows in parts.items():
            hit = rows & wanted
            miss = rows ^ hit
            if hit:
                split[weight + term.weight] = split.get(weight + term.weight, 0) | hit
            if miss:
                split[weight] = split.get(weight, 0) | miss
        parts = split
    ordered = sorted(parts.items(), reverse=True)
    scored = [(rows, 100 * weight / total if total else NEUTRAL) for weight, rows in ordered]
    if gpu_last:
        return _gpu_last(index, scored)
    return tuple([rows for rows, _ in scored]), tuple([score for _, score in scored])


def _gpu_last(index: WorkerIndex, scored: list[tuple[Bits, float]]) -> tuple[tuple[Bits, ...], tuple[float, ...]]:
    plain = [(minus(rows, index.gpu), score) for rows, score in scored]
    both = plain + [(rows & index.gpu, score) for rows, score in scored]
    kept = [part for part in both if part[0]]
    return tuple([rows for rows, _ in kept]), tuple([score for _, score in kept])


def rounded(capacity: int) -> int:
    """A capacity rounded up to 6 significant bits, at least 1."""
    shift = max(capacity.bit_length() - 6, 0)
    return max(-(-capacity >> shift) << shift, 1)


class StrategyScore:
    """Shapes of workers and the arithmetic of the free share. Built when workers change, shared by all cycles.

    A shape is (strategy, cpu, memory in KiB, GPU resource or "", devices). Arrays have shape (shapes,) or, for
    `shape_of` and `name_rank`, (capacity,).
    """

    def __init__(self, index: WorkerIndex, allocatable: IntArray, cpu: int, memory: int, devices: int) -> None:
        capacity = allocatable.shape[1]
        shapes: dict[tuple[Strategy, int, int, str, int], int] = {}
        self.shape_of = np.zeros(capacity, np.intp)
        self.name_rank = np.zeros(capacity, np.int64)
        for rank, (_, row) in enumerate(sorted(index.rows.items(), reverse=True)):
            self.name_rank[row] = rank
        columns = allocatable[[cpu, memory, devices]].tolist()
        for row, info in index.infos.items():
            key = (
                info.strategy,
                rounded(columns[0][row]),
                rounded(columns[1][row] >> 10),
                info.gpu.resource if info.gpu is not None else "",
                max(columns[2][row], 1),
            )
            self.shape_of[row] = shapes.setdefault(key, len(shapes))
        if not shapes:
            shapes[(Strategy.PACK, 1, 1, "", 1)] = 0
        self.single = len(shapes) == 1
        self.gpu_resource = [key[3] for key in shapes]
        self.pack = np.array([key[0] is Strategy.PACK for key in shapes])
        self.cpu = np.array([key[1] for key in shapes], np.int64)
        self.memory = np.array([key[2] for key in shapes], np.int64)
        self.devices = np.array([key[4] for key in shapes], np.int64)
        gpu = np.array([bool(key[3]) for key in shapes])
        self.unit = np.where(gpu, SHARE // 4, SHARE // 2).astype(np.int64)
        self.gpu_unit = np.where(gpu, SHARE // 2, 0).astype(np.int64)
        self.scalars = [
            (bool(self.pack[s]), int(self.unit[s]), int(self.gpu_unit[s]), key[1], key[2], key[4])
            for s, key in enumerate(shapes)
        ]
        self.shapes = self.shape_of.tolist()
        self.ranks = self.name_rank.tolist()

    def base(self, cpu: IntArray, memory: IntArray, devices: IntArray) -> IntArray:
        """Order of all workers by strategy and name before placing; free amounts, shape (capacity,)."""
        shape = self.shape_of
        unit = self.unit[shape]
        left = unit * np.maximum(cpu, 0) // self.cpu[shape]
        left += unit * (np.maximum(memory, 0) >> 10) // self.memory[shape]
        left += self.gpu_unit[shape] * np.maximum(devices, 0) // self.devices[shape]
        return np.where(self.pack[shape], SHARE - left, left) * NAME_STEP + self.name_rank

    def base_of(self, row: int, cpu: int, memory: int, devices: int) -> int:
        """`base` of one worker."""
        pack, unit, gpu_unit, cpu_all, memory_all, devices_all = self.scalars[self.shapes[row]]
        left = unit * cpu // cpu_all if cpu > 0 else 0
        if memory > 0:
            left += unit * (memory >> 10) // memory_all
        if gpu_unit and devices > 0:
            left += gpu_unit * devices // devices_all
        return ((SHARE - left) if pack else left) * NAME_STEP + self.ranks[row]

    def shift(self, cpu: int, memory: int, devices_of: dict[str, int]) -> list[int]:
        """What a request adds to `base`, per shape; `devices_of` by GPU resource."""
        memory >>= 10
        shift = []
        for (pack, unit, gpu_unit, cpu_all, memory_all, devices_all), resource in zip(
            self.scalars, self.gpu_resource, strict=True
        ):
            taken = unit * cpu // cpu_all + unit * memory // memory_all
            if gpu_unit:
                taken += gpu_unit * devices_of.get(resource, 0) // devices_all
            # No worker of the shape can take more than all it has: the bound keeps absurd requests inside int64.
            taken = min(taken, _MAX_TAKEN) * NAME_STEP
            shift.append(taken if pack else -taken)
        return shift


def rows_by_level(parts: tuple[Bits, ...], capacity: int) -> IntArray:
    """Level of each worker, best = highest, -1 = in none; shape (capacity,)."""
    level = np.full(capacity, -1, np.int64)
    for number, rows in enumerate(reversed(parts)):
        level[to_rows(rows, capacity)] = number
    return level
