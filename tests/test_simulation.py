"""The bound on waiting, on a few hours of a real trace at 120 % load: it holds with the lane, and not without it."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from bench import wait_bound
from bench.simulation import Simulation
from bench.trace import trace_folder

pytestmark = pytest.mark.unit

HOURS = 8


@pytest.fixture(scope="module")
def folder() -> Path:
    found = trace_folder()
    if found is None:
        pytest.skip("the openb trace is not there: set NIYANTA_OPENB_DIR to its folder")
    return found


@pytest.fixture(scope="module")
def with_lane(folder: Path) -> Simulation:
    simulation = Simulation(folder, hours=HOURS)
    simulation.run()
    return simulation


def test_every_workload_waits_at_most_as_long_as_the_bound_says(with_lane: Simulation) -> None:
    assert wait_bound.broken(with_lane) == []
    for name, story in with_lane.stories.items():
        if story.pools:
            waited = wait_bound.waited(with_lane, story)
            assert waited <= max(wait_bound.bound(with_lane, name, story), wait_bound.MAX_WAIT_SECONDS)
    assert any(story.expedited for story in with_lane.stories.values())


def test_the_lane_keeps_to_its_share_in_every_pool(with_lane: Simulation) -> None:
    for log in with_lane.logs.values():
        assert 0 < log.charged[-1] - log.debt[-1] <= 0.25 * (log.freed[-1] - log.freed[0])


def test_the_upper_tiers_wait_less_than_the_lower_ones(with_lane: Simulation) -> None:
    waits: dict[str, list[int]] = {}
    for story in with_lane.stories.values():
        if story.pools:
            waits.setdefault(story.tier, []).append(wait_bound.waited(with_lane, story))
    assert max(mean(waits["Enterprise"]), mean(waits["Premium"])) < min(mean(waits["Standard"]), mean(waits["Free"]))


def test_without_the_lane_the_bound_is_broken(folder: Path) -> None:
    simulation = Simulation(folder, hours=HOURS, lane=False)
    simulation.run()
    assert len(wait_bound.broken(simulation)) > 10
