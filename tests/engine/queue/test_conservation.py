"""Nothing that could be placed stays parked, whatever happens between a cycle's fork and its parks."""

from __future__ import annotations

import os

import pytest

from tests.engine.queue.scenario import Scenario

pytestmark = pytest.mark.unit

HISTORIES = int(os.environ.get("NIYANTA_QUEUE_HISTORIES", "240"))
"""More for a longer search."""

CHUNK = 40
STEPS = 60


def check(history: Scenario, where: str) -> None:
    history.settle()
    assert history.placeable() == [], where
    tried = history.plan(retry=True)
    history.commit(tried)
    assert (tried.missed, [p.id for p in tried.plan.placements]) == ((), []), where


@pytest.mark.parametrize("first", range(0, HISTORIES, CHUNK))
def test_a_parked_workload_cannot_be_placed(first: int) -> None:
    placed = parks = wakes = 0
    for seed in range(first, first + CHUNK):
        history = Scenario(seed, lane=seed % 4 == 3)
        for step in range(STEPS):
            history.step()
            if step % 10 == 9:
                check(history, f"seed {seed}, step {step}")
        placed, parks, wakes = placed + history.placed, parks + history.parks, wakes + history.wakes
    assert min(placed, parks, wakes) > 6 * CHUNK, "the histories show too little"
