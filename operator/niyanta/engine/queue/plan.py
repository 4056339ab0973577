"""The pure part of a cycle: the queue and the cluster's changes go in, a plan comes out, and neither is changed.

1. The expedited lane gives its turns.
2. Parked classes that a change concerns, and those that are due for another try, become candidates.
3. Until no class has a head or the time is up: the best head is decided. Placed: the class's next workload is its head.
   Refused: the class is to be parked.

`Queue.follow` applies the result after the commit. Each cycle starts at the best active head: refused classes park, so
the next cycle begins where this one ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niyanta.engine.expedited.lane import ExpeditedLane, Lane
from niyanta.engine.expedited.lane_state import LaneState
from niyanta.engine.placement.feasibility import named_workers
from niyanta.engine.placement.overlay import Options, Overlay
from niyanta.engine.placement.placer import MAX_UNANCHORED_TERMS, Placer
from niyanta.engine.placement.requirement_class import Counts
from niyanta.engine.queue.class_queue import ClassQueue
from niyanta.engine.queue.heads import HeadCursor, Heads
from niyanta.engine.queue.queue import Queue, retry_at
from niyanta.engine.queue.wake_index import WakeIndex, Woken, has_room
from niyanta.engine.queue.watch import Park, watch_of
from niyanta.engine.snapshot.bitset import Bits
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import PendingWorkload, Plan, Reason, Rejection

_POLL_EVERY_DECISIONS = 32

MAX_LIMIT_NOTES = 256
"""Most classes of customers at their limit that one cycle reports."""

_TERM_WORK = 10_000
"""Work of a refused decision for each of its terms, in comparisons of one worker with one check."""

_DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class Parking:
    """A class that the cycle refused."""

    queue: ClassQueue
    park: Park
    before: Park | None
    """Its refusal before the cycle; None: it was active."""
    wakes: int
    """The class's `wakes` when the cycle began: if it has grown since, the class stays active."""


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """A cycle's decisions, and what they mean for the classes of the queue."""

    plan: Plan
    snapshot: Snapshot
    parks: tuple[Parking, ...] = ()
    woken: tuple[Woken, ...] = ()
    """Parked classes that are active now: a workload was placed, or their customer is at its limit."""
    undecided: tuple[Woken, ...] = ()
    """Parked classes that a change concerns and that the time didn't allow to decide."""
    idle: tuple[Woken, ...] = ()
    """Parked classes that a change concerned, but another workload took the room before their turn."""
    sources: tuple[str, ...] = ()
    """Kind of the change, for each parked class that one concerned: worker, term or retry."""
    deferred: int = 0
    """Customers whose part of the budget of refused decisions was spent while others had work."""
    missed: tuple[str, ...] = ()
    """Ids of workloads placed by a try that nothing had woken: their class should have been told of a change."""
    limited: frozenset[str] = frozenset()
    """Classes that wait for their customer's limit."""


def plan_queue(
    snapshot: Snapshot,
    queue: Queue,
    now: int,
    *,
    options: Options = _DEFAULTS,
    lane: Lane | None = None,
    retries: Sequence[ClassQueue] = (),
    limited: frozenset[str] = frozenset(),
    stop: Callable[[], bool] | None = None,
) -> QueuePlan:
    """Decide where to place the workloads of the active classes.

    `now`: microseconds of the database's clock. `retries`: parked classes to try although nothing changed
    (`Queue.due`). `limited`: classes that an earlier cycle reported as waiting for their customer's limit. `stop` is
    polled between decisions; once it is true the classes that are left stay active. An error in the decision of one
    workload becomes a fault in the plan. Takes the snapshot's changes: if the call fails, wake all classes.
    """
    return _Cycle(snapshot, queue, now, options, retries, limited, stop).run(lane)


class _Cycle:
    """One call of `plan_queue`."""

    def __init__(
        self,
        snapshot: Snapshot,
        queue: Queue,
        now: int,
        options: Options,
        retries: Sequence[ClassQueue],
        limited: frozenset[str],
        stop: Callable[[], bool] | None,
    ) -> None:
        snapshot.refresh(drop_unused_terms=_should_drop_terms(snapshot, queue.parked))
        self.snapshot = snapshot
        self.queue = queue
        self.now = now
        self.retries = retries
        self.stop = stop
        self.active = queue.active()
        self.wakes: dict[str, int] = {}
        self.overlay = Overlay(snapshot, options)
        self.placer = Placer(self.overlay)
        self.parks: list[Parking] = []
        self.idle: list[Woken] = []
        self.awake: set[str] = set()
        """Woken classes of which a workload was placed, or whose customer is at its limit."""
        self.missed: list[str] = []
        self.reported = limited
        self.limited: set[str] = set()

    def run(self, lane: Lane | None) -> QueuePlan:
        expedited = None
        if lane is not None:
            expedited = ExpeditedLane(self.placer, lane, self.now, self.stop)
            expedited.run(())
        woken = self._wake(lane, None if expedited is None else expedited.state())
        self.wakes = {queue.name: queue.wakes for found in self.active.values() for queue in found}
        self.wakes.update({name: found.queue.wakes for name, found in woken.items()})
        heads = Heads(self._below_limit(woken))
        left = self._decide(heads, woken)
        placer = self.placer
        state = None if expedited is None else expedited.state()
        plan = Plan(tuple(placer.placements), tuple(placer.rejections), len(left), state, tuple(placer.faults))
        refused = {parking.queue.name for parking in self.parks}
        unseen = {cursor.queue.name for cursor in left}
        return QueuePlan(
            plan,
            self.snapshot,
            tuple(self.parks),
            woken=tuple([woken[name] for name in self.awake if name not in refused]),
            undecided=tuple([found for name, found in woken.items() if name in unseen and name not in self.awake]),
            idle=tuple(found for found in self.idle if found.queue.name not in self.awake),
            sources=tuple([found.source for found in woken.values()]),
            deferred=heads.deferred,
            missed=tuple(self.missed),
            limited=frozenset(self.limited),
        )

    # --- waking ---

    def _wake(self, lane: Lane | None, state: LaneState | None) -> dict[str, Woken]:
        changes = self.snapshot.take_changes()
        if lane is not None and state is not None:
            changes.workers |= _ended_holds(self.overlay, lane.state, state)
        found = self.queue.parked.woken(self.overlay, changes, lambda queue: queue.park)
        woken = self.queue.unfinished(found)
        for queue in self.retries:
            if queue.park is not None:  # decided in any case, as nothing else would try it again in time
                known = woken.get(queue.name)
                source = "retry" if known is None else known.source
                woken[queue.name] = Woken(queue, queue.park, source, None)
        return woken

    def _below_limit(self, woken: dict[str, Woken]) -> dict[str, list[ClassQueue]]:
        """Customer -> its active and woken classes, without customers that are at their limit."""
        classes = {customer: list(queues) for customer, queues in self.active.items()}
        for found in woken.values():
            classes.setdefault(found.queue.customer, []).append(found.queue)
        for customer in [name for name, left in self.placer.remaining.items() if left <= 0]:
            queues = [(queue, first) for queue in classes.pop(customer, []) if (first := queue.first()) is not None]
            self._leave_at_limit(queues, customer, woken)
        return classes

    # --- deciding ---

    def _decide(self, heads: Heads, woken: dict[str, Woken]) -> list[HeadCursor]:
        """Decide heads until none is left or the time is up; returns the classes that are left."""
        placer, decided = self.placer, {placement.id for placement in self.placer.placements}
        decided.update(fault.id for fault in placer.faults)
        count = 0
        while (cursor := heads.next()) is not None:
            workload = cursor.workload()
            if decided and workload.id in decided:
                heads.go_on()
                continue
            if placer.remaining and placer.is_at_limit(workload):
                self._leave_at_limit(heads.leave_customer(), workload.subject.customer, woken)
                continue
            count += 1
            if not count % _POLL_EVERY_DECISIONS and self.stop is not None and self.stop():
                return heads.left()
            wake = woken.get(cursor.queue.name)
            if wake is not None and self._has_no_room(wake, workload):
                self.idle.append(wake)
                heads.leave()
                continue
            self._decide_head(heads, cursor, workload, wake)
        return []

    def _decide_head(self, heads: Heads, cursor: HeadCursor, workload: PendingWorkload, wake: Woken | None) -> None:
        placer = self.placer
        rejected = len(placer.rejections)
        placed = len(placer.placements)
        placer.decide(workload)
        if len(placer.placements) > placed:
            if wake is not None:
                if wake.source == "retry":
                    self.missed.append(workload.id)
                self.awake.add(cursor.queue.name)
            heads.go_on()
        elif len(placer.rejections) == rejected:  # its error concerns this workload alone
            heads.go_on()
        elif workload.excluded and len(cursor.queue) > 1 and not self._is_last(cursor):
            heads.go_on()  # its refusal may be its own; all workloads behind it are tried
        else:
            counts = placer.rejections[-1].counts
            self._park(cursor.queue, workload, counts, wake)
            heads.leave(self._work(workload, counts))

    def _is_last(self, cursor: HeadCursor) -> bool:
        entries = cursor.queue.entries()
        return not entries or entries[-1][2] == cursor.workload().id

    def _park(self, queue: ClassQueue, workload: PendingWorkload, counts: Counts, wake: Woken | None) -> None:
        watch = watch_of(self.overlay, workload, counts)
        before = None if wake is None else wake.park
        since = self.now if before is None else before.since
        index = self.overlay.index
        again = retry_at(queue.name, self.now)
        park = Park(workload.id, counts, len(index.by_name), since, again, watch, index.version)
        self.parks.append(Parking(queue, park, before, self.wakes[queue.name]))

    def _has_no_room(self, wake: Woken, workload: PendingWorkload) -> bool:
        """True if a woken class can be left as it was: what became free for it has been taken meanwhile."""
        if wake.within is None or workload.replicas > 1:
            return False
        return not has_room(self.overlay, wake.park.watch, wake.within)

    def _work(self, workload: PendingWorkload, counts: Counts) -> int:
        if counts and counts[0][0] is Reason.TERM_LIMIT:
            return 1
        wanted = workload.requirements
        terms = len(wanted.anti) + len(wanted.near)
        return len(self.overlay.index.by_name) * (4 + len(wanted.requests)) + _TERM_WORK * terms

    def _leave_at_limit(
        self, heads: Sequence[tuple[ClassQueue, PendingWorkload]], customer: str, woken: dict[str, Woken]
    ) -> None:
        """Leave the classes of a customer at its limit active, and report that they wait for it: each once for as long
        as that lasts."""
        count = len(self.overlay.index.by_name)
        counts = ((Reason.CONCURRENCY, customer, count),) if count else ()
        reports = 0
        for queue, head in heads:
            if queue.name in woken:
                self.awake.add(queue.name)
            if queue.name in self.reported:
                self.limited.add(queue.name)
            elif reports < MAX_LIMIT_NOTES:
                reports += 1
                self.limited.add(queue.name)
                self.placer.rejections.append(Rejection(head.id, head.version, count, counts))


def _ended_holds(overlay: Overlay, before: LaneState, after: LaneState) -> Bits:
    """Workers of the lane's reservations that ended or moved."""
    kept = {(reservation.id, reservation.workers) for reservation in after.reservations}
    gone = [r for r in before.reservations if (r.id, r.workers) not in kept]
    return named_workers(overlay.index, [worker for reservation in gone for worker in reservation.workers])


def _should_drop_terms(snapshot: Snapshot, parked: WakeIndex) -> bool:
    """True if classes wait for fewer terms of their customer, and enough of these are unused."""
    table = snapshot.affinity
    customers = {queue.customer for queue in parked.awaiting_terms}
    full = [customer for customer in customers if table.unanchored[customer] >= MAX_UNANCHORED_TERMS // 2]
    in_use = table.in_use() if full else {}
    return any(in_use.get(customer, 0) <= table.unanchored[customer] // 2 for customer in full)
