"""The outcome of an attempt: a pure rule from (row, pods, nodes) to at most one lifecycle event.

`observer` applies it whenever pods or nodes of a workload changed; `transitions` commits the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from niyanta.lifecycle import Event, Phase
from niyanta.plain_text import REASON_CHARACTERS, plain
from niyanta.scheduler.cluster_api import NodeState, PodPhase, PodView
from niyanta.scheduler.reasons import RowReason
from niyanta.store.rows import WorkloadRow

KUBELET_REJECTIONS = frozenset(
    {
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
        "OutOfephemeral-storage",
        "NodeAffinity",
        "NodePorts",
        "NodeName",
        "Taint",
        "UnexpectedAdmissionError",
        "AppArmor",
        "SysctlForbidden",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "PodOSNotSupported",
        "InvalidNodeInfo",
        "TopologyAffinityError",
    }
)
"""`status.reason` of pods that a kubelet rejected at admission; for extended resources it is OutOf<resource name>."""

WORKER_FAULTS = frozenset({"UnexpectedAdmissionError", "InvalidNodeInfo", "TopologyAffinityError"})
"""Those that tell something about the worker, such as a broken device plugin, beside OutOf<resource name>. The others
depend on what the pod asks for."""

MOST_DISRUPTIONS = 20
"""Attempts of one workload that the cluster may end before each further one counts as a retry."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row's current attempt, as the rule needs it. `known` are the indexes whose pod was observed."""

    phase: Phase
    attempt: int
    workers: Sequence[str]
    failures: int
    rejections: int
    backoff_limit: int
    max_rejections: int
    replace_lost: bool
    """nodeLossPolicy is Replace, and the node's grace period is over."""
    known: frozenset[int]
    disruptions: int = 0
    """Earlier attempts that the cluster ended."""

    @classmethod
    def of(
        cls,
        row: WorkloadRow,
        *,
        backoff_limit: int,
        max_rejections: int,
        replace_lost: bool,
        known: frozenset[int],
        disruptions: int = 0,
    ) -> Attempt:
        """The current attempt of a row."""
        return cls(
            phase=row.phase,
            attempt=row.attempt,
            workers=row.workers,
            failures=row.failures,
            rejections=row.rejections,
            backoff_limit=backoff_limit,
            max_rejections=max_rejections,
            replace_lost=replace_lost,
            known=known,
            disruptions=disruptions,
        )


@dataclass(frozen=True, slots=True)
class LifecycleDecision:
    """An event for a row, with the reason and message for its status; `exclude` names a worker to avoid for a while.

    Reason and message may contain text of kubelets, users and the API server, so they are bounded and made plain here.
    """

    event: Event
    reason: str
    message: str
    exclude: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", plain(str(self.reason), REASON_CHARACTERS))
        object.__setattr__(self, "message", plain(self.message))


def is_rejection(pod: PodView) -> bool:
    """True if the kubelet rejected this pod before any container ran."""
    if pod.phase is not PodPhase.FAILED or not pod.never_ran:
        return False
    return pod.reason in KUBELET_REJECTIONS or pod.reason.startswith("OutOf")


def is_worker_fault(pod: PodView) -> bool:
    """True if the kubelet rejected this pod for a reason that may hold for other pods too."""
    return is_rejection(pod) and (pod.reason in WORKER_FAULTS or pod.reason.startswith("OutOf"))


def failed_attempt(attempt: Attempt, reason: str, message: str) -> LifecycleDecision:
    """Retry while retries are left, else fail."""
    if attempt.failures < attempt.backoff_limit:
        return LifecycleDecision(
            Event.RETRY, reason, f"{message}; retry {attempt.failures + 1} of {attempt.backoff_limit}"
        )
    used = f"{attempt.failures} of {attempt.backoff_limit} retries used"
    return LifecycleDecision(Event.FAIL, reason, f"{message}; {used}")


def _disrupted(attempt: Attempt, pod: PodView) -> LifecycleDecision:
    """The cluster ended a pod: a fresh attempt that is no retry, up to a maximum."""
    text = f"pod {pod.name} on {pod.node} was ended by the cluster: {pod.disruption} {pod.message}".rstrip()
    if attempt.disruptions < MOST_DISRUPTIONS:
        return LifecycleDecision(Event.REQUEUE, RowReason.POD_DISRUPTED, text)
    return failed_attempt(attempt, RowReason.POD_DISRUPTED, text)


def is_over(pod: PodView, node_state: Callable[[str], NodeState]) -> bool:
    """True if no container of the pod runs any more. A pod that was deleted without a grace period may still run on a
    NotReady node, whose kubelet doesn't know of the deletion."""
    if pod.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED):
        return True
    return pod.over and node_state(pod.node) is not NodeState.NOT_READY


def outcome_of(
    attempt: Attempt, pods: Iterable[PodView], node_state: Callable[[str], NodeState]
) -> LifecycleDecision | None:
    """The decision that follows from the pods of the current attempt; None if nothing follows yet.

    One failed, lost or rejected pod decides for the whole attempt; success and start need all pods.
    """
    by_index = {pod.index: pod for pod in pods if pod.attempt == attempt.attempt}
    running = done = 0
    for index, worker in enumerate(attempt.workers):
        pod = by_index.get(index)
        if pod is None:
            if index in attempt.known:
                return failed_attempt(
                    attempt, RowReason.POD_LOST, f"pod {index} on {worker} disappeared before its outcome was known"
                )
            continue
        decision = _end_of(attempt, pod, node_state)
        if decision is not None:
            return decision
        if pod.phase is PodPhase.SUCCEEDED:
            done += 1
        elif pod.phase is PodPhase.RUNNING and not pod.over:
            running += 1
    total = len(attempt.workers)
    if done == total:
        return LifecycleDecision(
            Event.SUCCEED, RowReason.COMPLETED, "" if total == 1 else f"all {total} pods succeeded"
        )
    if attempt.phase is Phase.SCHEDULED and running + done == total:
        return LifecycleDecision(Event.START, RowReason.STARTED, "")
    return None


def _end_of(attempt: Attempt, pod: PodView, node_state: Callable[[str], NodeState]) -> LifecycleDecision | None:
    """The decision that follows from one failed, lost or rejected pod; None for any other pod."""
    if is_rejection(pod):
        text = f"worker {pod.node} turned pod {pod.name} away: {pod.reason} {pod.message}".rstrip()
        if attempt.rejections < attempt.max_rejections:
            return LifecycleDecision(Event.REQUEUE, RowReason.REJECTED_BY_KUBELET, text, exclude=pod.node)
        return failed_attempt(attempt, RowReason.REJECTED_BY_KUBELET, text)
    if pod.disruption and pod.phase is not PodPhase.SUCCEEDED and is_over(pod, node_state):
        return _disrupted(attempt, pod)
    if pod.phase is PodPhase.FAILED:
        why = " ".join(part for part in (pod.reason, pod.message) if part)
        return failed_attempt(
            attempt, RowReason.POD_FAILED, f"pod {pod.name} on {pod.node} failed{': ' if why else ''}{why}"
        )
    if pod.phase is PodPhase.SUCCEEDED:
        return None
    if is_over(pod, node_state):
        return failed_attempt(attempt, RowReason.POD_LOST, f"pod {pod.name} on {pod.node} was deleted while it ran")
    state = node_state(pod.node)
    if pod.disruption and state is NodeState.FENCED:
        return _disrupted(attempt, pod)
    if state is NodeState.FENCED:
        return failed_attempt(attempt, RowReason.NODE_LOST, f"node {pod.node} is gone")
    if state is NodeState.NOT_READY and attempt.replace_lost:
        return failed_attempt(
            attempt, RowReason.NODE_LOST, f"node {pod.node} is NotReady beyond the grace (nodeLossPolicy Replace)"
        )
    return None


@dataclass(frozen=True, slots=True)
class Teardown:
    """Pods that no attempt needs any more, grouped by action."""

    delete: tuple[PodView, ...] = ()
    force: tuple[PodView, ...] = ()
    """Pods on lost nodes, where no kubelet would confirm an ordinary deletion."""
    release: tuple[PodView, ...] = ()
    """Pods whose outcome is committed, so that the finalizer may be removed."""
    waiting: tuple[PodView, ...] = ()
    """Pods that may still run; the next attempt must wait for their end."""


def tear_down(
    pods: Iterable[PodView],
    *,
    keep_attempt: int | None,
    replace: bool,
    node_state: Callable[[str], NodeState],
) -> Teardown:
    """Group the pods of a workload by the action they need; pods of `keep_attempt` are left out.

    Pods that are over are only released: they stay for their logs until their owner is deleted. `replace`: pods on
    NotReady nodes may be replaced.
    """
    delete, force, release, waiting = [], [], [], []
    for pod in pods:
        if pod.attempt == keep_attempt:
            continue
        over = is_over(pod, node_state)
        if pod.has_finalizer and (over or replace or not pod.over):  # without it, a pod without grace would vanish
            release.append(pod)
        if over:
            continue
        state = node_state(pod.node)
        if state is NodeState.FENCED or (state is NodeState.NOT_READY and replace):
            force.append(pod)
            continue
        waiting.append(pod)
        if not pod.deleting:
            delete.append(pod)
    return Teardown(tuple(delete), tuple(force), tuple(release), tuple(waiting))
