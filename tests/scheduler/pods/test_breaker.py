"""Circuit breakers: failures in a row open them, single probes after growing pauses close them again."""

from __future__ import annotations

import pytest

from niyanta.scheduler.pods.breaker import Breaker

pytestmark = pytest.mark.unit


class SteppedClock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def breaker(clock: SteppedClock) -> Breaker:
    return Breaker(failures=3, first_seconds=1.0, longest_seconds=4.0, clock=clock)


def test_a_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert not breaker.open
    assert breaker.seconds_to_probe() == 0


def test_failures_in_a_row_open_it_until_a_probe_succeeds(breaker: Breaker, clock: SteppedClock) -> None:
    for _ in range(3):
        breaker.failed()
    assert breaker.open
    assert 0.5 <= breaker.seconds_to_probe() <= 1.0
    clock.now += 1.0
    assert breaker.seconds_to_probe() == 0
    breaker.succeeded()
    assert not breaker.open


def test_pauses_between_probes_grow_to_the_longest(breaker: Breaker, clock: SteppedClock) -> None:
    for _ in range(3):
        breaker.failed()
    for longest in (1.0, 2.0, 4.0, 4.0):
        assert longest / 2 <= breaker.seconds_to_probe() <= longest
        clock.now += longest
        breaker.failed()


def test_failures_of_tries_that_began_before_it_opened_lengthen_no_pause(breaker: Breaker, clock: SteppedClock) -> None:
    for _ in range(3):
        breaker.failed()
    pause = breaker.seconds_to_probe()
    for _ in range(10):
        breaker.failed()
    assert breaker.seconds_to_probe() == pause
