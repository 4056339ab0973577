"""Phases of the round: one that fails pauses with backoff, and only an essential one ends the process, after long."""

from __future__ import annotations

import pytest

from niyanta.scheduler.faults.phases import (
    LONGEST_PAUSE_SECONDS,
    STUCK_AFTER_SECONDS,
    GuardedPhases,
    PhaseStuckError,
    RoundPhase,
)
from niyanta.store.errors import StaleEpochError

pytestmark = pytest.mark.unit


class Work:
    """Work that fails while `error` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.runs = 0

    async def __call__(self) -> None:
        self.runs += 1
        if self.error is not None:
            raise self.error


class Hands:
    """A clock that the test moves, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_phase_that_fails_pauses_and_the_others_go_on() -> None:
    clock = Hands()
    phases = GuardedPhases(clock)
    bad, good = Work(KeyError("x")), Work()
    for _ in range(3):
        await phases.run(RoundPhase.TIMERS, bad)
        assert await phases.run(RoundPhase.CYCLE, good)
    assert (bad.runs, good.runs) == (1, 3)
    clock.now = LONGEST_PAUSE_SECONDS
    bad.error = None
    assert await phases.run(RoundPhase.TIMERS, bad)
    assert not phases.pauses(RoundPhase.TIMERS)


async def test_the_end_of_leadership_is_not_contained() -> None:
    with pytest.raises(StaleEpochError):
        await GuardedPhases().run(RoundPhase.CYCLE, Work(StaleEpochError("newer")))


@pytest.mark.parametrize("phase", [RoundPhase.INTAKE, RoundPhase.OBSERVE, RoundPhase.CYCLE])
async def test_an_essential_phase_that_never_succeeds_ends_the_process_after_long(phase: RoundPhase) -> None:
    clock = Hands()
    phases, work = GuardedPhases(clock), Work(KeyError("x"))
    for clock.now in (0.0, STUCK_AFTER_SECONDS - 1):
        assert not await phases.run(phase, work)
    assert work.runs == 2
    clock.now = STUCK_AFTER_SECONDS + LONGEST_PAUSE_SECONDS
    with pytest.raises(PhaseStuckError):
        await phases.run(phase, work)


async def test_any_other_phase_may_fail_for_ever() -> None:
    clock = Hands()
    phases, work = GuardedPhases(clock), Work(KeyError("x"))
    for clock.now in (0.0, STUCK_AFTER_SECONDS, 2 * STUCK_AFTER_SECONDS):
        assert not await phases.run(RoundPhase.REASONS, work)
    assert work.runs == 3
