"""GPU devices of each worker, counted one by one. `snapshot` keeps the table."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from niyanta.engine.types import Charge, WorkerInfo

WHOLE_DEVICE: Final = 1000
"""One whole GPU device, in thousandths of a device."""

MAX_DEVICES: Final = 1024
"""Most devices of one worker; a node that reports more counts as having these."""


class DeviceTable:
    """`free`: int16, shape (capacity, devices), the free thousandths of each device."""

    def __init__(self, capacity: int) -> None:
        self.free: NDArray[np.int16] = np.zeros((capacity, 8), np.int16)

    def grow(self, more: int) -> None:
        """Make room for more workers."""
        self.free = np.pad(self.free, ((0, more), (0, 0)))

    def set_count(self, worker: int, count: int) -> None:
        """Give the worker this number of devices, all idle."""
        if count > self.free.shape[1]:
            self.free = np.pad(self.free, ((0, 0), (0, count - self.free.shape[1])))
        self.free[worker] = 0
        self.free[worker, :count] = WHOLE_DEVICE

    def take(self, worker: int, count: int) -> tuple[int, ...]:
        """Take idle devices, fewer if there are fewer; returns their numbers."""
        idle = np.flatnonzero(self.free[worker] == WHOLE_DEVICE)[:count]
        self.free[worker, idle] = 0
        return tuple(idle.tolist())

    def give(self, worker: int, devices: tuple[int, ...]) -> None:
        """Make devices idle again."""
        self.free[worker, list(devices)] = WHOLE_DEVICE


def device_count(info: WorkerInfo) -> int:
    """GPU devices of a worker: the count of its pool or, if that is 0, of the node's resource."""
    if info.gpu is None:
        return 0
    count = info.gpu.count or dict(info.allocatable).get(info.gpu.resource, 0)
    return min(max(count, 0), MAX_DEVICES)


def devices_of(charge: Charge, info: WorkerInfo) -> int:
    """Whole devices that a charge takes on a worker."""
    if info.gpu is None:
        return 0
    count = charge.gpu_count
    for name, amount in charge.requests:
        if name == info.gpu.resource:
            count += amount
    return count
