"""The bound on waiting, on a few hours of the openb trace at 120 % load: it holds with the lane, and not without it.

Without the trace the tests run on its sample; the sample has a test of its own where the trace is present.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from bench import wait_bound
from bench.simulation import Simulation
from testing.trace import NODES, SAMPLE, TASKS, read_rows, trace_folder, trace_or_sample

pytestmark = pytest.mark.unit

HOURS = 8


@pytest.fixture(scope="module")
def folder() -> Path:
    return trace_or_sample()


@pytest.fixture(scope="module")
def with_lane(folder: Path) -> Simulation:
    simulation = Simulation(folder, hours=HOURS)
    simulation.run()
    return simulation


def test_no_workload_waits_longer_than_the_bound(with_lane: Simulation) -> None:
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


def test_the_sample_has_the_columns_of_the_trace_and_every_gpu_model() -> None:
    nodes, tasks = read_rows(SAMPLE / NODES), read_rows(SAMPLE / TASKS)
    assert {row["model"] for row in nodes} == {"P100", "V100M16", "V100M32", "T4", "A10", "G2", "G3"}
    assert {"0", "1", "2", "8"} == {row["num_gpu"] for row in tasks}
    if (trace := trace_folder()) is not None:
        assert list(nodes[0]) == list(read_rows(trace / NODES)[0])
        assert list(tasks[0]) == list(read_rows(trace / TASKS)[0])


def test_the_bound_holds_on_the_sample_with_the_lane_and_not_without_it() -> None:
    with_lane, without = Simulation(SAMPLE, hours=HOURS), Simulation(SAMPLE, hours=HOURS, lane=False)
    with_lane.run()
    without.run()
    assert wait_bound.broken(with_lane) == []
    assert wait_bound.broken(without)
