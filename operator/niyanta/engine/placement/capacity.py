"""What workers could take if no pod of Niyanta's ran there: for the lane's entrance, and for sizing pools."""

from __future__ import annotations

import numpy as np

from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.snapshot.bitset import Bits, IntArray, from_bool, to_rows
from niyanta.engine.snapshot.snapshot import DEVICES_ROW, SLOTS_ROW
from niyanta.engine.types import Requirements

NO_LIMIT = 2**62


def when_empty(fork: Overlay, requirements: Requirements) -> tuple[RequirementClass, Bits, IntArray]:
    """The class, the workers that could take a pod of it when empty, and how many pods; shape (capacity,).

    Pods of others (DaemonSets, ...) count as staying.
    """
    snapshot = fork.snapshot
    asked = fork.requirements_class(requirements)
    fork.keep(asked)
    mask = 0
    for part in asked.levels:
        mask |= part
    pods = np.full(snapshot.capacity, NO_LIMIT, np.int64)
    if mask:
        room = snapshot.allocatable - snapshot.foreign
        np.minimum(pods, room[SLOTS_ROW], out=pods)
        for column, amount in asked.needs:
            if amount:
                np.minimum(pods, room[column] // amount, out=pods)
        for resource, devices in asked.devices_of.items():
            if devices:
                rows = to_rows(fork.index.gpu_resources[resource], snapshot.capacity)
                most = np.minimum(room[DEVICES_ROW, rows], room[snapshot.resources[resource], rows])
                pods[rows] = np.minimum(pods[rows], most // devices)
        mask &= from_bool(pods >= 1)
    return asked, mask, pods
