"""The strategy score of a worker: the share of its capacity left after placing, rated by its pool's strategy.

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

from niyanta.engine.snapshot.bitset import IntArray
from niyanta.engine.snapshot.worker_index import WorkerIndex
from niyanta.engine.types import Strategy

SHARE: Final = 1 << 20
SCORE_BITS: Final = 21
NAME_STEP: Final = 1 << 22
"""More than the largest number of workers (4 million)."""
_MAX_TAKEN: Final = SHARE + 1


def rounded(capacity: int) -> int:
    """A capacity rounded up to 6 significant bits, at least 1."""
    shift = max(capacity.bit_length() - 6, 0)
    return max(-(-capacity >> shift) << shift, 1)


class StrategyScore:
    """Shapes of workers and the arithmetic of the free share. Rebuilt when workers change, shared by all cycles.

    A shape is (strategy, cpu, memory in KiB, GPU resource or "", devices). Arrays have shape (shapes,) or, for
    `shape_of` and `name_rank`, (capacity,).
    """

    def __init__(self, index: WorkerIndex, allocatable: IntArray, cpu: int, memory: int, devices: int) -> None:
        capacity = allocatable.shape[1]
        shapes: dict[tuple[Strategy, int, int, str, int], int] = {}
        self.shape_of = np.zeros(capacity, np.intp)
        self.name_rank = np.zeros(capacity, np.int64)
        for rank, (_, worker) in enumerate(sorted(index.by_name.items(), reverse=True)):
            self.name_rank[worker] = rank
        amounts = allocatable[[cpu, memory, devices]].tolist()
        for worker, info in index.infos.items():
            key = (
                info.strategy,
                rounded(amounts[0][worker]),
                rounded(amounts[1][worker] >> 10),
                info.gpu.resource if info.gpu is not None else "",
                max(amounts[2][worker], 1),
            )
            self.shape_of[worker] = shapes.setdefault(key, len(shapes))
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

    def base_of(self, worker: int, cpu: int, memory: int, devices: int) -> int:
        """`base` of one worker."""
        pack, unit, gpu_unit, cpu_all, memory_all, devices_all = self.scalars[self.shapes[worker]]
        left = unit * cpu // cpu_all if cpu > 0 else 0
        if memory > 0:
            left += unit * (memory >> 10) // memory_all
        if gpu_unit and devices > 0:
            left += gpu_unit * devices // devices_all
        return ((SHARE - left) if pack else left) * NAME_STEP + self.ranks[worker]

    def shift(self, cpu: int, memory: int, devices_of: dict[str, int]) -> list[int]:
        """Amount that a request adds to `base`, per shape; `devices_of` by GPU resource."""
        memory >>= 10
        shift = []
        for (pack, unit, gpu_unit, cpu_all, memory_all, devices_all), resource in zip(
            self.scalars, self.gpu_resource, strict=True
        ):
            taken = unit * cpu // cpu_all + unit * memory // memory_all
            if gpu_unit:
                taken += gpu_unit * devices_of.get(resource, 0) // devices_all
            # A request above the whole capacity never fits: the bound keeps such requests inside int64.
            taken = min(taken, _MAX_TAKEN) * NAME_STEP
            shift.append(taken if pack else -taken)
        return shift
