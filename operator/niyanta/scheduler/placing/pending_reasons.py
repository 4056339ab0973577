"""Pending reasons: explanations of waiting workloads, collected from the engine's rejections and other rules and
written in batches.

`cycle` passes in the engine's rejections; `transitions`, `pods.observer` and `intake.admission` add reasons of their
own. The leader's loop writes them once a round; statuses and Events follow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from niyanta.containment import Boundary, contained, record
from niyanta.engine.expedited.lane_state import LaneState
from niyanta.engine.explain import lane_note, nearest_miss, summary
from niyanta.engine.types import Reason, Rejection
from niyanta.scheduler.cluster_api import ClusterReports
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.rows import PendingNote, WorkloadRow
from niyanta.store.state import StateManager

REPEAT_AFTER_SECONDS = 5.0
"""Least time between two reasons of one workload, whose counts change with every placement."""

AWAIT_SIZING_SECONDS = 2.5
"""Longest time that the first reason of a workload waits for its sizing result."""

EXPLAINED_PER_CYCLE_ROWS = 500
"""Most reasons collected at once."""

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


class PendingReasons:
    """Collects pending reasons, the latest for each workload, and writes them."""

    def __init__(self, state: SchedulerState, *, store: StateManager, cluster: ClusterReports) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._unwritten: dict[str, PendingReason] = {}
        self._uncollected: dict[str, Rejection] = {}
        """Rejections of the last cycle that aren't explained yet."""
        self._rejected: dict[str, Rejection] = {}
        """All rejections of the last cycle."""
        self._rejected_at: dict[str, float] = {}
        """Rejected workload -> monotonic time of its first rejection in a row."""
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

    def follow_cycle(
        self, rejections: Sequence[Rejection], *, lane: LaneState, running: Mapping[str, tuple[int, int]]
    ) -> None:
        """Take over a cycle's rejections. `running`: customer with a limit -> (running workloads, limit)."""
        now = time.monotonic()
        self._lane, self._running = lane, running
        self._rejected = {rejection.id: rejection for rejection in rejections}
        self._uncollected = dict(self._rejected)
        self._rejected_at = {id_: self._rejected_at.get(id_, now) for id_ in self._rejected}
        self.collect()

    def collect(self) -> None:
        """Explain the last cycle's rejections within the limits above; later calls explain the rest."""
        now = time.monotonic()
        collected = 0
        self._follow_sizing()
        for rejection in list(self._uncollected.values()):
            tracked = self._state.workloads.get(rejection.id)
            if tracked is None or rejection.id not in self._state.workloads.queue:
                del self._uncollected[rejection.id]
                continue
            if now - tracked.noted_at < REPEAT_AFTER_SECONDS or self._awaits_sizing(tracked, rejection, now):
                continue
            del self._uncollected[rejection.id]
            found = None
            with contained(Boundary.ROW, rejection.id):
                found = self._explain(tracked, rejection)
            if found is None or tracked.row.message == found.message:
                continue
            tracked.noted_at = now
            self._unwritten[found.workload_id] = found
            collected += 1
            if collected >= EXPLAINED_PER_CYCLE_ROWS:
                break

    def _follow_sizing(self) -> None:
        """Mark rejections for a new explanation if their sizing result has changed."""
        sizing = self._state.sizing_result
        if sizing is self._sizing:
            return
        before, self._sizing = self._sizing, sizing
        for id_, rejection in self._rejected.items():
            tracked = self._state.workloads.get(id_)
            if tracked is not None and sizing.of(tracked) != before.of(tracked):
                self._uncollected[id_] = rejection

    def _awaits_sizing(self, tracked: TrackedWorkload, rejection: Rejection, now: float) -> bool:
        return (
            not _limited(rejection)
            and self._state.sizing_result.of(tracked) is None
            and now - self._rejected_at[rejection.id] < AWAIT_SIZING_SECONDS
        )

    def _explain(self, tracked: TrackedWorkload, rejection: Rejection) -> PendingReason:
        limited = _limited(rejection)
        text = summary(rejection, tracked.requirements, self._running)
        if expedited := lane_note(self._lane, rejection.id):
            text += f"; {expedited}"
        if not limited and (fit := self._state.sizing_result.text(tracked)):
            text += f"; {fit}"
        counts = tuple((reason.value, detail, count) for reason, detail, count in rejection.counts)
        reason = Reason.CONCURRENCY.value if limited else RowReason.UNSCHEDULABLE
        return PendingReason(rejection.id, reason, text, counts)

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
                reasons = (*item.reasons, *misses.get(item.workload_id, ()), *details)
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


def _limited(rejection: Rejection) -> bool:
    """True if the workload waits for its customer's limit of running workloads."""
    return bool(rejection.counts) and rejection.counts[0][0] is Reason.CONCURRENCY
