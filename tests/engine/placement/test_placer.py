"""Rules of placement, one by one, on clusters small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.engine.schedule import Options, schedule
from niyanta.engine.types import (
    HOSTNAME_TOPOLOGY,
    ZONE_TOPOLOGY,
    Charge,
    Gpu,
    Matcher,
    Reason,
)
from tests.engine.builders import ALIKE, DB, NEAR_DB, NEAR_WEB, POD, WEB, node, snapshot, wants, workers

pytestmark = pytest.mark.unit


def test_pack_fills_one_worker_before_it_opens_another() -> None:
    plan = schedule(snapshot(node("a"), node("b")), [wants(f"p{n}") for n in range(6)], now=0)
    assert [p.workers[0] for p in plan.placements] == ["a", "a", "a", "a", "b", "b"]


def test_workloads_without_gpu_leave_gpu_workers_free_unless_the_option_is_off() -> None:
    made = snapshot(node("a-gpu", cpu=2000, gpus=4), node("b"), node("c"))
    made.charge(Charge("x", "a-gpu", (("cpu", 500), ("pods", 1))))
    assert workers(schedule(made, [wants("p")], now=0)) == {"p": ("b",)}
    free = Options(keep_gpu_workers_free=False)
    small = wants("p", replace(POD, hard=Matcher(node_names=("a-gpu",))))
    assert workers(schedule(made, [small], now=0, options=free)) == {"p": ("a-gpu",)}
    assert workers(schedule(made, [small], now=0)) == {"p": ("a-gpu",)}


def test_replicas_of_a_self_repelling_group_spread_and_all_of_them_or_none_is_placed() -> None:
    spread = replace(POD, anti=(ALIKE,))
    made = snapshot(node("a"), node("b"))
    assert workers(schedule(made, [wants("two", spread, replicas=2)], now=0)) == {"two": ("a", "b")}
    plan = schedule(made, [wants("three", spread, replicas=3), wants("one", spread)], now=0)
    assert plan.rejections[0].counts == ((Reason.GROUP, "", 2),)
    assert workers(plan) == {"one": ("a",)}


def test_a_placement_has_the_pool_of_each_worker() -> None:
    made = snapshot(node("a"), replace(node("b"), pool="other"), node("c"))
    (placement,) = schedule(made, [wants("g", replace(POD, anti=(ALIKE,)), replicas=3)], now=0).placements
    assert dict(zip(placement.workers, placement.pools, strict=True)) == {"a": "pool", "b": "other", "c": "pool"}


def test_a_running_carrier_keeps_newcomers_away_and_release_lets_them_in() -> None:
    made = snapshot(node("a"))
    made.charge(Charge("db", "a", (("pods", 1),), subject=DB, anti=(ALIKE,)))
    rejected = schedule(made, [wants("web")], now=0).rejections[0]
    assert rejected.counts == ((Reason.ANTI, "kubernetes.io/hostname", 1),)
    made.release("db")
    assert workers(schedule(made, [wants("web")], now=0)) == {"web": ("a",)}


def test_near_waits_for_its_peer_follows_it_and_names_it_only_when_it_relies_on_this_plan() -> None:
    made = snapshot(node("a", "z1"), node("b", "z2", cpu=1000))
    follower = wants("follower", replace(POD, near=(NEAR_DB,)))
    leader = wants("leader", replace(POD, hard=Matcher(node_names=("b",))), DB)
    assert schedule(made, [follower], now=0).rejections[0].counts == ((Reason.NEAR, "", 2),)
    other = node("c", "z2")
    made.upsert_worker(other)
    plan = schedule(made, [leader, follower], now=0)
    assert workers(plan) == {"leader": ("b",), "follower": ("c",)}
    assert plan.placements[1].depends_on == ("leader",)
    made.charge(Charge("db", "c", (("pods", 1),), subject=DB))
    assert schedule(made, [leader, follower], now=0).placements[1].depends_on == ()


def test_the_first_replica_of_a_group_with_a_near_term_on_itself_may_start_anywhere() -> None:
    made = snapshot(node("a", "z1", cpu=2000), node("b", "z1", cpu=1000), node("c", "z2", cpu=4000), node("d"))
    together = replace(POD, near=(NEAR_WEB,))
    plan = schedule(made, [wants("g", together, replicas=3)], now=0)
    assert workers(plan) == {"g": ("b", "a", "a")}
    assert plan.placements[0].depends_on == ()
    made.charge(Charge("web", "c", (("pods", 1),), subject=WEB))
    assert workers(schedule(made, [wants("g", together, replicas=3)], now=0)) == {"g": ("c", "c", "c")}


def test_a_group_near_itself_is_placed_in_the_domain_that_holds_it() -> None:
    """Pack starts in the fuller zone, which holds only a part."""
    made = snapshot(node("a", "z1", cpu=2000), node("b", "z2", cpu=3000), node("c", "z2", cpu=2000), node("d"))
    together = replace(POD, near=(NEAR_WEB,))
    plan = schedule(made, [wants("g", together, replicas=5)], now=0)
    assert workers(plan) == {"g": ("c", "c", "b", "b", "b")}
    plan = schedule(made, [wants("g", together, replicas=6), wants("one", together)], now=0)
    tried = f"{ZONE_TOPOLOGY}: z2 has room for 5, z1 has room for 2"
    assert plan.rejections[0].counts == ((Reason.GROUP, tried, 3), (Reason.NEAR, "", 1))
    assert workers(plan) == {"one": ("a",)}
    on_one = replace(POD, near=(replace(NEAR_WEB, topology=HOSTNAME_TOPOLOGY),))
    assert workers(schedule(made, [wants("g", on_one, replicas=4)], now=0)) == {"g": ("d",) * 4}


def test_a_gpu_count_is_charged_to_the_resource_of_the_worker() -> None:
    amd = replace(node("a"), gpu=Gpu("MI300", 2, resource="amd.com/gpu"))
    amd = replace(amd, allocatable=(("amd.com/gpu", 2), *amd.allocatable))
    made = snapshot(amd)
    asks = replace(POD, gpu_count=1, wants_gpu=True)
    plan = schedule(made, [wants(f"p{n}", asks) for n in range(3)], now=0)
    assert len(plan.placements) == 2
    assert plan.rejections[0].counts == ((Reason.RESOURCE, "amd.com/gpu", 1),)
