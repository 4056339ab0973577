"""The pace rises while the server answers as usual, falls while it doesn't, and recovers. On a clock of its own."""

from __future__ import annotations

import pytest

from niyanta.cluster.status.write_pace import (
    BURST_SECONDS,
    FIRST_RATE,
    HIGHEST_RATE,
    LOWEST_RATE,
    SLOW_FOR_SECONDS,
    WINDOW_SECONDS,
    WritePace,
)

pytestmark = pytest.mark.unit

QUICK = 0.006
SLOW = 0.4


class Server:
    """Writes as many as the pace allows, one after the other, and answers each after the same time."""

    def __init__(self) -> None:
        self.pace = WritePace()
        self.now = 1_000.0

    def write(self, seconds: float, answer: float) -> int:
        """Write for so long; returns the number of writes."""
        end, count = self.now + seconds, 0
        while self.now < end:
            self.now += self.pace.take(self.now)
            self.pace.answered(answer, self.now)
            count += 1
        return count


def test_it_rises_by_steps_to_its_highest() -> None:
    server = Server()
    server.write(1.0, QUICK)
    assert FIRST_RATE < server.pace.rate < HIGHEST_RATE
    server.write(30.0, QUICK)
    assert server.pace.rate == HIGHEST_RATE


def test_slow_answers_halve_it_down_to_its_lowest() -> None:
    server = Server()
    server.write(5.0, QUICK)
    before = server.pace.rate
    server.write(WINDOW_SECONDS * 1.5, SLOW)
    assert server.pace.rate <= before / 2
    assert server.pace.slow(server.now)
    server.write(60.0, SLOW)
    assert server.pace.rate == LOWEST_RATE


def test_a_server_that_has_recovered_is_used_again() -> None:
    server = Server()
    server.write(5.0, QUICK)
    server.write(20.0, SLOW)
    server.write(30.0, QUICK)
    assert server.pace.rate > FIRST_RATE
    assert not server.pace.slow(server.now)


def test_answers_that_are_always_as_slow_are_usual() -> None:
    server = Server()
    server.write(20.0, 0.05)
    assert server.pace.rate > FIRST_RATE
    server.write(5.0, 0.05 * 4.5)
    assert server.pace.rate < FIRST_RATE


def test_a_server_whose_first_answers_are_very_slow_is_slow() -> None:
    server = Server()
    server.write(5.0, 1.0)
    assert server.pace.rate == LOWEST_RATE


def test_a_write_without_an_answer_halves_it() -> None:
    pace = WritePace()
    pace.failed(5.0)
    assert pace.rate == FIRST_RATE / 2
    assert pace.slow(5.0 + SLOW_FOR_SECONDS / 2)
    assert not pace.slow(5.0 + SLOW_FOR_SECONDS)


def test_a_pace_that_is_not_used_does_not_rise() -> None:
    pace = WritePace()
    for second in range(100):
        pace.answered(QUICK, float(second))
    assert pace.rate == FIRST_RATE


def test_a_pause_saves_no_more_than_a_burst() -> None:
    pace = WritePace()
    waits = [pace.take(100.0) for _ in range(20)]
    burst = round(FIRST_RATE * BURST_SECONDS)
    assert waits[: burst - 1] == [0.0] * (burst - 1)
    assert waits[-1] == pytest.approx((20 - burst) / FIRST_RATE)
