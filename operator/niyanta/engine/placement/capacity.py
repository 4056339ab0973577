"""Capacity of workers without Niyanta's pods: for entering the expedited lane, and for sizing pools."""

from __future__ import annotations

import numpy as np

from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.snapshot.bitset import Bits, IntArray, from_bool, to_indices
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE, MAX_AMOUNT, SLOTS_RESOURCE

NO_LIMIT_PODS = 2**62


def capacity_when_empty(overlay: Overlay, requirement_class: RequirementClass) -> tuple[Bits, IntArray]:
    """The workers that could take a pod of the class when empty, and the pods of each, shape (capacity,).

    Pods that Niyanta did not make (DaemonSets, ...) count as staying. A resource that no worker has ever had counts as
    zero, and so do the GPU devices of a worker whose device plugin is not up yet. Remembers the class.
    """
    snapshot = overlay.snapshot
    overlay.remember(requirement_class)
    mask = 0
    for part in requirement_class.levels:
        mask |= part
    pods = np.full(snapshot.capacity, NO_LIMIT_PODS, np.int64)
    if mask:
        room = snapshot.allocatable - snapshot.foreign
        np.minimum(pods, room[SLOTS_RESOURCE], out=pods)
        for resource, amount in requirement_class.needs:
            if amount > MAX_AMOUNT or resource < 0:
                pods[:] = 0
            elif amount:
                np.minimum(pods, room[resource] // amount, out=pods)
        for name, devices in requirement_class.devices_of.items():
            if devices:
                workers = to_indices(overlay.index.gpu_resources[name], snapshot.capacity)
                resource = snapshot.resources.get(name, -1)
                if resource < 0 or devices > MAX_AMOUNT:
                    pods[workers] = 0
                else:
                    free = np.minimum(room[DEVICES_RESOURCE, workers], room[resource, workers])
                    pods[workers] = np.minimum(pods[workers], free // devices)
        mask &= from_bool(pods >= 1)
    return mask, pods
