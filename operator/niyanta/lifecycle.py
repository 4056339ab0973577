"""The lifecycle of a workload: doors, phases, events, and the table of legal transitions.

Pure. The scheduler decides on events, the store applies them through `next_phase` and writes one audit event for each.
"""

from __future__ import annotations

import enum


class Door(enum.Enum):
    """The API that a workload was submitted through. Postgres stores the value."""

    KUBERNETES = "kubernetes"
    """A Workload object made by the user."""
    REST = "rest"
    """A submission to `niyanta api`; the leader makes its Workload object."""


class Phase(enum.Enum):
    """`status.phase`; users read the value. Postgres stores the upper-case name."""

    PENDING = "Pending"
    HELD = "Held"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    SUSPENDED = "Suspended"

    @property
    def terminal(self) -> bool:
        """True when no event is allowed any more."""
        return self in TERMINAL

    @property
    def bound(self) -> bool:
        """True when an attempt has workers: its placement is committed, or it runs."""
        return self in (Phase.SCHEDULED, Phase.RUNNING)


TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})


class Event(enum.Enum):
    """Events in the life of a workload."""

    HOLD = "Hold"
    """A limit or a rule of its customer keeps it out of the queue."""
    RELEASE = "Release"
    """The reason for holding it no longer applies."""
    PLACE = "Place"
    """A plan with workers for all replicas was committed."""
    START = "Start"
    """All pods of the attempt run, or some run and the others have finished."""
    SUCCEED = "Succeed"
    """All pods of the attempt succeeded."""
    RETRY = "Retry"
    """The attempt failed or was lost and retries are left; counts against backoffLimit."""
    REQUEUE = "Requeue"
    """The attempt didn't run, or was ended, for a reason outside the workload (rejected by a kubelet, evicted); doesn't
    count."""
    FAIL = "Fail"
    """Retries are used up, or the API server rejects the pod permanently."""
    SUSPEND = "Suspend"
    RESUME = "Resume"
    CANCEL = "Cancel"


class IllegalTransitionError(Exception):
    """An event that the phase doesn't allow."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"{event.value} is not allowed in phase {phase.value}")
        self.phase = phase
        self.event = event


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.PENDING, Event.HOLD): Phase.HELD,
    (Phase.PENDING, Event.PLACE): Phase.SCHEDULED,
    (Phase.PENDING, Event.FAIL): Phase.FAILED,
    (Phase.PENDING, Event.SUSPEND): Phase.SUSPENDED,
    (Phase.PENDING, Event.CANCEL): Phase.CANCELLED,
    (Phase.HELD, Event.RELEASE): Phase.PENDING,
    (Phase.HELD, Event.FAIL): Phase.FAILED,
    (Phase.HELD, Event.SUSPEND): Phase.SUSPENDED,
    (Phase.HELD, Event.CANCEL): Phase.CANCELLED,
    (Phase.SCHEDULED, Event.START): Phase.RUNNING,
    (Phase.SCHEDULED, Event.SUCCEED): Phase.SUCCEEDED,
    (Phase.SCHEDULED, Event.RETRY): Phase.PENDING,
    (Phase.SCHEDULED, Event.REQUEUE): Phase.PENDING,
    (Phase.SCHEDULED, Event.FAIL): Phase.FAILED,
    (Phase.SCHEDULED, Event.SUSPEND): Phase.SUSPENDED,
    (Phase.SCHEDULED, Event.CANCEL): Phase.CANCELLED,
    (Phase.RUNNING, Event.SUCCEED): Phase.SUCCEEDED,
    (Phase.RUNNING, Event.RETRY): Phase.PENDING,
    (Phase.RUNNING, Event.REQUEUE): Phase.PENDING,
    (Phase.RUNNING, Event.FAIL): Phase.FAILED,
    (Phase.RUNNING, Event.SUSPEND): Phase.SUSPENDED,
    (Phase.RUNNING, Event.CANCEL): Phase.CANCELLED,
    (Phase.SUSPENDED, Event.RESUME): Phase.PENDING,
    (Phase.SUSPENDED, Event.CANCEL): Phase.CANCELLED,
}


def next_phase(phase: Phase, event: Event) -> Phase:
    """The phase that `event` leads to; raises IllegalTransitionError for a pair that isn't in TRANSITIONS."""
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise IllegalTransitionError(phase, event) from None
