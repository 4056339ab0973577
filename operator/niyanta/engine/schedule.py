"""The pure part of a cycle: pending workloads in, a plan out.

Comes after the snapshot (`columns`) has been fed and the queue has put the workloads in order; the plan goes to the
store for the commit. Workloads are decided one after the other (`decide`), each seeing what was placed before it: the
expedited lane's turns first (`lane`), then the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from niyanta.engine.expedited.lane import Expedite, Lane
from niyanta.engine.placement.overlay import Options, Overlay
from niyanta.engine.placement.placer import Placer
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import PendingWorkload, Plan

__all__ = ["Lane", "Options", "schedule"]

_POLL_EVERY = 32

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
    """Decide where the pending workloads go.

    `pending` is in queue order and `now` in microseconds; the order already holds what `now` is about, so only the
    expedited lane depends on it. `lane` holds what the lane was left with (`Plan.lane` of the cycle before) and who has
    waited long; None: no lane. `stop` is polled every 32 workloads; once it is true the rest is counted as undecided.
    The snapshot is only read (its caches may grow). Equal input gives an equal plan. Sharing `Requirements` and
    `Subject` objects between workloads saves hashing them.
    """
    decider = Placer(Overlay(snapshot, options))
    expedite = None
    if lane is not None:
        expedite = Expedite(decider, lane, now)
        pending = expedite.run(pending)
    queue = iter(pending)
    undecided = 0
    while batch := list(islice(queue, _POLL_EVERY)):
        if stop is not None and stop():
            undecided = len(batch) + sum(1 for _ in queue)
            break
        for workload in batch:
            decider.decide(workload)
    state = None if expedite is None else expedite.state()
    return Plan(tuple(decider.placements), tuple(decider.rejections), undecided, state)
