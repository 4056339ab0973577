"""The pure part of a cycle: pending workloads go in, a plan comes out.

It runs after the snapshot has followed the cluster and the queue has put the workloads in order; the plan goes to the
store for the commit. Workloads are decided one after the other (`placer`), each seeing the placements before it: the
expedited lane's turns first (`lane`), then the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from niyanta.engine.expedited.lane import ExpeditedLane, Lane
from niyanta.engine.placement.overlay import Options, Overlay
from niyanta.engine.placement.placer import Placer
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import PendingWorkload, Plan

__all__ = ["Lane", "Options", "schedule"]

_POLL_EVERY_WORKLOADS = 32

_DEFAULTS = Options()


def schedule(
    snapshot: Snapshot,
    pending: Iterable[PendingWorkload],
    now: int,
    *,
    options: Options = _DEFAULTS,
    lane: Lane | None = None,
    stop: Callable[[], bool] | None = None,
) -> Plan:
    """Decide where to place the pending workloads.

    `pending` is in queue order, and `now` is in microseconds of the database's clock; only the expedited lane depends
    on it. `lane` holds the lane's state (`Plan.lane` of the cycle before) and the long-waiting workloads; None: no
    lane. `stop` is polled every 32 workloads, and before each try of the lane; once it is true the rest is counted as
    undecided. An error in the decision of one workload becomes a fault in the plan, and all others are decided. The
    snapshot is only read (its caches may grow). Equal input gives an equal plan. Sharing `Requirements` and `Subject`
    objects between workloads saves hashing them.
    """
    placer = Placer(Overlay(snapshot, options))
    expedited = None
    if lane is not None:
        expedited = ExpeditedLane(placer, lane, now, stop)
        pending = expedited.run(pending)
    queue = iter(pending)
    undecided = 0
    while batch := list(islice(queue, _POLL_EVERY_WORKLOADS)):
        if stop is not None and stop():
            undecided = len(batch) + sum(1 for _ in queue)
            break
        for workload in batch:
            placer.decide(workload)
    state = None if expedited is None else expedited.state()
    return Plan(tuple(placer.placements), tuple(placer.rejections), undecided, state, tuple(placer.faults))
