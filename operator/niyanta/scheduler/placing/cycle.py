"""The cycle: pending + snapshot -> plan -> commit -> apply. The engine thinks in a thread, everything else is here."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from niyanta.engine.expedited.lane_state import LaneSettings, LaneState
from niyanta.engine.explain import lane_note, nearest_miss, summary
from niyanta.engine.schedule import Lane, Options, schedule
from niyanta.engine.snapshot.deltas import Delta
from niyanta.engine.types import PendingWorkload, Placement, Plan, Reason, Rejection
from niyanta.lifecycle import Event
from niyanta.observability import log
from niyanta.scheduler.intake.work_queue import PendingReason
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.session import Session
from niyanta.store.rows import PendingNote as StoreNote
from niyanta.store.rows import RowChange

logger = log.get(__name__)

MOST_PENDING = 20_000
"""Most workloads offered to the engine in one cycle: bounds the time to copy them out of the heap."""

COMMIT_SIZE = 500
"""Most placements in one transaction."""

NOTE_EVERY = 5.0
"""Least seconds between two notes on why one workload waits: counts change with every placement elsewhere."""

FIT_PATIENCE = 2.5
"""Longest that the first note waits for what the figures say of it, seconds."""

UNSCHEDULABLE = "Unschedulable"

NEAREST_PER_ROUND = 10
"""Most workloads whose nearest miss is worked out with one batch of notes: some milliseconds each."""

NOTES_PER_CYCLE = 500

ENTER_EVERY = 1.0
"""Least seconds between two looks for workloads that have waited long enough for the expedited lane: O(queue)."""

ENTER_AFTER = 0.8
"""Part of max_queue_wait after which a workload may enter the lane."""


@dataclass(frozen=True, slots=True)
class EngineResult:
    """What the engine said about one batch, and how many changes of the cluster it had to follow."""

    plan: Plan
    deltas: int
    seconds: float


class Cycle:
    """Runs cycles of one session; remembers what was rejected so that nothing is thought twice without cause."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.number = 0
        self._deltas = session.cluster.delta_cursor()
        self._unnoted: dict[str, Rejection] = {}
        """What the last cycle said of workloads that couldn't be noted yet: the last word is always written."""
        self._rejected: dict[str, Rejection] = {}
        """All that the last cycle said, and since when (monotonic) each has been turned away."""
        self._rejected_at: dict[str, float] = {}
        self._fits = session.fits
        """As of the last look at what waiting work would fit."""
        self._lane = LaneState()
        """A new leader starts with an empty lane: see docs/queue.md for what that costs those who were in it."""
        self._entered_at = 0.0
        self._running: dict[str, tuple[int, int]] = {}
        """By customer with a limit, at the last cycle's end: how many workloads it runs and may run."""

    async def run(self) -> bool:
        """One cycle. Returns whether work is left that a next cycle should look at at once."""
        session = self.session
        pending = list(itertools.islice(session.mirror.queue.in_order(), MOST_PENDING))
        self.number += 1
        now = session.clock.now()
        lane = self._lane_input(now)
        if lane is not None and len(pending) == MOST_PENDING:
            offered = {workload.id for workload in pending}
            pending += [workload for workload in lane.waited if workload.id not in offered]
        options = self._options()
        with session.telemetry.phase("engine"):
            thought = await asyncio.to_thread(
                self._think, self._deltas.take(), pending, now, options=options, lane=lane
            )
        plan = thought.plan
        self._lane = plan.lane or self._lane
        self._count_running(plan.placements)
        if plan.placements:
            await self._commit(plan.placements)
        self._reject(plan.rejections)
        self.collect_notes()
        session.telemetry.thought(thought.seconds, plan.rejections)
        if plan.placements:
            logger.info(
                "cycle placed",
                cycle=self.number,
                pending=len(pending),
                placed=len(plan.placements),
                rejected=len(plan.rejections),
                undecided=plan.undecided,
                engine_ms=round(thought.seconds * 1000, 1),
            )
        return plan.undecided > 0 or len(pending) >= MOST_PENDING

    def _options(self) -> Options:
        """The engine's settings, with what customers may still place."""
        session = self.session
        self._running = {}
        for customer, bound in session.mirror.bound_by_customer().items():
            limit = session.cluster.limits_of(customer).concurrent
            if limit is not None:
                self._running[customer] = bound, limit
        remaining = {customer: max(limit - runs, 0) for customer, (runs, limit) in self._running.items()}
        return Options(keep_gpu_workers_free=session.settings.keep_gpu_workers_free, remaining=remaining)

    def _count_running(self, placements: Sequence[Placement]) -> None:
        """What this plan places runs as well when the rest is told why it waits."""
        if not self._running:
            return
        for placement in placements:
            tracked = self.session.mirror.get(placement.id)
            if tracked is not None and tracked.row.customer in self._running:
                runs, limit = self._running[tracked.row.customer]
                self._running[tracked.row.customer] = runs + 1, limit

    def _lane_input(self, now: int) -> Lane | None:
        settings, queue = self.session.settings, self.session.mirror.queue
        if not settings.enable_expedited_lane:
            return None
        after = round(ENTER_AFTER * settings.max_queue_wait * 1e6)
        if time.monotonic() - self._entered_at >= ENTER_EVERY:
            self._entered_at = time.monotonic()
            waited = queue.long_waiting(now - after)
            known = {workload.id for workload in waited}
        else:
            waited, known = [], set()
        members = [queue.get(name) for name in self._lane.members if name not in known]
        waited += [workload for workload in members if workload is not None]
        return Lane(LaneSettings(after, settings.expedited_share), self._lane, waited)

    def _think(
        self,
        deltas: Sequence[Delta],
        pending: Sequence[PendingWorkload],
        now: int,
        *,
        options: Options,
        lane: Lane | None,
    ) -> EngineResult:
        """In the engine's thread: follow the cluster, then plan for at most max_cycle_seconds."""
        session = self.session
        start = time.monotonic()
        for delta in deltas:
            session.snapshot.apply(delta)
        end = start + session.settings.max_cycle_seconds
        plan = schedule(session.snapshot, pending, now, options=options, lane=lane, stop=lambda: time.monotonic() > end)
        return EngineResult(plan, len(deltas), time.monotonic() - start)

    async def _commit(self, placements: Sequence[Placement]) -> None:
        session = self.session
        dropped: set[str] = set()
        for start in range(0, len(placements), COMMIT_SIZE):
            part = [p for p in placements[start : start + COMMIT_SIZE] if not dropped.intersection(p.depends_on)]
            session.tick()
            ids = frozenset(p.id for p in part)
            changes = [change for p in part if (change := self._change(p, ids)) is not None]
            with session.telemetry.commit():
                result = await session.state.update_workload_status_batch(
                    changes, epoch=session.epoch, cycle=self.number
                )
            session.telemetry.dropped(result)
            dropped.update((*result.stale, *result.illegal))
            for row in result.applied:
                tracked = session.mirror.get(row.id)
                if tracked is not None:
                    session.after(row, LifecycleDecision(Event.PLACE, row.reason, row.message))
                    session.start(tracked)
            session.pace.placed(result.applied)
            await session.refresh((*result.stale, *result.illegal))

    def _change(self, placement: Placement, batch: frozenset[str]) -> RowChange | None:
        tracked = self.session.mirror.get(placement.id)
        if tracked is None:
            return None
        return RowChange(
            id=placement.id,
            version=placement.version,
            event=Event.PLACE,
            reason="Placed",
            message="",
            workers=placement.workers,
            pool=placement.pool,
            score=placement.score,
            attempt=placement.attempt,
            depends_on=tuple(i for i in placement.depends_on if i in batch),
            wake_in_seconds=float(tracked.spec.start_timeout_seconds),
        )

    def _reject(self, rejections: Sequence[Rejection]) -> None:
        now = time.monotonic()
        self._rejected = {rejection.id: rejection for rejection in rejections}
        self._unnoted = dict(self._rejected)
        self._rejected_at = {id_: self._rejected_at.get(id_, now) for id_ in self._rejected}

    def _follow_fits(self) -> None:
        """What became known since about pools that waiting work would fit is to be noted as well."""
        fits = self.session.fits
        if fits is self._fits:
            return
        before, self._fits = self._fits, fits
        for id_, rejection in self._rejected.items():
            tracked = self.session.mirror.get(id_)
            if tracked is not None and fits.of(tracked) != before.of(tracked):
                self._unnoted[id_] = rejection

    def collect_notes(self) -> None:
        """Have the reasons of the last cycle noted, as far as the limits allow; the others at a later call."""
        session = self.session
        now = time.monotonic()
        collected = 0
        self._follow_fits()
        for rejection in list(self._unnoted.values()):
            tracked = session.mirror.get(rejection.id)
            if tracked is None or rejection.id not in session.mirror.queue:
                del self._unnoted[rejection.id]
                continue
            if now - tracked.noted_at < NOTE_EVERY:
                continue
            limited = rejection.counts[:1] and rejection.counts[0][0] is Reason.CONCURRENCY
            if (
                not limited
                and session.fits.of(tracked) is None
                and now - self._rejected_at[rejection.id] < FIT_PATIENCE
            ):
                continue
            del self._unnoted[rejection.id]
            text = summary(rejection, tracked.requirements, self._running)
            if expedited := lane_note(self._lane, rejection.id):
                text += f"; {expedited}"
            if not limited and (fit := session.fits.text(tracked)):
                text += f"; {fit}"
            if tracked.row.message == text:
                continue
            tracked.noted_at = now
            counts = tuple((reason.value, detail, count) for reason, detail, count in rejection.counts)
            reason = Reason.CONCURRENCY.value if limited else UNSCHEDULABLE
            session.inbox.put_note(PendingReason(rejection.id, reason, text, counts))
            collected += 1
            if collected >= NOTES_PER_CYCLE:
                break

    def _nearest(self, notes: Sequence[PendingReason]) -> dict[str, tuple[dict[str, Any], ...]]:
        """For some of the unschedulable, which worker came closest and what it lacks. Not beside `_think`."""
        session = self.session
        queued = [w for n in notes if n.reason == UNSCHEDULABLE and (w := session.mirror.queue.get(n.workload_id))]
        found: dict[str, tuple[dict[str, Any], ...]] = {}
        for workload in queued[:NEAREST_PER_ROUND]:
            for miss in nearest_miss(session.snapshot, workload, limit=1):
                failed = [f"{reason.value} ({detail})" if detail else reason.value for reason, detail in miss.failed]
                found[workload.id] = ({"nearestMiss": {"worker": miss.worker, "failed": failed}},)
        return found

    async def write_notes(self, notes: Sequence[PendingReason]) -> None:
        """Record why rows wait; Events and status follow."""
        session = self.session
        misses = await asyncio.to_thread(self._nearest, notes)
        batch = []
        for note in notes:
            tracked = session.mirror.get(note.workload_id)
            if tracked is None or tracked.row.phase.terminal or tracked.row.message == note.message:
                continue
            reasons = (*note.reasons, *misses.get(note.workload_id, ()), *session.fits.reasons(tracked))
            batch.append(StoreNote(note.workload_id, tracked.row.version, note.reason, note.message, reasons))
        if not batch:
            return
        for row in await session.state.note_pending(batch, epoch=session.epoch):
            tracked = session.mirror.get(row.id)
            if tracked is None:
                continue
            first = tracked.row.reason != row.reason
            tracked.row = row
            session.cluster.project(row)
            if first:
                session.cluster.tell(row, reason=row.reason, message=row.message, warning=True)
