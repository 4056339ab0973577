"""The vectorised engine decides as the slow reference does: feasibility, reasons, scores and chosen workers."""

from __future__ import annotations

from random import Random

import pytest

from niyanta.engine.explain import nearest_miss
from niyanta.engine.schedule import Options, schedule
from tests.engine.reference import Cluster
from tests.engine.worlds import world

pytestmark = pytest.mark.unit

CASES = 3000
CHUNK = 250


@pytest.mark.parametrize("first", range(0, CASES, CHUNK))
def test_plan_is_the_reference_plan(first: int) -> None:
    for seed in range(first, first + CHUNK):
        made = world(Random(seed))
        keep = seed % 4 > 0
        expected = Cluster(list(made.workers), list(made.charges), keep, made.charged_nodes).decide(list(made.pending))
        plan = schedule(made.snapshot(), made.pending, now=0, options=Options(keep_gpu_workers_free=keep))
        assert plan.placements == expected.placements, f"seed {seed}"
        assert plan.rejections == expected.rejections, f"seed {seed}"


def test_each_worker_fails_the_checks_that_the_reference_finds() -> None:
    for seed in range(200):
        made = world(Random(seed))
        cluster = Cluster(list(made.workers), list(made.charges), charged_nodes=made.charged_nodes)
        workload = made.pending[0]
        starts = cluster.starting(workload)
        expected = {
            w.name: list(cluster.all_refusals(workload, w, starts))
            for w in made.workers
            if cluster.may_use(workload, w)
        }
        found = {miss.worker: list(miss.failed) for miss in nearest_miss(made.snapshot(), workload, limit=99)}
        assert {name: sorted(set(f), key=str) for name, f in found.items()} == {
            name: sorted(set(f), key=str) for name, f in expected.items()
        }, f"seed {seed}"


def test_the_random_worlds_cover_placements_and_rejections() -> None:
    """Guards the generator: a comparison of empty plans would prove nothing."""
    placed = groups = depends = repeated = 0
    reasons: dict[str, int] = {}
    for seed in range(600):
        made = world(Random(seed))
        plan = schedule(made.snapshot(), made.pending, now=0)
        placed += len(plan.placements)
        groups += sum(1 for p in plan.placements if len(p.workers) > 1)
        depends += sum(1 for p in plan.placements if p.depends_on)
        repeated += len(made.pending) - len({id(p.requirements) for p in made.pending})
        for rejection in plan.rejections:
            for reason, _, count in rejection.counts:
                reasons[reason.name] = reasons.get(reason.name, 0) + count
    assert placed > 1000
    assert groups > 200
    assert depends > 15
    assert repeated > 500
    assert len(reasons) == 21
    assert min(reasons.values()) > 10, reasons
