"""Parked workloads: an unexpected error concerned them, so they stay out of the queue while everything else goes on.

A waiting one becomes Held with reason InternalError (`transitions.hold_parked`). It is looked at again when its object
changes, or by the next leader.
"""

from __future__ import annotations

from niyanta.containment import Boundary, record
from niyanta.lifecycle import Phase
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.workload_cache import WorkloadCache


def parked_message(error: Exception) -> str:
    """Message for the user. The error's own text may contain data of others, so only its type is shown."""
    return (
        f"an unexpected error of the operator ({type(error).__name__}) concerned this workload; it is looked at again "
        "when its object changes or the operator starts again, and the operator's log has the details"
    )


class ParkedWorkloads:
    """The parked workloads of one leadership."""

    def __init__(self, workloads: WorkloadCache) -> None:
        self._workloads = workloads
        self._unheld: dict[str, TrackedWorkload] = {}

    def park(self, tracked: TrackedWorkload, boundary: Boundary, error: Exception) -> None:
        """Take a workload out of the queue. A placed one goes on; it is parked if it comes back to the queue."""
        record(boundary, tracked.id, error)
        tracked.parked = parked_message(error)
        self._workloads.dequeue(tracked.id)
        self._unheld[tracked.id] = tracked

    def unpark(self, tracked: TrackedWorkload) -> None:
        """Its object changed: it may be queued again."""
        tracked.parked = ""
        self._unheld.pop(tracked.id, None)

    def unheld(self) -> list[TrackedWorkload]:
        """Parked workloads whose rows must move: Pending ones, and Scheduled ones whose pods are not being created."""
        return [tracked for tracked in self._unheld.values() if _must_move(tracked)]

    def give_up(self, tracked: TrackedWorkload) -> None:
        """Its row can't be written: it stays parked in memory only."""
        self._unheld.pop(tracked.id, None)

    def settled(self) -> None:
        """Forget the workloads that are Held or finished by now."""
        waiting = (Phase.PENDING, Phase.SCHEDULED, Phase.RUNNING)
        self._unheld = {id_: tracked for id_, tracked in self._unheld.items() if tracked.row.phase in waiting}


def _must_move(tracked: TrackedWorkload) -> bool:
    if tracked.row.phase is Phase.PENDING:
        return True
    return tracked.row.phase is Phase.SCHEDULED and not tracked.applying and not tracked.known
