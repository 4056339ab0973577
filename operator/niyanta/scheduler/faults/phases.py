"""Phases of the leader's round: one that fails is repeated with backoff, while the others go on.

`loop` runs each phase through `GuardedPhases`. Errors of single objects are contained inside the phases; this is the
second line, for errors that no smaller boundary has contained.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from niyanta.aio import Backoff
from niyanta.containment import Boundary, SharedFaultError, record

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
"""Range of the pause of a phase that failed."""

STUCK_AFTER_SECONDS = 600.0
"""Time without a success of an essential phase after which the process ends, because a new process with new memory may
do better. Long compared with a failover, so that even an error that comes back costs the others little."""


class RoundPhase(enum.StrEnum):
    """Phases of the leader's round."""

    INTAKE = "intake"
    REVIEW = "review"
    LOAD = "load"
    """Loading of workloads whose customer has room in its budget of memory again."""
    OBSERVE = "observe"
    REASONS = "reasons"
    PARKING = "parking"
    FOLLOW = "follow"
    """Following rows that other processes changed."""
    BACKLOG = "backlog"
    TIMERS = "timers"
    CYCLE = "cycle"


ESSENTIAL = frozenset({RoundPhase.INTAKE, RoundPhase.OBSERVE, RoundPhase.CYCLE})
"""Phases without which workloads are neither placed nor followed."""


class PhaseStuckError(Exception):
    """An essential phase has failed for STUCK_AFTER_SECONDS: the process ends, and the next leader recovers."""


@dataclass(slots=True)
class _Failing:
    """A phase that fails now. Times are monotonic seconds."""

    since: float
    again_at: float
    backoff: Backoff = field(
        default_factory=lambda: Backoff(first_seconds=FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS)
    )


class GuardedPhases:
    """Runs phases and contains their errors."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._failing: dict[RoundPhase, _Failing] = {}

    def pauses(self, phase: RoundPhase) -> bool:
        """True while a phase that failed is not to be run."""
        failing = self._failing.get(phase)
        return failing is not None and self._clock() < failing.again_at

    async def run(self, phase: RoundPhase, work: Callable[[], Awaitable[None]]) -> bool:
        """Run a phase, unless it pauses; True if it succeeded. Raises SharedFaultError, PhaseStuckError."""
        if self.pauses(phase):
            return False
        try:
            await work()
        except SharedFaultError:
            raise
        except Exception as error:
            record(Boundary.PHASE, phase.value, error)
            self._failed(phase, error)
            return False
        self._failing.pop(phase, None)
        return True

    def _failed(self, phase: RoundPhase, error: Exception) -> None:
        now = self._clock()
        failing = self._failing.setdefault(phase, _Failing(now, now))
        if phase in ESSENTIAL and now - failing.since >= STUCK_AFTER_SECONDS:
            raise PhaseStuckError(f"phase {phase.value} has failed for {now - failing.since:.0f} s") from error
        failing.again_at = now + failing.backoff.next()
