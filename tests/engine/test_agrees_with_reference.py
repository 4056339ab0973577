"""The vectorised engine decides as the slow reference does: feasibility, reasons, scores and chosen workers."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from niyanta.engine.explain import nearest_miss
from niyanta.engine.schedule import Options, schedule
from niyanta.engine.types import HOSTNAME_TOPOLOGY, ZONE_TOPOLOGY, Expression, Matcher, Op, PeerTerm, Selector
from tests.engine.reference import Cluster
from tests.engine.worlds import RACK, chance, topology, world

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


def test_groups_near_themselves_start_where_the_reference_starts_them() -> None:
    tied = 0
    for seed in range(300):
        rng = Random(seed)
        made = world(rng)
        groups = []
        for workload in made.pending:
            near = tuple(
                PeerTerm(Selector(labels=(Expression("gang", Op.IN, (workload.id,)),)), topology)
                for topology in rng.choice(((ZONE_TOPOLOGY,), (RACK,), (HOSTNAME_TOPOLOGY,), (ZONE_TOPOLOGY, RACK)))
            )
            subject = replace(workload.subject, labels=(*workload.subject.labels, ("gang", workload.id)))
            wanted = topology(rng) if chance(rng, 30) else None
            asked = replace(workload.requirements, near=near, topology=wanted, hard=Matcher())
            groups.append(replace(workload, subject=subject, requirements=asked, replicas=rng.randint(2, 6)))
        expected = Cluster(list(made.workers), list(made.charges), charged_nodes=made.charged_nodes)
        decided = expected.decide(groups)
        plan = schedule(made.snapshot(), groups, now=0)
        assert (plan.placements, plan.rejections) == (decided.placements, decided.rejections), f"seed {seed}"
        tied += expected.tied
    assert tied > 200


def test_the_random_worlds_cover_placements_and_rejections() -> None:
    """Guards the generator: a comparison of empty plans would prove nothing."""
    placed = groups = depends = repeated = 0
    reasons: dict[str, int] = {}
    for seed in range(800):
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
    assert len(reasons) == 23
    assert min(reasons.values()) > 10, reasons
