"""One leadership: from the fence to the loss of the lease. Commits what pods say and what `reception` takes in.

Everything that changes a row happens in one loop, so the leader never races itself; creating and deleting pods goes on
beside it (`apply`, `reaper`) and reports back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.lifecycle import Door, Event, Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi, NodeState, WriteProblem
from niyanta.scheduler.demand.sizing_result import SizingResult
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.metrics import SchedulerMetrics
from niyanta.scheduler.placement_rate import PlacementRate
from niyanta.scheduler.pods import outcome
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.pods.pod_creator import CreateResult, PodCreator
from niyanta.scheduler.pods.pod_remover import PodRemover
from niyanta.scheduler.pods.rest_object import RestObjects
from niyanta.scheduler.workload_cache import TrackedWorkload, WorkloadCache
from niyanta.settings import Settings
from niyanta.store.leader.demand_stats import DemandStats
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import RowChange, WorkloadRow, worker_names
from niyanta.store.state import StateManager
from niyanta.store.workloads.queue_key import queue_settings

logger = log.get(__name__)

BATCH = 500
"""Most rows in one transaction: commits stay around 100 ms."""

WAIT_BACKOFF_MAX = 30.0
"""Longest wait between two tries where the cause lies outside the workload (quota, namespace), seconds."""

TURNED_DOWN = frozenset(
    problem.value for problem in (WriteProblem.QUOTA, WriteProblem.FORBIDDEN, WriteProblem.NAMESPACE)
)


@dataclass(frozen=True, slots=True)
class TransitionRequest:
    """An event to commit for a tracked row."""

    tracked: TrackedWorkload
    verdict: LifecycleDecision


@dataclass(frozen=True, slots=True, eq=False)
class DrainQuery:
    """A question of a task beside the leader's loop, to be answered in it."""

    worker: str
    reason: str
    evict: bool
    answer: asyncio.Future[int]


class Session:
    """The leader's work under one epoch."""

    def __init__(
        self,
        *,
        state: StateManager,
        cluster: ClusterApi,
        inbox: WorkQueue,
        clock: Clock,
        settings: Settings,
        telemetry: SchedulerMetrics,
        epoch: int,
        on_lost: Callable[[], None],
        tick: Callable[[], None],
        adopting: bool = False,
    ) -> None:
        self.state = state
        self.cluster = cluster
        self.inbox = inbox
        self.clock = clock
        self.settings = settings
        self.telemetry = telemetry
        self.epoch = epoch
        self.adopting = adopting
        """The database is older than the cluster (restored from a backup): rows follow pods."""
        self.snapshot = Snapshot()
        self.mirror = WorkloadCache(queue_settings(settings))
        self.pace = PlacementRate()
        self.asks: list[DrainQuery] = []
        self.figures: DemandStats | None = None
        """What the leader counted last; None until it did."""
        self.fits = SizingResult()
        """Which pool's empty workers waiting work would fit."""
        self.dispatcher = RestObjects(cluster=cluster, state=state, mirror=self.mirror, epoch=epoch)
        self.applier = PodCreator(
            cluster, self.dispatcher, epoch=epoch, width=settings.connections, report=self._on_applied, on_lost=on_lost
        )
        self.tick = tick
        self.reaper = PodRemover(cluster, on_lost=on_lost)
        self._applied: list[CreateResult] = []
        self._excluded: dict[str, int] = {}
        """Queued workloads that avoid a worker -> when (microseconds) the first of these exclusions ends."""

    async def close(self) -> None:
        """Stop the helpers at once."""
        for ask in self.asks:
            ask.answer.cancel()
        await self.applier.close()
        await self.reaper.close()
        for tracked in self.mirror.select((Phase.SCHEDULED, Phase.RUNNING)):
            self.cluster.unclaim(tracked.id, tracked.row.attempt)

    def _on_applied(self, applied: CreateResult) -> None:
        self._applied.append(applied)
        self.inbox.wake()

    # --- asked by others ---------------------------------------------------------------------------------------------

    async def evict(self, worker: str, reason: str) -> int:
        """Put what runs on a worker back into the queue, as a fresh attempt that counts as no retry; how many went.
        Those whose pods are just being made stay: ask again."""
        return await self._ask(worker, reason=reason, evict=True)

    async def is_free(self, worker: str) -> bool:
        """Whether nothing is placed on a worker, and nothing can be: it is cordoned, and the engine knows."""
        return await self._ask(worker, reason="", evict=False) == 0

    async def _ask(self, worker: str, *, reason: str, evict: bool) -> int:
        ask = DrainQuery(worker, reason, evict, asyncio.get_running_loop().create_future())
        self.asks.append(ask)
        self.inbox.wake()
        return await ask.answer

    def answer(self, ask: DrainQuery, value: int) -> None:
        """Whoever asked may have given up meanwhile."""
        self.asks.remove(ask)
        if not ask.answer.done():
            ask.answer.set_result(value)

    # --- outcomes ----------------------------------------------------------------------------------------------------

    async def observe(self, workload_ids: Iterable[str]) -> None:
        """Pods or nodes of these workloads changed, or an apply ended: commit what follows."""
        applied = list(self._applied)
        outcomes: dict[str, TransitionRequest] = {}
        strangers: list[str] = []
        for workload_id in workload_ids:
            tracked = self.mirror.get(workload_id)
            if tracked is None:
                strangers.append(workload_id)
                continue
            verdict = self._judge(tracked)
            if verdict is not None:
                outcomes[workload_id] = TransitionRequest(tracked, verdict)
        for result in applied:
            tracked = self.mirror.get(result.workload_id)
            if tracked is None:
                continue
            if result.verdict is not None and tracked.row.phase.bound and tracked.row.attempt == result.attempt:
                outcomes[tracked.id] = TransitionRequest(tracked, result.verdict)
            elif tracked.id not in outcomes:
                verdict = self._judge(tracked)
                if verdict is not None:
                    outcomes[tracked.id] = TransitionRequest(tracked, verdict)
        await self.commit(list(outcomes.values()))
        del self._applied[: len(applied)]  # only now: a commit that broke off is done again
        if strangers:
            await self._clear_strangers(strangers)

    def _judge(self, tracked: TrackedWorkload) -> LifecycleDecision | None:
        row = tracked.row
        pods = self.cluster.pods(row.id)
        if not row.phase.bound:
            self.settle(tracked)
            return None
        for pod in pods:
            if pod.attempt == row.attempt:
                tracked.known.add(pod.index)
        self._watch_node_loss(tracked)
        if tracked.applying:
            # The creates under way decide first: a verdict now could start a new attempt beside a late create.
            return None
        self._reap(tracked)
        verdict = outcome.outcome_of(self._attempt(tracked), pods, self.cluster.node_state)
        if verdict is None:
            self._explain_fence(tracked)
        return verdict

    def _attempt(self, tracked: TrackedWorkload) -> outcome.Attempt:
        row = tracked.row
        return outcome.Attempt(
            phase=row.phase,
            attempt=row.attempt,
            workers=row.workers,
            failures=row.failures,
            rejections=row.rejections,
            max_retries=tracked.spec.max_retries,
            max_rejections=self.settings.kubelet_rejections_max,
            replace_lost=tracked.replace_lost and self._grace_over(tracked),
            known=frozenset(tracked.known),
        )

    def _watch_node_loss(self, tracked: TrackedWorkload) -> None:
        lost = any(self.cluster.node_state(node) is NodeState.NOT_READY for node in tracked.row.workers)
        if not lost:
            tracked.lost_since = None
        elif tracked.lost_since is None:
            tracked.lost_since = self.clock.now()

    def _grace_over(self, tracked: TrackedWorkload) -> bool:
        if tracked.lost_since is None:
            return False
        return self.clock.now() - tracked.lost_since >= self.settings.node_loss_grace * 1e6

    def _explain_fence(self, tracked: TrackedWorkload) -> None:
        """Say that it waits for a node, and that it no longer does."""
        # What was said may not be on the row yet: notes are written a round later.
        said = tracked.fence_told or tracked.row.reason == outcome.WAITING_FOR_NODE_FENCE
        tracked.fence_told = tracked.lost_since is not None
        if tracked.lost_since is None:
            if said:
                self.inbox.note(tracked.id, "NodeReturned", "its nodes are Ready again")
            return
        lost = sorted({n for n in tracked.row.workers if self.cluster.node_state(n) is NodeState.NOT_READY})
        message = f"node {', '.join(lost)} is NotReady; its pods may still run"
        if not tracked.replace_lost:
            message += "; replaced when the node returns, is deleted or gets the out-of-service taint"
        if not said:
            self.inbox.note(tracked.id, outcome.WAITING_FOR_NODE_FENCE, message)

    async def _clear_strangers(self, workload_ids: Sequence[str]) -> None:
        """Pods whose workload isn't in memory: finished ones are released, ones of dead rows deleted."""
        rows = {row.id: row for row in await self.state.get_workloads(workload_ids)}
        for workload_id in workload_ids:
            row = rows.get(workload_id)
            if row is not None and not row.phase.terminal:
                continue  # just taken in: the next event finds it tracked
            self.reaper.reap(
                outcome.tear_down(
                    self.cluster.pods(workload_id), keep_attempt=None, replace=False, node_state=self.cluster.node_state
                )
            )

    def _reap(self, tracked: TrackedWorkload) -> outcome.Teardown:
        keep = tracked.row.attempt if tracked.row.phase.bound else None
        teardown = outcome.tear_down(
            self.cluster.pods(tracked.id),
            keep_attempt=keep,
            replace=tracked.replace_lost and (not tracked.row.phase.bound or self._grace_over(tracked)),
            node_state=self.cluster.node_state,
        )
        self.reaper.reap(teardown)
        return teardown

    # --- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, outcomes: Sequence[TransitionRequest]) -> None:
        """Commit events in batches and act on each new row."""
        for start in range(0, len(outcomes), BATCH):
            self.tick()
            part = outcomes[start : start + BATCH]
            with self.telemetry.commit():
                result = await self.state.update_workload_status_batch(
                    [self._change(outcome) for outcome in part], epoch=self.epoch
                )
            self.telemetry.dropped(result)
            events = {outcome.tracked.id: outcome.verdict for outcome in part}
            for row in result.applied:
                self.after(row, events[row.id])
            await self.refresh((*result.stale, *result.illegal))

    async def refresh(self, workload_ids: Iterable[str]) -> None:
        """These rows aren't as remembered (a commit whose answer was lost, or another writer): read them again."""
        ids = list(workload_ids)
        if not ids:
            return
        for row in await self.state.get_workloads(ids):
            tracked = self.mirror.get(row.id)
            if tracked is None:
                continue
            self.follow(tracked, row)
        self.inbox.put_capacity()  # those that wait are to be thought about again

    def follow(self, tracked: TrackedWorkload, row: WorkloadRow) -> None:
        """A row was changed by somebody else, or by a commit whose answer was lost."""
        before, tracked.row = tracked.row, row
        if before.phase.bound and (not row.phase.bound or row.attempt != before.attempt):
            self.cluster.unclaim(row.id, before.attempt)
            self.inbox.put_capacity()
        if row.phase.bound and (not before.phase.bound or row.attempt != before.attempt):
            self.start(tracked)
        self.cluster.project(row)
        self.settle(tracked)

    def start(self, tracked: TrackedWorkload) -> None:
        """A placement is committed: its workers' capacity is taken and its pods are to be made."""
        row = tracked.row
        tracked.known = set()
        if tracked.requirements is not None:
            self.cluster.claim(row.id, row.attempt, row.workers, tracked.requirements, tracked.subject)
        self.mirror.dequeue(row.id)
        self.applier.submit(tracked)

    def _change(self, outcome: TransitionRequest) -> RowChange:
        tracked, verdict = outcome.tracked, outcome.verdict
        wake = not_before = None
        if verdict.event is Event.RETRY:
            backoff = self.settings.retry_backoff * 2.0**tracked.row.failures
            wake = not_before = min(backoff, self.settings.retry_backoff_max)
        elif verdict.event is Event.REQUEUE:
            tracked.write_failures += 1
            tracked.turned_down = verdict.reason in TURNED_DOWN
            wake = not_before = min(0.5 * 2.0**tracked.write_failures, WAIT_BACKOFF_MAX)
        elif verdict.event is Event.START:
            tracked.write_failures = 0
            tracked.turned_down = False
            wake = float(tracked.spec.timeout_seconds) if tracked.spec.timeout_seconds else None
        elif verdict.event in (Event.SUCCEED, Event.FAIL):
            ttl = tracked.spec.ttl_seconds_after_finished
            wake = float(ttl) if ttl is not None else None
        excluded = {verdict.exclude: self.settings.kubelet_rejection_exclusion} if verdict.exclude else {}
        return RowChange(
            id=tracked.id,
            version=tracked.row.version,
            event=verdict.event,
            reason=verdict.reason,
            message=verdict.message,
            excluded=excluded,
            not_before_seconds=not_before,
            wake_in_seconds=wake,
            counts=verdict.event is not Event.REQUEUE or bool(verdict.exclude),
        )

    def after(self, row: WorkloadRow, verdict: LifecycleDecision) -> None:
        """A row moved: follow it in memory, in the cluster's accounts, in its status and Events."""
        tracked = self.mirror.get(row.id)
        if tracked is None:
            return
        before = tracked.row
        tracked.row = row
        self.telemetry.transition(before, row, verdict)
        logger.info(
            "workload moved",
            workload=f"{row.namespace}/{row.name}",
            id=row.id,
            transition=verdict.event.value,
            phase=row.phase.value,
            attempt=row.attempt,
            reason=row.reason,
        )
        if before.phase.bound and not row.phase.bound:
            self.cluster.unclaim(row.id, before.attempt)
            tracked.lost_since = None
        tracked.fence_told = False  # the transition wrote words of its own
        self.cluster.project(row)
        self.tell(before, row)
        self.settle(tracked)

    def tell(self, before: WorkloadRow | None, row: WorkloadRow) -> None:
        if row.phase is Phase.FAILED:
            self.cluster.tell(row, reason="Failed", message=f"{row.reason}: {row.message}", warning=True)
        elif row.phase is Phase.HELD:
            self.cluster.tell(row, reason="Held", message=f"{row.reason}: {row.message}", warning=True)
        elif row.phase is Phase.SCHEDULED:
            text = f"placed on {worker_names(row.workers)}, score {row.score or 0:.0f}"
            self.cluster.tell(row, reason="Scheduled", message=text, warning=False)
        elif before is not None and before.phase.bound and row.phase is Phase.PENDING:
            self.cluster.tell(row, reason="Retrying", message=f"{row.reason}: {row.message}", warning=True)

    def settle(self, tracked: TrackedWorkload) -> None:
        """Bring queue membership and left-over pods of a row in line with its phase."""
        row = tracked.row
        self.mirror.note_phase(tracked)
        if row.phase.bound:
            self.mirror.dequeue(row.id)
            return
        teardown = self._reap(tracked)
        if row.phase.terminal:
            self.mirror.dequeue(row.id)
            if row.wake_at is None and not teardown.waiting and not tracked.applying:
                self.mirror.drop(row.id)
            return
        if row.phase is not Phase.PENDING:
            self.mirror.dequeue(row.id)
            if row.door is Door.REST and not teardown.waiting and not tracked.applying:
                self.mirror.drop(row.id)  # comes back by the change cursor
            return
        now = self.clock.now()
        if teardown.waiting or tracked.applying:
            self.mirror.dequeue(row.id)
            stuck = [pod.node for pod in teardown.waiting if self.cluster.node_state(pod.node) is NodeState.NOT_READY]
            if stuck:
                self.inbox.note(
                    row.id,
                    outcome.WAITING_FOR_NODE_FENCE,
                    f"pods of attempt {row.attempt} on NotReady node {', '.join(sorted(set(stuck)))} may still run",
                )
        elif row.not_before is not None and row.not_before.timestamp() * 1e6 > now:
            self.mirror.dequeue(row.id)
        else:
            tracked.known = set()
            self.mirror.enqueue(tracked, now=now)
            self._note_exclusions(row, now)
            self.inbox.wake()

    def _note_exclusions(self, row: WorkloadRow, now: int) -> None:
        ends = [end for until in row.excluded.values() if (end := round(until.timestamp() * 1e6)) > now]
        if ends:
            self._excluded[row.id] = min(ends)
        else:
            self._excluded.pop(row.id, None)

    def end_exclusions(self) -> bool:
        """Let workloads have the workers again that they no longer need to avoid; whether there were any."""
        now = self.clock.now()
        over = [workload_id for workload_id, end in self._excluded.items() if end <= now]
        for workload_id in over:
            del self._excluded[workload_id]
            tracked = self.mirror.get(workload_id)
            if tracked is not None and tracked.row.phase is Phase.PENDING:
                self.settle(tracked)
        return bool(over)
