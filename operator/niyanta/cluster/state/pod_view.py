"""Converts a pod to the fields that the rules of the scheduler decide by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niyanta.cluster.api.errors import shown_text
from niyanta.cluster.api.objects import ContainerStatus, Pod
from niyanta.resources.labels import ATTEMPT, INDEX, OUTCOME_FINALIZER, POOL, WORKLOAD_UID
from niyanta.scheduler.cluster_api import NodeState, PodPhase, PodView

LONGEST_REASON = 128
LONGEST_MESSAGE = 300
"""Characters of a pod's reason and message that are kept: programs in its containers write them."""


def pod_view(pod: Pod, node: NodeState) -> PodView:
    """The pod as the outcome rules need it; `node` is the state of its node.

    A pod that was deleted with grace period 0 is over only if its node is Ready or fenced: its containers may still run
    on a node that is NotReady.
    """
    meta, status = pod.metadata, pod.status
    deleting = meta.deletion_timestamp is not None
    ended = [(s, s.state.terminated) for s in _statuses(pod) if s.state is not None and s.state.terminated is not None]
    reason, message = status.reason, status.message
    bad = [(s, t) for s, t in ended if t.exit_code != 0]
    if bad and not reason:
        first, terminated = bad[0]
        reason = terminated.reason or "Error"
        message = f"container {first.name} exited with code {terminated.exit_code} {terminated.message}".strip()
    return PodView(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        workload_id=meta.labels.get(WORKLOAD_UID, ""),
        attempt=number(meta.labels.get(ATTEMPT)),
        index=number(meta.labels.get(INDEX)),
        node=pod.spec.node_name,
        phase=PodPhase(status.phase),
        over=pod.terminal or (deleting and meta.deletion_grace_period_seconds == 0 and node is not NodeState.NOT_READY),
        deleting=deleting,
        has_finalizer=OUTCOME_FINALIZER in meta.finalizers,
        never_ran=not ended,
        reason=shown_text(reason, LONGEST_REASON),
        message=shown_text(message, LONGEST_MESSAGE),
        owner_uid=pod.owner_uid,
        pool=meta.labels.get(POOL, ""),
        disruption=shown_text(_disruption(pod), LONGEST_REASON),
    )


def in_place(pod: Pod, claimed_workers: Callable[[str, int], Sequence[str] | None]) -> bool:
    """True unless a row has the pod's attempt, with another worker for its index. `claimed_workers`: as of
    `ClusterCache`."""
    workers = claimed_workers(pod.workload_uid, number(pod.labels.get(ATTEMPT)))
    index = number(pod.labels.get(INDEX))
    return workers is None or (0 <= index < len(workers) and workers[index] == pod.spec.node_name)


def _disruption(pod: Pod) -> str:
    """Reason of the condition DisruptionTarget; "" without it."""
    found = (c for c in pod.status.conditions if c.type == "DisruptionTarget" and c.status == "True")
    return next((condition.reason or condition.type for condition in found), "")


def _statuses(pod: Pod) -> tuple[ContainerStatus, ...]:
    return (*pod.status.init_container_statuses, *pod.status.container_statuses)


def number(text: str | None) -> int:
    """The number in a label; -1, which matches no attempt, if the label is damaged."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 9 else -1
