"""Wake-ups: handling of due rows. A timeout ends an attempt, and an ended backoff queues a workload again.

The leader's loop reads the due rows from Postgres and passes them in; `transitions` commits the decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.lifecycle import Phase
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.pods.outcome import Attempt, failed_attempt
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import TransitionRequest, Transitions
from niyanta.store.rows import WorkloadRow

UNTRACKED_AGAIN_SECONDS = 60.0
"""Time until a due row that isn't in memory comes due again."""

STOPPING_AGAIN_SECONDS = 1.0
"""Time until a pending row comes due again if its backoff is over but its last pods are still stopping."""

FAULT_AGAIN_SECONDS = 60.0
"""Time until a due row comes due again if it could not be handled because of an unexpected error."""


@dataclass(frozen=True, slots=True)
class Again:
    """A row comes due again in `seconds`; None: its wake-up is cleared."""

    seconds: float | None


class WakeUps:
    """Handles due rows. A row that can't be handled yet is postponed, so that it doesn't delay others."""

    def __init__(self, state: SchedulerState, *, transitions: Transitions) -> None:
        self._state = state
        self._transitions = transitions

    async def handle(self, due: Sequence[WorkloadRow]) -> bool:
        """Handle the due rows. Returns True if the queue may have changed."""
        queue_changed = False
        requests: list[TransitionRequest] = []
        put_off: dict[float | None, list[str]] = {}
        for row in due:
            try:
                step = await self._step(row)
            except SharedFaultError:
                raise
            except Exception as error:
                record(Boundary.TIMER, row.id, error)
                step = Again(FAULT_AGAIN_SECONDS)
            if isinstance(step, TransitionRequest):
                requests.append(step)
            elif step is not None:
                put_off.setdefault(step.seconds, []).append(row.id)
                queue_changed = queue_changed or row.phase is Phase.PENDING
        for seconds, ids in put_off.items():
            await self._transitions.set_wake(ids, seconds)
        await self._transitions.commit(requests)
        return queue_changed

    async def _step(self, row: WorkloadRow) -> TransitionRequest | Again | None:
        """The step that a due row needs: a transition, or a later time; None: nothing now."""
        if row.phase.terminal:
            return Again(None)  # earlier releases kept the time to live of its object in the row
        tracked = self._state.workloads.get(row.id)
        if tracked is None:
            return Again(UNTRACKED_AGAIN_SECONDS)
        if tracked.row.version != row.version:
            await self._transitions.refresh([row.id])
            return None
        if tracked.object_missing or tracked.parked:
            return Again(UNTRACKED_AGAIN_SECONDS)
        if row.phase is Phase.PENDING:
            self._transitions.settle(tracked)
            return Again(None if tracked.id in self._state.workloads.queue else STOPPING_AGAIN_SECONDS)
        if row.phase is Phase.SCHEDULED and len(tracked.known) < len(row.workers):
            # Some pods don't exist yet (the API server is away or slow), so startTimeoutSeconds hasn't begun.
            return Again(float(tracked.spec.start_timeout_seconds))
        if row.phase is Phase.SCHEDULED:
            text = f"not all pods were running {tracked.spec.start_timeout_seconds} s after they were bound"
            return _failed(tracked, RowReason.START_TIMEOUT, text)
        if row.phase is Phase.RUNNING:
            text = f"ran longer than timeoutSeconds {tracked.spec.timeout_seconds}"
            return _failed(tracked, RowReason.TIMEOUT, text)
        return None


def _failed(tracked: TrackedWorkload, reason: RowReason, message: str) -> TransitionRequest:
    attempt = Attempt.of(
        tracked.row,
        backoff_limit=tracked.spec.backoff_limit,
        max_rejections=0,
        replace_lost=False,
        known=frozenset(tracked.known),
    )
    return TransitionRequest(tracked, failed_attempt(attempt, reason, message))
