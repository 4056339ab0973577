"""Turns and reservations of groups that are tied to one domain."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from niyanta.engine.schedule import schedule
from niyanta.engine.types import (
    ZONE_TOPOLOGY,
    Expression,
    Op,
    PeerTerm,
    PendingWorkload,
    Requirements,
    Selector,
    Subject,
    Topology,
    WorkerInfo,
)
from tests.engine.expedited.lanes import LATE, begun, cluster, follow, generous, runs, worker

pytestmark = pytest.mark.unit

ZONES = ("z1", "z2", "z3")
OWN = Selector(labels=(Expression("app", Op.IN, ("x",)),))
TIES = (
    Requirements((("cpu", 2000), ("pods", 1)), topology=Topology(ZONE_TOPOLOGY)),
    Requirements((("cpu", 2000), ("pods", 1)), near=(PeerTerm(OWN, ZONE_TOPOLOGY),)),
)
WISH = replace(TIES[0], topology=Topology(ZONE_TOPOLOGY, required=False))


def at(name: str, zone: str, cpu: int = 4000) -> WorkerInfo:
    return replace(worker(name, cpu), labels=((ZONE_TOPOLOGY, zone),), zone=zone)


def group(asked: Requirements, replicas: int) -> PendingWorkload:
    return PendingWorkload("g", 1, 1, Subject("ns", "acme", labels=(("app", "x"),)), asked, replicas)


@pytest.mark.parametrize("asked", TIES)
def test_workers_of_the_domain_that_lacks_least_are_reserved(asked: Requirements) -> None:
    workers = [at("a1", "z1"), at("b1", "z2"), at("b2", "z2"), at("c1", "z3"), at("c2", "z3")]
    charges = [runs("r1", "b1", 4000), runs("r2", "b2", 4000), runs("r3", "c1", 4000), runs("r4", "c2", 2000)]
    snapshot = cluster(*workers, charges=tuple(charges))
    plan = follow(snapshot, generous(snapshot), [group(asked, 4)], LATE)
    assert plan.lane is not None
    (reservation,) = plan.lane.reservations
    assert sorted(reservation.workers) == ["c1", "c1", "c2", "c2"]


def test_a_preferred_domain_is_given_up_if_it_can_never_hold_the_group() -> None:
    workers = [at("a1", "z1"), at("b1", "z2")]
    snapshot = cluster(*workers, charges=(runs("r1", "a1", 4000), runs("r2", "b1", 4000)))
    for replicas, reserved in ((2, {"a1"}), (4, {"a1", "b1"})):
        lane = follow(snapshot, generous(snapshot), [group(WISH, replicas)], LATE).lane
        assert lane is not None
        assert {name for r in lane.reservations for name in r.workers} == reserved


@pytest.mark.parametrize("asked", TIES)
def test_a_tied_group_enters_if_and_only_if_an_empty_domain_holds_it_and_starts_on_what_is_reserved(
    asked: Requirements,
) -> None:
    entered = 0
    for seed in range(120):
        rng = Random(seed)
        names = [f"w{number}" for number in range(rng.randint(1, 6))]
        workers = [at(name, rng.choice(ZONES), rng.choice((2000, 4000, 6000))) for name in names]
        charges = [runs(f"r{name}", name, rng.choice((1000, 2000))) for name in names if rng.randrange(3)]
        gang = group(asked, rng.randint(2, 5))
        snapshot = cluster(*workers, charges=tuple(charges))
        empty = bool(schedule(cluster(*workers), [gang], now=0).placements)
        assert bool(begun(snapshot, [gang]).members) == empty, f"seed {seed}"
        plan = follow(snapshot, generous(snapshot), [gang], LATE)
        placed = bool(schedule(cluster(*workers, charges=tuple(charges)), [gang], now=0).placements)
        assert bool(plan.placements) == placed, f"seed {seed}"
        assert plan.lane is not None
        for reservation in plan.lane.reservations:
            zones = {one.zone for one in workers if one.name in reservation.workers}
            assert len(zones) == 1, f"seed {seed}"
            for charge in charges:
                if charge.worker in reservation.workers:
                    snapshot.release(charge.key)
            later = follow(snapshot, plan.lane, [gang], LATE + 1)
            assert [p.id for p in later.placements] == ["g"], f"seed {seed}"
        entered += len(plan.lane.reservations)
        assert placed or len(plan.lane.reservations) == empty, f"seed {seed}"
    assert entered > 15
