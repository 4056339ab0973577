"""Transitions of workloads: the only module that moves rows, and that updates memory and the cluster for a moved row.

Decisions come from `pods.observer`, `intake.admission`, `periodic.wake_ups`, `periodic.maintenance` and
`placing.cycle`. All of this runs in the leader's loop, one round at a time, so two decisions of the leader never race.
Pods are created and deleted in concurrent tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from niyanta.containment import Boundary, SharedFaultError
from niyanta.lifecycle import Door, Event, Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi, NodeState, WriteProblem
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.metrics import SchedulerMetrics
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.pods.pod_creator import PodCreator
from niyanta.scheduler.pods.pod_remover import PodRemover
from niyanta.scheduler.reasons import EventReason, RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.store.rows import BatchResult, RowChange, WorkloadRow, worker_names
from niyanta.store.state import StateManager

logger = log.get(__name__)

BATCH_ROWS = 500
"""Most rows in one transaction: commits stay around 100 ms."""

FIRST_REQUEUE_BACKOFF_SECONDS = 0.5
LONGEST_REQUEUE_BACKOFF_SECONDS = 30.0
"""Range of the wait between two attempts when the cause lies outside the workload (quota, namespace)."""

MOST_DOUBLINGS = 64
"""Bound of the exponent of a backoff: large powers of two exceed a float."""

REFUSED_FOR_ANY_WORKER = frozenset(
    problem.value for problem in (WriteProblem.QUOTA, WriteProblem.FORBIDDEN, WriteProblem.NAMESPACE)
)
"""Reasons for which the pod would be refused on any other worker too."""


@dataclass(frozen=True, slots=True)
class TransitionRequest:
    """A decision to commit for a tracked workload."""

    tracked: TrackedWorkload
    decision: LifecycleDecision


class Transitions:
    """Commits decisions under the leader's epoch, then updates memory and the cluster for the rows that moved."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        work_queue: WorkQueue,
        creator: PodCreator,
        remover: PodRemover,
        reasons: PendingReasons,
        metrics: SchedulerMetrics,
        tick: Callable[[], None],
    ) -> None:
        """`tick` is called before each transaction, so that a long series of them doesn't count as a stall."""
        self._state = state
        self._store = store
        self._cluster = cluster
        self._work_queue = work_queue
        self._creator = creator
        self._remover = remover
        self._reasons = reasons
        self._metrics = metrics
        self._tick = tick

    # --- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, requests: Sequence[TransitionRequest]) -> None:
        """Commit decisions in batches and apply each row that moved. A workload whose decision raises an unexpected
        error is parked. Raises SharedFaultError."""
        for start in range(0, len(requests), BATCH_ROWS):
            changes = []
            decisions = {}
            for request in requests[start : start + BATCH_ROWS]:
                try:
                    changes.append(self._change(request))
                except Exception as error:
                    self._state.parked.park(request.tracked, Boundary.ROW, error)
                else:
                    decisions[request.tracked.id] = request.decision
            result = await self._write(changes)
            for row in result.applied:
                self._apply(row, decisions[row.id])
            await self.refresh((*result.stale, *result.illegal))

    async def place(self, changes: Sequence[RowChange], *, cycle: int) -> Sequence[str]:
        """Commit placements in one transaction and start their pods. Returns the ids of rows that were left out: their
        version had changed, or they raised an unexpected error and are parked."""
        result = await self._write(changes, cycle=cycle)
        for row in result.applied:
            self._apply(row, LifecycleDecision(Event.PLACE, row.reason, row.message))
        self._state.placement_rate.placed(result.applied)
        await self.refresh((*result.stale, *result.illegal))
        applied = {row.id for row in result.applied}
        return [change.id for change in changes if change.id not in applied]

    async def hold_parked(self) -> None:
        """Commit that parked workloads are Held, so that users see it; placed ones without pods go back to the queue
        first. One whose row can't be written stays parked in memory."""
        parked = self._state.parked
        waiting = parked.unheld()
        if waiting:
            events = {t.id: Event.HOLD if t.row.phase is Phase.PENDING else Event.REQUEUE for t in waiting}
            changes = [
                RowChange(
                    *(t.id, t.row.version, events[t.id], RowReason.INTERNAL_ERROR.value, t.parked),
                    wake_in_seconds=None,
                    counts=False,
                )
                for t in waiting
            ]
            result = await self._write(changes)
            for row in result.applied:
                self._apply(row, LifecycleDecision(events[row.id], row.reason, row.message))
            moved = {row.id for row in result.applied}
            for tracked in waiting:
                if tracked.id not in moved:
                    parked.give_up(tracked)
            await self.refresh((*result.stale, *result.illegal))
        parked.settled()

    async def _write(self, changes: Sequence[RowChange], *, cycle: int | None = None) -> BatchResult:
        """Write a batch; changes that raise an unexpected error are left out, and their workloads are parked."""

        async def write(part: Sequence[RowChange]) -> BatchResult:
            self._tick()
            with self._metrics.commit():
                return await self._store.update_workload_status_batch(part, epoch=self._state.epoch, cycle=cycle)

        batch = await in_isolation(changes, write, group=lambda change: self._namespace(change.id))
        result = BatchResult([], [], [])
        for part in batch.results:
            self._metrics.dropped(part)
            result.applied.extend(part.applied)
            result.stale.extend(part.stale)
            result.illegal.extend(part.illegal)
        for change, error in batch.culprits:
            tracked = self._state.workloads.get(change.id)
            if tracked is not None:
                self._state.parked.park(tracked, Boundary.ROW, error)
        return result

    def _namespace(self, workload_id: str) -> str:
        tracked = self._state.workloads.get(workload_id)
        return "" if tracked is None else tracked.row.namespace

    def _apply(self, row: WorkloadRow, decision: LifecycleDecision, *, adopted: bool = False) -> None:
        """Apply a row that moved; an unexpected error parks its workload. The row is committed already, so memory must
        follow it in any case. `adopted`: its pods exist."""
        tracked = self._state.workloads.get(row.id)
        if tracked is None:
            self._state.backlog.doubt(row.customer, row.queue_class)
            return
        try:
            if adopted and row.phase.bound and tracked.requirements is not None:
                self._cluster.claim(row.id, row.attempt, row.workers, tracked.requirements, tracked.subject)
            self.after(row, decision)
            if decision.event is Event.PLACE and not adopted:
                self.start(tracked)
        except SharedFaultError:
            raise
        except Exception as error:
            tracked.row = row
            self._state.parked.park(tracked, Boundary.ROW, error)

    async def adopt(self, changes: Sequence[RowChange]) -> None:
        """Commit placements that are rebuilt from running pods, which need no creation."""
        for start in range(0, len(changes), BATCH_ROWS):
            part = changes[start : start + BATCH_ROWS]
            result = await self._write(part)
            for row in result.applied:
                self._apply(row, LifecycleDecision(Event.PLACE, row.reason, row.message), adopted=True)

    async def release_held(self, customer: str, queue_depth: int | None) -> int:
        """Release workloads held for a full queue, in queue order, up to the store's batch size; returns their
        number."""
        self._tick()
        rows = await self._store.release_held(customer, queue_depth, epoch=self._state.epoch)
        for row in rows:
            self._apply(row, LifecycleDecision(Event.RELEASE, row.reason, row.message))
        return len(rows)

    async def set_wake(self, workload_ids: Sequence[str], seconds: float | None) -> None:
        """Make these rows due in `seconds`; None: never."""
        await self._store.set_wake(workload_ids, seconds, epoch=self._state.epoch)

    async def refresh(self, workload_ids: Iterable[str]) -> None:
        """Read rows again whose version differs from memory: a commit's answer was lost, or another process wrote
        them."""
        ids = list(workload_ids)
        if not ids:
            return
        for row in await self._store.get_workloads(ids, with_spec=False):
            tracked = self._state.workloads.get(row.id)
            if tracked is not None:
                try:
                    self.follow(tracked, row)
                except SharedFaultError:
                    raise
                except Exception as error:
                    self._state.parked.park(tracked, Boundary.ROW, error)
        self._work_queue.put_capacity()  # a cycle must consider waiting workloads again

    def _change(self, request: TransitionRequest) -> RowChange:
        tracked, decision, settings = request.tracked, request.decision, self._state.settings
        wake = not_before = None
        if decision.event is Event.RETRY:
            backoff = settings.retry_backoff * 2.0 ** min(tracked.row.failures, MOST_DOUBLINGS)
            wake = not_before = min(backoff, settings.retry_backoff_max)
        elif decision.event is Event.REQUEUE:
            tracked.write_failures += 1
            tracked.turned_down = decision.reason in REFUSED_FOR_ANY_WORKER
            backoff = FIRST_REQUEUE_BACKOFF_SECONDS * 2.0 ** min(tracked.write_failures, MOST_DOUBLINGS)
            wake = not_before = min(backoff, LONGEST_REQUEUE_BACKOFF_SECONDS)
        elif decision.event is Event.START:
            tracked.write_failures = 0
            tracked.turned_down = False
            wake = float(tracked.spec.timeout_seconds) if tracked.spec.timeout_seconds else None
        excluded = {decision.exclude: settings.kubelet_rejection_exclusion} if decision.exclude else {}
        return RowChange(
            id=tracked.id,
            version=tracked.row.version,
            event=decision.event,
            reason=str(decision.reason),
            message=decision.message,
            excluded=excluded,
            not_before_seconds=not_before,
            wake_in_seconds=wake,
            counts=decision.event is not Event.REQUEUE or bool(decision.exclude),
        )

    # --- following a row that moved ----------------------------------------------------------------------------------

    def after(self, row: WorkloadRow, decision: LifecycleDecision) -> None:
        """Apply a row that the leader moved: memory, claimed capacity, status and Events."""
        tracked = self._state.workloads.get(row.id)
        if tracked is None:
            return
        before = tracked.row
        tracked.row = row
        self._metrics.transition(before, row, decision)
        logger.info(
            "workload moved",
            workload=f"{row.namespace}/{row.name}",
            id=row.id,
            transition=decision.event.value,
            phase=row.phase.value,
            attempt=row.attempt,
            reason=row.reason,
        )
        if before.phase.bound and not row.phase.bound:
            self._cluster.unclaim(row.id, before.attempt)
            tracked.lost_since = None
        tracked.fence_reported = False  # the transition wrote a reason of its own
        self._cluster.write_status(row)
        self.record_event(before, row)
        if row.phase is Phase.PENDING:
            self._work_queue.put_capacity()  # a cycle must consider it
        self.settle(tracked)

    def follow(self, tracked: TrackedWorkload, row: WorkloadRow) -> None:
        """Apply a row that another process changed, or the result of a commit whose answer was lost."""
        before, tracked.row = tracked.row, row
        if before.phase.bound and (not row.phase.bound or row.attempt != before.attempt):
            self._cluster.unclaim(row.id, before.attempt)
            self._work_queue.put_capacity()
        if row.phase.bound and (not before.phase.bound or row.attempt != before.attempt):
            self.start(tracked)
        self._cluster.write_status(row)
        self.settle(tracked)

    def start(self, tracked: TrackedWorkload) -> None:
        """Start a committed placement: claim its workers' capacity and create its pods."""
        row = tracked.row
        tracked.known = set()
        if tracked.requirements is not None:
            self._cluster.claim(row.id, row.attempt, row.workers, tracked.requirements, tracked.subject)
        self._state.workloads.dequeue(row.id)
        self._creator.submit(tracked)

    def record_event(self, before: WorkloadRow | None, row: WorkloadRow) -> None:
        """Record the Kubernetes Event of a transition, if it has one; `before` is None for a new row."""
        text = f"{row.reason}: {row.message}"
        if row.phase is Phase.FAILED:
            self._cluster.record_event(row, reason=EventReason.FAILED, message=text, warning=True)
        elif row.phase is Phase.HELD:
            self._cluster.record_event(row, reason=EventReason.HELD, message=text, warning=True)
        elif row.phase is Phase.SCHEDULED:
            text = f"placed on {worker_names(row.workers)}, score {row.score or 0:.0f}"
            self._cluster.record_event(row, reason=EventReason.SCHEDULED, message=text, warning=False)
        elif before is not None and before.phase.bound and row.phase is Phase.PENDING:
            self._cluster.record_event(row, reason=EventReason.RETRYING, message=text, warning=True)

    def settle(self, tracked: TrackedWorkload) -> None:
        """Enqueue or dequeue a workload as its phase says, remove pods it no longer needs, and drop it from memory when
        it is finished."""
        row, workloads = tracked.row, self._state.workloads
        workloads.note_phase(tracked)
        if row.phase.bound:
            workloads.dequeue(row.id)
            return
        teardown = self._remover.remove_superseded(tracked)
        if row.phase.terminal:
            workloads.dequeue(row.id)
            self._note_finished(tracked)
            if not teardown.waiting and not tracked.applying:
                workloads.drop(row.id)
            return
        if row.phase is not Phase.PENDING:
            workloads.dequeue(row.id)
            if row.door is Door.REST and not teardown.waiting and not tracked.applying:
                workloads.drop(row.id)  # it is read again when it becomes pending
            return
        now = self._state.clock.now()
        if teardown.waiting or tracked.applying:
            workloads.dequeue(row.id)
            node_state = self._cluster.node_state
            stuck = {pod.node for pod in teardown.waiting if node_state(pod.node) is NodeState.NOT_READY}
            if stuck:
                nodes = ", ".join(sorted(stuck))
                text = f"pods of attempt {row.attempt} on NotReady node {nodes} may still run"
                self._reasons.add(row.id, RowReason.WAITING_FOR_NODE_FENCE, text)
        elif row.not_before is not None and row.not_before.timestamp() * 1e6 > now:
            workloads.dequeue(row.id)
        else:
            tracked.known = set()
            if tracked.unloaded and row.door is Door.REST:
                workloads.drop(row.id)  # no room for it: it stays in Postgres, and `backlog.loader` reads it again
                self._state.backlog.room.no_bytes.add((row.customer, row.namespace))
                return
            workloads.enqueue(tracked, now=now)
            if row.door is Door.REST and tracked.eligible is None:
                self._state.unreviewed[row.id] = None
            self._track_exclusions(row, now)
            self._work_queue.wake()

    def _note_finished(self, tracked: TrackedWorkload) -> None:
        """Note once that the object of a finished workload exists. That of a REST submission that was cancelled
        meanwhile may be made later; a row that was cancelled because its object was deleted has none."""
        row = tracked.row
        if tracked.finished_noted or row.object is None or row.reason == RowReason.DELETED:
            return
        tracked.finished_noted = True
        self._state.finished_objects.note_row(row, tracked.spec.ttl_seconds_after_finished)

    # --- exclusions of workers ---------------------------------------------------------------------------------------

    def _track_exclusions(self, row: WorkloadRow, now: int) -> None:
        """Keep the time at which the first of the row's exclusions ends."""
        ends = [end for until in row.excluded.values() if (end := round(until.timestamp() * 1e6)) > now]
        if ends:
            self._state.exclusion_ends[row.id] = min(ends)
        else:
            self._state.exclusion_ends.pop(row.id, None)

    def end_exclusions(self) -> bool:
        """Offer workloads to the engine again without the worker exclusions that have ended; True if there were any."""
        state = self._state
        now = state.clock.now()
        over = [workload_id for workload_id, end in state.exclusion_ends.items() if end <= now]
        for workload_id in over:
            del state.exclusion_ends[workload_id]
            tracked = state.workloads.get(workload_id)
            if tracked is not None and tracked.row.phase is Phase.PENDING:
                self.settle(tracked)
        return bool(over)
