"""Packing fills real workers first and opens no more new workers than the engine would fill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.engine.placement.overlay import Options
from niyanta.engine.sizing.planner import EmptyPool, FitKind, Planner, PoolFit
from niyanta.engine.snapshot.deltas import WorkerUpserted
from niyanta.engine.types import (
    HOSTNAME_TOPOLOGY,
    ZONE_TOPOLOGY,
    Charge,
    Expression,
    Gpu,
    HostPort,
    Matcher,
    Op,
    PeerTerm,
    Requirements,
    Selector,
    Subject,
    Taint,
)
from tests.engine.sizing.pools import SELF, amounts, needed, pool, running, size, template, waiting

pytestmark = pytest.mark.unit


def test_a_pool_at_zero_needs_as_many_workers_as_the_work_fills() -> None:
    assert needed(size([pool("a")], waiting(9))) == {"a": 3}


def test_gpus_and_slots_count() -> None:
    asked = Requirements(amounts(100), gpu_count=3, wants_gpu=True)
    assert needed(size([pool("a", gpus=8)], waiting(5, asked))) == {"a": 3}
    assert needed(size([pool("a", slots=2)], waiting(5, Requirements(amounts(1))))) == {"a": 3}


def test_work_that_fits_beside_running_pods_needs_no_worker() -> None:
    real = replace(template("a"), name="n1")
    sizing = size([pool("a")], waiting(3), workers=(real,), charges=(running("n1"),))
    assert needed(sizing) == {"a": 1}
    assert {pool_fit.fit for pool_fit in sizing.pool_fits.values()} == {FitKind.ROOM}


def test_idle_workers_are_filled_before_new_ones_and_workers_not_ready_count_as_new_ones() -> None:
    idle = replace(template("a"), name="n1")
    starting = replace(template("a"), name="n2", ready=False)
    assert needed(size([pool("a")], waiting(6), workers=(idle, starting))) == {"a": 2}
    assert needed(size([pool("a")], [], workers=(idle, starting))) == {"a": 0}


def test_work_whose_pods_are_rejected_takes_no_capacity_and_needs_no_worker() -> None:
    real = replace(template("a"), name="n1")
    planner = Planner()
    planner.follow([WorkerUpserted(real)])
    sizing = planner.size([pool("a")], waiting(9), (), Options(), frozenset(f"w{n:04}" for n in range(5)))
    assert needed(sizing) == {"a": 1}
    assert [sizing.pool_fits[f"w{n:04}"] for n in (0, 8)] == [PoolFit(FitKind.REFUSED, "a"), PoolFit(FitKind.ROOM, "a")]


def test_a_cordoned_worker_counts_while_it_is_in_use() -> None:
    leaving = replace(template("a"), name="n1", cordoned=True)
    assert needed(size([pool("a")], waiting(1), workers=(leaving,), charges=(running("n1"),))) == {"a": 2}
    assert needed(size([pool("a")], waiting(1), workers=(leaving,))) == {"a": 1}


def test_starting_workers_are_not_ordered_twice() -> None:
    """Ready workers that still have a startup taint, or no GPU driver yet, cannot take work."""
    tainted = Taint("node.kubernetes.io/not-ready", "", "NoSchedule")
    asked = Requirements(amounts(), gpu_count=1, wants_gpu=True)
    fresh = tuple(replace(template("a", gpus=8), name=f"n{n}", taints=(tainted,)) for n in range(3))
    assert needed(size([pool("a", gpus=8)], waiting(12, asked), workers=fresh)) == {"a": 3}
    blind = tuple(replace(template("a"), name=f"n{n}", gpu=Gpu("A100", 0)) for n in range(3))
    assert needed(size([pool("a", gpus=8)], waiting(12, asked), workers=blind)) == {"a": 3}


def test_an_idle_worker_that_cannot_take_the_work_does_not_replace_a_new_one() -> None:
    """Otherwise the pool would stay at one worker in the wrong zone."""
    two_zones = EmptyPool("a", (template("a", zone="z1"), template("a", zone="z2")))
    here = replace(template("a", zone="z1"), name="n1")
    there = Requirements(amounts(), hard=Matcher(zones=("z2",)))
    assert needed(size([two_zones], waiting(1, there), workers=(here,))) == {"a": 2}


def test_a_pool_whose_workers_are_not_as_declared_does_not_grow_for_ever() -> None:
    small = tuple(replace(template("a", cpu=3900), name=f"n{n}") for n in range(5))
    assert needed(size([pool("a")], waiting(1, Requirements(amounts(4000))), workers=small)) == {"a": 1}
    closed = tuple(replace(template("a"), name=f"n{n}", taints=(Taint("mine", "", "NoSchedule"),)) for n in range(5))
    assert needed(size([pool("a")], waiting(1), workers=closed)) == {"a": 1}
    two_zones = EmptyPool("a", (template("a", zone="z1"), template("a", zone="z2")))
    wrong = tuple(replace(template("a", zone="z1"), name=f"n{n}") for n in range(5))
    there = Requirements(amounts(), hard=Matcher(zones=("z2",)))
    assert needed(size([two_zones], waiting(1, there), workers=wrong)) == {"a": 2}


def test_foreign_pods_on_a_real_worker_keep_their_capacity() -> None:
    """A worker filled by foreign pods counts beside the new one; one filled by DaemonSets shows a wrong shape."""
    real = replace(template("a"), name="n1")
    filled = Charge("uid", "n1", amounts(3500))
    known = replace(pool("a"), daemons=amounts(500))
    assert needed(size([known], waiting(1), workers=(real,), charges=(filled,))) == {"a": 2}
    usual = replace(pool("a"), daemons=amounts(3500))
    assert needed(size([usual], waiting(1), workers=(real,), charges=(filled,))) == {"a": 1}
    assert needed(size([pool("a")], waiting(1), workers=(real,), charges=(filled,))) == {"a": 1}


def test_anti_affinity_by_host_and_host_ports_take_a_worker_each() -> None:
    alone = Requirements(amounts(), anti=(PeerTerm(SELF),))
    port = Requirements(amounts(), host_ports=(HostPort(80),))
    assert needed(size([pool("a")], waiting(5, alone))) == {"a": 5}
    assert needed(size([pool("a")], waiting(5, port))) == {"a": 5}


def test_anti_affinity_by_zone_takes_as_many_workers_as_there_are_zones() -> None:
    by_zone = Requirements(amounts(), anti=(PeerTerm(SELF, ZONE_TOPOLOGY),))
    zones = EmptyPool("a", tuple(template("a", zone=zone) for zone in ("z1", "z2")))
    sizing = size([zones], waiting(3, by_zone))
    assert needed(sizing) == {"a": 2}
    assert [sizing.pool_fits[f"w000{n}"].fit for n in range(3)] == [FitKind.NEW, FitKind.NEW, FitKind.NEVER]


def test_a_group_is_packed_whole_or_not_at_all() -> None:
    assert needed(size([pool("a")], waiting(1, replicas=6))) == {"a": 2}
    sizing = size([pool("a", most=1)], waiting(1, replicas=6))
    assert needed(sizing) == {"a": 0}
    assert sizing.pool_fits["w0000"].fit is FitKind.FULL
    by_zone = Requirements(amounts(), anti=(PeerTerm(SELF, ZONE_TOPOLOGY),))
    zones = EmptyPool("a", tuple(template("a", zone=zone) for zone in ("z1", "z2")))
    sizing = size([zones], waiting(1, by_zone, replicas=3))
    assert needed(sizing) == {"a": 0}
    assert (sizing.pool_fits["w0000"].fit, sizing.pool_fits["w0000"].pool) == (FitKind.NEVER, "a")


def test_a_group_uses_capacity_beside_running_pods() -> None:
    real = replace(template("a"), name="n1")
    assert needed(size([pool("a")], waiting(1, replicas=6), workers=(real,), charges=(running("n1"),))) == {"a": 2}


def test_near_by_zone_needs_a_worker_in_that_zone_and_near_by_host_needs_no_worker() -> None:
    zones = EmptyPool("a", tuple(template("a", zone=zone) for zone in ("z1", "z2")))
    full = replace(template("a", zone="z2", cpu=1000), name="n1")
    other = Selector(labels=(Expression("app", Op.IN, ("db",)),))
    there = Charge("r/1/0", "n1", amounts(), subject=Subject("ns", "acme", labels=(("app", "db"),)))
    by_zone = Requirements(amounts(), near=(PeerTerm(other, ZONE_TOPOLOGY),))
    by_host = Requirements(amounts(), near=(PeerTerm(other, HOSTNAME_TOPOLOGY),))
    assert needed(size([zones], waiting(1, by_zone), workers=(full,), charges=(there,))) == {"a": 2}
    sizing = size([zones], waiting(1, by_host), workers=(full,), charges=(there,))
    assert needed(sizing) == {"a": 1}
    assert sizing.pool_fits["w0000"].fit is FitKind.NEVER
