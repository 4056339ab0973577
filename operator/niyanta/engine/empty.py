"""What workers could take if no pod of Niyanta's ran there: for the lane's entrance, and for queue depths by pool."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from niyanta.engine.bits import Bits, IntArray, from_bool, to_rows
from niyanta.engine.classes import RequirementsClass
from niyanta.engine.columns import DEVICES_ROW, SLOTS_ROW, Snapshot
from niyanta.engine.cycle import Fork, Options
from niyanta.engine.model import Requirements

NO_LIMIT = 2**62


def when_empty(fork: Fork, requirements: Requirements) -> tuple[RequirementsClass, Bits, IntArray]:
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


def attribute(snapshot: Snapshot, classes: Mapping[str, Requirements], options: Options) -> dict[str, str]:
    """The one pool that pending work of each class counts for: best by score that could hold it empty, then by name.

    Keys of `classes` are class ids; a class that no worker could hold is left out. Must not run beside `schedule`.
    """
    fork = Fork(snapshot, options)
    found: dict[str, str] = {}
    for class_id, requirements in classes.items():
        asked, fits, _ = when_empty(fork, requirements)
        for level in asked.levels:
            pools = [name for name, rows in fork.index.pools.items() if rows & level & fits]
            if pools:
                found[class_id] = min(pools)
                break
    return found
