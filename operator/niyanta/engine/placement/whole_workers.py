"""Allocatable amounts of whole workers: they tell workers that are too small for a pod from those without room now."""

from __future__ import annotations

import numpy as np

from niyanta.engine.snapshot.bitset import IntArray, to_indices
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE, Snapshot


class WholeWorkers:
    """The amounts in the form of `Overlay.free`, and the least of each, below which no comparison is needed."""

    def __init__(self, snapshot: Snapshot) -> None:
        index = snapshot.index
        workers = to_indices(index.alive, snapshot.capacity)
        self.amounts: list[IntArray] = list(snapshot.allocatable)
        self.least: list[int] = snapshot.allocatable[:, workers].min(axis=1, initial=2**62).tolist()
        """By resource, over all workers."""
        self.least_devices: dict[str, int] = {}
        """By GPU resource, over the workers that have it."""
        devices = self.amounts[DEVICES_RESOURCE] = snapshot.allocatable[DEVICES_RESOURCE].copy()
        for name, found in index.gpu_resources.items():
            workers = to_indices(found, snapshot.capacity)
            resource = snapshot.resources.get(name)
            own = 0 if resource is None else snapshot.allocatable[resource, workers]
            devices[workers] = np.minimum(devices[workers], own)
            self.least_devices[name] = int(devices[workers].min(initial=2**62))
