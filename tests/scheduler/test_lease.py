"""The lease: valid for its duration after the request that renewed it, and stalled without ticks."""

from __future__ import annotations

import pytest

from niyanta.scheduler import lease
from niyanta.scheduler.lease import Lease

pytestmark = pytest.mark.unit


class Clock:
    """A monotonic clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    return clock


def test_it_is_valid_from_the_request_and_not_from_its_answer(clock: Clock) -> None:
    held = Lease(seconds=10.0, stall_limit=3.0)
    assert not held.valid
    held.begin(7, asked_at=95.0)
    assert held.valid
    assert held.epoch == 7
    clock.now = 105.0
    assert not held.valid
    held.renewed(asked_at=104.0)
    assert held.valid
    clock.now = 114.0
    assert not held.valid


def test_the_end_of_leadership_ends_it_at_once(clock: Clock) -> None:
    held = Lease(seconds=10.0, stall_limit=3.0)
    held.begin(1, asked_at=clock.now)
    held.end()
    assert not held.valid


def test_it_is_stalled_without_ticks(clock: Clock) -> None:
    held = Lease(seconds=10.0, stall_limit=3.0)
    held.begin(1, asked_at=clock.now)
    clock.now += 3.0
    assert not held.stalled
    clock.now += 0.1
    assert held.stalled
    held.tick()
    assert not held.stalled
