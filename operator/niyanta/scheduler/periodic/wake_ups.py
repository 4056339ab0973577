"""Wake-ups: handling of due rows. A timeout ends an attempt, an ended backoff queues a workload again, and the object
of a finished workload expires.

The leader's loop reads the due rows from Postgres and passes them in; `transitions` commits the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niyanta.aio import gathered, ticking
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterWrites
from niyanta.scheduler.pods.outcome import Attempt, failed_attempt
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import TransitionRequest, Transitions
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.rows import WorkloadRow

logger = log.get(__name__)

EXPIRE_BATCH_OBJECTS = 48
"""Most finished objects deleted concurrently."""

UNTRACKED_AGAIN_SECONDS = 60.0
"""Time until a due row that isn't in memory comes due again."""

STOPPING_AGAIN_SECONDS = 1.0
"""Time until a pending row comes due again if its backoff is over but its last pods are still stopping."""


class WakeUps:
    """Handles due rows. A row that can't be handled yet is postponed, so that it doesn't delay others."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        cluster: ClusterWrites,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._cluster = cluster
        self._transitions = transitions
        self._tick = tick

    async def handle(self, due: Sequence[WorkloadRow]) -> bool:
        """Handle the due rows. Returns True if the queue may have changed."""
        queue_changed = False
        requests: list[TransitionRequest] = []
        put_off: dict[float | None, list[str]] = {}
        for row in due:
            tracked = self._state.workloads.get(row.id)
            if row.phase.terminal:
                continue
            if tracked is None:
                put_off.setdefault(UNTRACKED_AGAIN_SECONDS, []).append(row.id)
            elif tracked.row.version != row.version:
                await self._transitions.refresh([row.id])
            elif row.phase is Phase.PENDING:
                self._transitions.settle(tracked)
                queued = tracked.id in self._state.workloads.queue
                put_off.setdefault(None if queued else STOPPING_AGAIN_SECONDS, []).append(row.id)
                queue_changed = True
            elif row.phase is Phase.SCHEDULED and len(tracked.known) < len(row.workers):
                # Some pods don't exist yet (the API server is away or slow), so startTimeoutSeconds hasn't begun.
                put_off.setdefault(float(tracked.spec.start_timeout_seconds), []).append(row.id)
            elif row.phase is Phase.SCHEDULED:
                text = f"not all pods were running {tracked.spec.start_timeout_seconds} s after they were bound"
                requests.append(_failed(tracked, RowReason.START_TIMEOUT, text))
            elif row.phase is Phase.RUNNING:
                text = f"ran longer than timeoutSeconds {tracked.spec.timeout_seconds}"
                requests.append(_failed(tracked, RowReason.TIMEOUT, text))
        for seconds, ids in put_off.items():
            await self._transitions.set_wake(ids, seconds)
        await self._transitions.commit(requests)
        await self._expire([row for row in due if row.phase.terminal])
        return queue_changed

    async def _expire(self, rows: Sequence[WorkloadRow]) -> None:
        """ttlSecondsAfterFinished is over: delete the objects. The rows stay as history."""
        for start in range(0, len(rows), EXPIRE_BATCH_OBJECTS):
            part = rows[start : start + EXPIRE_BATCH_OBJECTS]
            await ticking(self._tick, gathered(self._delete_object(row) for row in part))
            await self._transitions.set_wake([row.id for row in part], None)
            for row in part:
                self._state.workloads.drop(row.id)
                logger.info("finished workload expired", workload=f"{row.namespace}/{row.name}", id=row.id)

    async def _delete_object(self, row: WorkloadRow) -> None:
        if row.object is not None:
            name, uid = row.object
            await self._cluster.delete_workload(row.namespace, name, uid)


def _failed(tracked: TrackedWorkload, reason: RowReason, message: str) -> TransitionRequest:
    attempt = Attempt.of(
        tracked.row,
        max_retries=tracked.spec.max_retries,
        max_rejections=0,
        replace_lost=False,
        known=frozenset(tracked.known),
    )
    return TransitionRequest(tracked, failed_attempt(attempt, reason, message))
