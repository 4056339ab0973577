"""The rate of placements: a window of ten minutes, shorter after the start."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from niyanta.scheduler import placement_rate
from niyanta.scheduler.placement_rate import PlacementRate
from tests.scheduler.demand.test_stats_collector import ROW

pytestmark = pytest.mark.unit

PLACED = [replace(ROW, pool="a", customer="x"), replace(ROW, pool="b", customer="x")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(placement_rate, "time", clock)
    return clock


def test_placements_count_by_pool_and_customer(clock: SimpleNamespace) -> None:
    rate = PlacementRate()
    rate.placed(PLACED)
    clock.now += 120.0
    assert rate.per_minute() == (1.0, {"a": 0.5, "b": 0.5}, {"x": 1.0})


def test_placements_leave_the_window_after_ten_minutes(clock: SimpleNamespace) -> None:
    rate = PlacementRate()
    rate.placed(PLACED)
    clock.now += 300.0
    rate.placed(PLACED[:1])
    clock.now += 300.5
    assert rate.per_minute() == (0.1, {"a": 0.1}, {"x": 0.1})
    clock.now += 300.0
    assert rate.per_minute() == (0.0, {}, {})


def test_a_burst_right_after_the_start_is_no_huge_rate(clock: SimpleNamespace) -> None:
    rate = PlacementRate()
    rate.placed(PLACED)
    total, _, _ = rate.per_minute()
    assert total == pytest.approx(24.0)
