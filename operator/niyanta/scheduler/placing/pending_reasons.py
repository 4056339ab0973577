"""Pending reasons: explanations of waiting workloads, collected from the engine's rejections and other rules and
written in batches.

`cycle` passes in the engine's rejections; `transitions`, `pods.observer` and `intake.admission` add reasons of their
own. The leader's loop writes them once a round; statuses and Events follow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from niyanta.aio import Timer
from niyanta.containment import Boundary, contained, record
from niyanta.engine.expedited.lane_state import LaneState
from niyanta.engine.explain import lane_note, nearest_miss, needs, summary
from niyanta.engine.queue.class_queue import ClassQueue
from niyanta.engine.sizing.pool_fit import PoolFit
from niyanta.engine.types import Reason, Rejection
from niyanta.scheduler.cluster_api import ClusterReports
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.placing.class_states import ClassKey, ClassStates, Kinds, says_the_same
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.store.row_mapping import from_us
from niyanta.store.rows import ClassState, PendingNote, WorkloadRow
from niyanta.store.state import StateManager

REPEAT_AFTER_SECONDS = 5.0
LONGEST_REPEAT_SECONDS = 60.0
"""Least time between the first two reasons of one workload; it doubles with each further one."""

SETTLED_AFTER_SECONDS = 3.0
"""Time for which the reasons of a class have to stay the same before they replace what its workloads say: a node that
comes and goes must not be written for everything that waits."""

AWAIT_SIZING_SECONDS = 2.5
"""Longest time that the first reason of a workload waits for its sizing result."""

LOOK_EVERY_SECONDS = 1.0
"""Time between two searches for workloads that joined a class which is refused already."""

LOOK_REST = 30
"""A search takes at most one part in so many of the time: with tens of thousands of classes it is made less often."""

EXPLAINED_PER_CYCLE_ROWS = 500
"""Most reasons collected at once, of workloads and of classes."""

NEAREST_MISSES_PER_WRITE = 10
"""Most nearest misses computed for one write; each takes some milliseconds."""


@dataclass(frozen=True, slots=True)
class PendingReason:
    """The explanation of a waiting row; recording it doesn't move the row."""

    workload_id: str
    reason: str
    message: str
    reasons: tuple[tuple[str, str, int], ...] = ()
    """The engine's counts: reason, detail, number of workers."""
    needs: tuple[str, ...] = ()
    """Properties of the worker that has to be there first, if no present one may ever take it."""

    def values(self, *more: Any) -> list[Any]:
        """All of its typed reasons as JSON values, with `more`."""
        needed = ({"needs": list(self.needs)},) if self.needs else ()
        return [*(list(count) for count in self.reasons), *needed, *more]


_OURS = frozenset({Reason.CONCURRENCY.value, RowReason.UNSCHEDULABLE.value})


@dataclass(slots=True)
class _RefusedClass:
    """A class of the queue that the engine refused, and its workloads that are to be explained."""

    rejection: Rejection
    since: float
    """Monotonic time of the first refusal in a row."""
    sizing: PoolFit | None
    """Of its first workload. Those that are sized one by one may fit elsewhere."""
    unexplained: dict[str, None]
    """Ids of workloads, in the order of the queue."""
    wakes: int
    """The class's `wakes` when its workloads were last looked at."""
    queue_classes: dict[ClassKey, str] = field(default_factory=dict)
    """Its classes in Postgres, and the id of the first workload of each."""
    kinds: Kinds = frozenset()
    kinds_since: float = 0.0
    """Monotonic time since which `kinds` are the same."""

    def follow(self, now: float) -> bool:
        """Bring `kinds` up to date; True if they changed."""
        kinds = _kinds(self.rejection)
        if kinds == self.kinds:
            return False
        self.kinds, self.kinds_since = kinds, now
        return True


class PendingReasons:
    """Collects pending reasons, the latest for each workload, and writes them.

    A refusal holds for a class, so it explains all workloads of the class in memory. A workload's reason is written
    when the class is first refused and when the *kinds* of reasons change, not when only their counts do: otherwise
    each change of the cluster would be written for everything that waits.
    """

    def __init__(self, state: SchedulerState, *, store: StateManager, cluster: ClusterReports) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._unwritten: dict[str, PendingReason] = {}
        self._refused: dict[str, _RefusedClass] = {}
        """By the class's name."""
        self._open: dict[str, None] = {}
        """Refused classes with workloads to explain."""
        self._states = ClassStates(state, store=store)
        self._open_states: dict[str, None] = {}
        """Refused classes whose state may have to be written."""
        self._look = Timer(LOOK_EVERY_SECONDS)
        self._sizing = state.sizing_result
        """The sizing result that the collected reasons are based on."""
        self._lane = LaneState()
        self._running: Mapping[str, tuple[int, int]] = {}

    def add(self, workload_id: str, reason: str, message: str) -> None:
        """Add a reason to the next batch."""
        self._unwritten[workload_id] = PendingReason(workload_id, reason, message)

    @property
    def unwritten(self) -> Sequence[PendingReason]:
        """Reasons that the next `write` records."""
        return list(self._unwritten.values())

    @property
    def has_unwritten(self) -> bool:
        """True if `write` has something to do."""
        return bool(self._unwritten) or self._states.has_unwritten

    def follow_cycle(
        self, rejections: Sequence[Rejection], *, lane: LaneState, running: Mapping[str, tuple[int, int]]
    ) -> None:
        """Take over a cycle's rejections, at most one for each class. What is known of other classes stays.

        `running`: customer with a limit -> (running workloads, limit)."""
        now = time.monotonic()
        self._lane, self._running = lane, running
        for rejection in rejections:
            found = self._state.workloads.queue.class_of(rejection.id)
            if found is not None:
                refused = self._refused.get(found.name)
                if refused is None:
                    refused = self._refused[found.name] = _RefusedClass(rejection, now, self._fit(found), {}, -1)
                refused.rejection = rejection
                self._look_at(found, refused, now)
        self.collect()

    def collect(self) -> None:
        """Explain workloads of refused classes within the limits above; later calls explain the rest."""
        now = time.monotonic()
        if self._look.due():
            self._follow_classes()
            self._explain_states(now)
            self._look.rest(LOOK_REST * (time.monotonic() - now))
        left = EXPLAINED_PER_CYCLE_ROWS
        for name in list(self._open):
            refused = self._refused.get(name)
            if refused is not None:
                left -= self._explain_class(refused, now, most=left)
            if refused is None or not refused.unexplained:
                del self._open[name]
            if left <= 0:
                return

    def _explain_class(self, refused: _RefusedClass, now: float, *, most: int) -> int:
        """Explain at most `most` workloads of a class; returns their number."""
        explained = 0
        for workload_id in list(refused.unexplained):
            tracked = self._state.workloads.get(workload_id)
            if tracked is None or workload_id not in self._state.workloads.queue:
                del refused.unexplained[workload_id]
                continue
            explains = tracked.row.reason in _OURS
            kinds = self._kinds_of(tracked, refused)
            if explains and tracked.explained == kinds:
                del refused.unexplained[workload_id]
                continue
            before = tracked.explained
            early = before is not None and _is_early(tracked.noted_at, tracked.notes, refused, now)
            if early if explains else self._awaits_sizing(tracked, refused, now):
                continue
            found = None
            with contained(Boundary.ROW, workload_id):
                found = self._explain(tracked, refused.rejection)
            del refused.unexplained[workload_id]
            tracked.explained, row = kinds, tracked.row
            if found is None or (
                before is None and says_the_same(row.reason, row.message, (found.reason, found.message))
            ):
                continue  # an earlier leader wrote it
            tracked.noted_at = now
            tracked.notes += 1
            self._unwritten[workload_id] = found
            explained += 1
            if explained >= most:
                break
        return explained

    def _explain_states(self, now: float) -> None:
        """Put the states of refused classes whose reasons have changed and settled, a bounded number of them."""
        left = EXPLAINED_PER_CYCLE_ROWS
        for name in list(self._open_states):
            refused, waits = self._refused.get(name), False
            for key, workload_id in () if refused is None else refused.queue_classes.items():
                tracked = self._state.workloads.get(workload_id)
                if refused is None or tracked is None:
                    continue  # the class is looked at again when its workloads change
                kinds, note = self._shared_kinds(tracked, refused), self._states.last_note(key)
                if note is not None and note.kinds == kinds:
                    continue
                if left <= 0 or (
                    self._awaits_sizing(tracked, refused, now)
                    if note is None
                    else _is_early(note.at, note.notes, refused, now)
                ):
                    waits = True
                    continue
                with contained(Boundary.ROW, workload_id):
                    self._states.put(self._state_of(key, tracked, refused, now), kinds, now)
                left -= 1
            if not waits:
                del self._open_states[name]

    def _state_of(self, key: ClassKey, tracked: TrackedWorkload, refused: _RefusedClass, now: float) -> ClassState:
        found = self._explain(tracked, refused.rejection, in_lane=False)
        since = self._state.clock.now() - round((now - refused.kinds_since) * 1e6)
        reasons = found.values(*self._state.sizing_result.reasons(tracked))
        return ClassState(*key, reasons=reasons, reason=found.reason, message=found.message, since=from_us(since))

    def _kinds_of(self, tracked: TrackedWorkload, refused: _RefusedClass) -> Kinds:
        kinds = self._shared_kinds(tracked, refused)
        return kinds | {("lane", "")} if tracked.id in self._lane.members else kinds

    def _shared_kinds(self, tracked: TrackedWorkload, refused: _RefusedClass) -> Kinds:
        fit = self._state.sizing_result.of(tracked)
        return refused.kinds | {("sizing", "" if fit is None else f"{fit.fit.value} {fit.pool}")}

    def _follow_classes(self) -> None:
        """Forget classes that are gone, and look again at those with new workloads or another sizing result."""
        now = time.monotonic()
        sizing, before = self._state.sizing_result, self._sizing
        self._sizing = sizing
        for name, refused in list(self._refused.items()):
            found = self._state.workloads.queue.find_class(name)
            if found is None:
                self._states.leave(list(refused.queue_classes), now)
                del self._refused[name]
            else:
                self._look_at(found, refused, now)
        self._states.expire(now, lambda: {key for one in self._refused.values() for key in one.queue_classes})
        for workload_id in sizing.changed_since(before):
            found = self._state.workloads.queue.class_of(workload_id)
            if found is not None and found.name in self._refused:
                self._refused[found.name].unexplained[workload_id] = None
                self._open[found.name] = None

    def _look_at(self, found: ClassQueue, refused: _RefusedClass, now: float) -> None:
        """Let the workloads of a class be explained if its reasons are others, or if workloads joined."""
        fit = self._fit(found)
        if refused.follow(now) or found.wakes != refused.wakes or fit != refused.sizing:
            refused.wakes, refused.sizing = found.wakes, fit
            self._list_workloads(found, refused, now)
            self._open[found.name] = self._open_states[found.name] = None

    def _list_workloads(self, found: ClassQueue, refused: _RefusedClass, now: float) -> None:
        """Bring the workloads and the classes in Postgres of a refused class up to date."""
        before, refused.queue_classes = refused.queue_classes, {}
        for workload in found.in_order():
            refused.unexplained[workload.id] = None
            tracked = self._state.workloads.get(workload.id)
            if tracked is not None and tracked.row.queue_class:
                refused.queue_classes.setdefault((tracked.row.customer, tracked.row.queue_class), workload.id)
        self._states.leave([key for key in before if key not in refused.queue_classes], now)

    def _fit(self, found: ClassQueue) -> PoolFit | None:
        first = found.first()
        tracked = None if first is None else self._state.workloads.get(first.id)
        return None if tracked is None else self._state.sizing_result.of(tracked)

    def _awaits_sizing(self, tracked: TrackedWorkload, refused: _RefusedClass, now: float) -> bool:
        return (
            not _limited(refused.rejection)
            and self._state.sizing_result.of(tracked) is None
            and now - refused.since < AWAIT_SIZING_SECONDS
        )

    def _explain(self, tracked: TrackedWorkload, rejection: Rejection, *, in_lane: bool = True) -> PendingReason:
        limited = _limited(rejection)
        text = summary(rejection, tracked.requirements, self._running)
        if in_lane and (expedited := lane_note(self._lane, tracked.id)):
            text += f"; {expedited}"
        if not limited and (fit := self._state.sizing_result.text(tracked)):
            text += f"; {fit}"
        counts = tuple((reason.value, detail, count) for reason, detail, count in rejection.counts)
        reason = Reason.CONCURRENCY.value if limited else RowReason.UNSCHEDULABLE
        pool_fit = self._state.sizing_result.of(tracked)
        needed = () if tracked.requirements is None else needs(rejection, tracked.requirements, pool_fit)
        return PendingReason(tracked.id, str(reason), text, counts, needed)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Record the collected reasons; statuses and Events follow. Reasons are kept until the store has answered."""
        batch = self.unwritten
        misses = await asyncio.to_thread(self._nearest_misses, batch)
        notes = []
        for item in batch:
            tracked = self._state.workloads.get(item.workload_id)
            if tracked is None or tracked.row.phase.terminal or tracked.row.message == item.message:
                continue
            with contained(Boundary.ROW, tracked.id):
                details = self._state.sizing_result.reasons(tracked)
                reasons = item.values(*misses.get(item.workload_id, ()), *details)
                notes.append(PendingNote(tracked.id, tracked.row.version, str(item.reason), item.message, reasons))
        done = await in_isolation(
            notes, lambda part: self._store.note_pending(part, epoch=self._state.epoch), group=self._namespace
        )
        for note, error in done.culprits:
            record(Boundary.ROW, note.id, error)
        for rows in done.results:
            self._follow_rows(rows)
        for item in batch:
            if self._unwritten.get(item.workload_id) is item:
                del self._unwritten[item.workload_id]
        await self._states.write()

    def _namespace(self, note: PendingNote) -> str:
        tracked = self._state.workloads.get(note.id)
        return "" if tracked is None else tracked.row.namespace

    def _follow_rows(self, rows: Sequence[WorkloadRow]) -> None:
        for row in rows:
            tracked = self._state.workloads.get(row.id)
            if tracked is None:
                continue
            first = tracked.row.reason != row.reason
            tracked.row = row
            self._cluster.write_status(row)
            if first:
                self._cluster.record_event(row, reason=row.reason, message=row.message, warning=True)

    def _nearest_misses(self, batch: Sequence[PendingReason]) -> dict[str, tuple[dict[str, Any], ...]]:
        """For some of the unschedulable workloads, the worker that failed the fewest checks, and those checks. Runs in
        a thread, never at the same time as the engine, because both use the snapshot."""
        queue = self._state.workloads.queue
        queued = [w for n in batch if n.reason == RowReason.UNSCHEDULABLE and (w := queue.get(n.workload_id))]
        found: dict[str, tuple[dict[str, Any], ...]] = {}
        for workload in queued[:NEAREST_MISSES_PER_WRITE]:
            with contained(Boundary.ROW, workload.id):
                for miss in nearest_miss(self._state.snapshot, workload, limit=1):
                    failed = [
                        f"{reason.value} ({detail})" if detail else reason.value for reason, detail in miss.failed
                    ]
                    found[workload.id] = ({"nearestMiss": {"worker": miss.worker, "failed": failed}},)
        return found


def _is_early(noted_at: float, notes: int, refused: _RefusedClass, now: float) -> bool:
    """True if reasons that were written at `noted_at`, the last of `notes` times, should not be replaced yet."""
    pause = min(REPEAT_AFTER_SECONDS * 2.0 ** min(notes - 1, 8), LONGEST_REPEAT_SECONDS)
    return now - noted_at < pause or now - refused.kinds_since < SETTLED_AFTER_SECONDS


def _kinds(rejection: Rejection) -> Kinds:
    """Kinds of reasons. The detail of a group changes with every placement, like a count."""
    return frozenset((reason.value, "" if reason is Reason.GROUP else detail) for reason, detail, _ in rejection.counts)


def _limited(rejection: Rejection) -> bool:
    """True if the workload waits for its customer's limit of running workloads."""
    return bool(rejection.counts) and rejection.counts[0][0] is Reason.CONCURRENCY
