"""The pod observer: derives decisions about workloads from their pods, their nodes and the results of pod creations.

The leader's loop passes in the ids of workloads whose pods changed; `transitions` commits the decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from niyanta.containment import Boundary, contained
from niyanta.lifecycle import Event
from niyanta.scheduler.cluster_api import ClusterReads, NodeState, PodPhase, PodView, pods_of
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.outcome import Attempt, LifecycleDecision, is_worker_fault, outcome_of
from niyanta.scheduler.pods.pod_creator import PodCreator
from niyanta.scheduler.pods.pod_remover import PodRemover
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import TransitionRequest, Transitions
from niyanta.store.state import StateManager


class PodObserver:
    """Decides the outcome of attempts from the state of their pods."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterReads,
        creator: PodCreator,
        remover: PodRemover,
        reasons: PendingReasons,
        transitions: Transitions,
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._creator = creator
        self._remover = remover
        self._reasons = reasons
        self._transitions = transitions

    async def observe(self, workload_ids: Iterable[str]) -> None:
        """Decide about these workloads, whose pods or nodes changed, and about workloads whose pod creation has ended;
        commit the decisions."""
        finished = list(self._creator.finished)
        requests: dict[str, TransitionRequest] = {}
        untracked: list[str] = []
        for workload_id in workload_ids:
            tracked = self._state.workloads.get(workload_id)
            if tracked is None:
                untracked.append(workload_id)
                continue
            with contained(Boundary.POD, workload_id):
                decision = self._decide(tracked)
                if decision is not None:
                    requests[workload_id] = TransitionRequest(tracked, decision)
        for result in finished:
            tracked = self._state.workloads.get(result.workload_id)
            if tracked is None:
                continue
            if result.decision is not None and tracked.row.phase.bound and tracked.row.attempt == result.attempt:
                requests[tracked.id] = TransitionRequest(tracked, result.decision)
            elif tracked.id not in requests:
                with contained(Boundary.POD, tracked.id):
                    decision = self._decide(tracked)
                    if decision is not None:
                        requests[tracked.id] = TransitionRequest(tracked, decision)
        await self._transitions.commit(list(requests.values()))
        del self._creator.finished[: len(finished)]  # only now, so that a commit that failed is repeated
        if untracked:
            await self._clear_untracked(untracked)

    def _decide(self, tracked: TrackedWorkload) -> LifecycleDecision | None:
        row = tracked.row
        pods = pods_of(self._cluster, row)
        if not row.phase.bound:
            self._transitions.settle(tracked)
            return None
        for pod in pods:
            if pod.attempt == row.attempt:
                tracked.known.add(pod.index)
                self._follow_kubelet(pod, row.customer)
        self._watch_node_loss(tracked)
        if tracked.applying:
            # Wait for the running creates: a decision now could start a new attempt beside a late create.
            return None
        self._remover.remove_superseded(tracked)
        decision = outcome_of(self._attempt(tracked), pods, self._cluster.node_state)
        if decision is None:
            self._explain_lost_nodes(tracked)
        elif decision.reason == RowReason.POD_DISRUPTED:
            tracked.disrupted.add(row.attempt)
        if decision is not None and tracked.object_missing and decision.event not in (Event.START, Event.SUCCEED):
            return None  # its pods may be gone with its object; `recovery.missing_objects` decides
        return decision

    def _attempt(self, tracked: TrackedWorkload) -> Attempt:
        return Attempt.of(
            tracked.row,
            backoff_limit=tracked.spec.backoff_limit,
            max_rejections=self._state.settings.kubelet_rejections_max,
            disruptions=len(tracked.disrupted),
            replace_lost=tracked.replace_lost and self._state.node_grace_over(tracked),
            known=frozenset(tracked.known),
        )

    def _follow_kubelet(self, pod: PodView, customer: str) -> None:
        if is_worker_fault(pod):
            self._state.worker_breakers.rejected(pod.node, pod.workload_id, customer)
        elif pod.phase in (PodPhase.RUNNING, PodPhase.SUCCEEDED):
            self._state.worker_breakers.accepted(pod.node, customer)

    def _watch_node_loss(self, tracked: TrackedWorkload) -> None:
        lost = any(self._cluster.node_state(node) is NodeState.NOT_READY for node in tracked.row.workers)
        if not lost:
            tracked.lost_since = None
        elif tracked.lost_since is None:
            tracked.lost_since = self._state.clock.now()

    def _explain_lost_nodes(self, tracked: TrackedWorkload) -> None:
        """Add the reason that a workload waits for a NotReady node, or that its node is Ready again."""
        # The row may not show the reason yet, because pending reasons are written later in the round.
        reported = tracked.fence_reported or tracked.row.reason == RowReason.WAITING_FOR_NODE_FENCE
        tracked.fence_reported = tracked.lost_since is not None
        if tracked.lost_since is None:
            if reported:
                self._reasons.add(tracked.id, RowReason.NODE_RETURNED, "its nodes are Ready again")
            return
        if reported:
            return
        lost = sorted({n for n in tracked.row.workers if self._cluster.node_state(n) is NodeState.NOT_READY})
        message = f"node {', '.join(lost)} is NotReady; its pods may still run"
        if not tracked.replace_lost:
            message += "; replaced when the node returns, is deleted or gets the out-of-service taint"
        self._reasons.add(tracked.id, RowReason.WAITING_FOR_NODE_FENCE, message)

    async def _clear_untracked(self, workload_ids: Sequence[str]) -> None:
        """Remove the pods of workloads that aren't in memory because their rows are finished or don't exist."""
        rows = {row.id: row for row in await self._store.get_workloads(workload_ids)}
        for workload_id in workload_ids:
            row = rows.get(workload_id)
            if row is not None and not row.phase.terminal:
                continue  # it was just taken in; the next event finds it in memory
            with contained(Boundary.POD, workload_id):
                self._remover.remove_untracked(workload_id, row)
