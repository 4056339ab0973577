"""Every pair of phase and event: legal ones lead where this table says, all others are errors."""

from __future__ import annotations

import itertools

import pytest

from niyanta.lifecycle import TERMINAL, TRANSITIONS, Event, IllegalTransitionError, Phase, next_phase

pytestmark = pytest.mark.unit

# The expected table as a matrix: "." is illegal.
EVENTS = ["HOLD", "RELEASE", "PLACE", "START", "SUCCEED", "RETRY", "REQUEUE", "FAIL", "SUSPEND", "RESUME", "CANCEL"]
MATRIX = {
    "PENDING": "HELD   .       SCHEDULED .       .         .       .       FAILED SUSPENDED .       CANCELLED",
    "HELD": ".      PENDING .         .       .         .       .       FAILED SUSPENDED .       CANCELLED",
    "SCHEDULED": ". .       .         RUNNING SUCCEEDED PENDING PENDING FAILED SUSPENDED .       CANCELLED",
    "RUNNING": ".   .       .         .       SUCCEEDED PENDING PENDING FAILED SUSPENDED .       CANCELLED",
    "SUSPENDED": ". .       .         .       .         .       .       .      .         PENDING CANCELLED",
    "SUCCEEDED": ". .       .         .       .         .       .       .      .         .       .",
    "FAILED": ".    .       .         .       .         .       .       .      .         .       .",
    "CANCELLED": ". .       .         .       .         .       .       .      .         .       .",
}


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, Event)), ids=lambda value: value.value)
def test_each_pair_leads_where_the_matrix_says(phase: Phase, event: Event) -> None:
    wanted = MATRIX[phase.name].split()[EVENTS.index(event.name)]
    if wanted == ".":
        with pytest.raises(IllegalTransitionError, match=f"{event.value} is not allowed in phase {phase.value}"):
            next_phase(phase, event)
    else:
        assert next_phase(phase, event) is Phase[wanted]


def test_the_matrix_names_every_phase_and_event() -> None:
    assert set(MATRIX) == {phase.name for phase in Phase}
    assert set(EVENTS) == {event.name for event in Event}
    assert all(len(line.split()) == len(EVENTS) for line in MATRIX.values())


def test_nothing_follows_a_terminal_phase() -> None:
    assert {phase for phase in Phase if phase.terminal} == TERMINAL
    assert not [phase for phase, _ in TRANSITIONS if phase.terminal]


def test_every_phase_can_be_reached_and_every_live_one_cancelled() -> None:
    reached = {Phase.PENDING}
    for _ in Phase:
        reached |= {to for (phase, _), to in TRANSITIONS.items() if phase in reached}
    assert reached == set(Phase)
    assert all(next_phase(phase, Event.CANCEL) is Phase.CANCELLED for phase in Phase if not phase.terminal)
