"""Each workload counts for one pool, limits hold, and the planner follows the cluster."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.placement.class_table import ClassTable
from niyanta.engine.placement.overlay import Options
from niyanta.engine.schedule import schedule
from niyanta.engine.sizing.packing import Packing
from niyanta.engine.sizing.planner import EmptyPool, FitKind, IdenticalWorkloads, Planner, PoolFit
from niyanta.engine.snapshot.deltas import StateReplaced, WorkerUpserted
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    HOSTNAME_TOPOLOGY,
    ZONE_TOPOLOGY,
    Charge,
    Matcher,
    PeerTerm,
    PendingWorkload,
    Reason,
    Requirements,
    SoftTerm,
    Strategy,
)
from tests.engine import worlds
from tests.engine.sizing.pools import SELF, SUBJECT, amounts, needed, pool, running, size, template, waiting

pytestmark = pytest.mark.unit
checked = settings(max_examples=40, deadline=None)


def test_a_planner_that_starts_over_from_the_whole_state_sizes_as_before() -> None:
    real = replace(template("a"), name="n1")
    state = StateReplaced((real,), (running("n1", 3000),))
    planner = Planner()
    planner.follow([state])
    before = planner.size([pool("a"), pool("b")], waiting(9), (), Options())
    assert needed(before) == {"a": 3, "b": 0}
    rows = planner.snapshot.usage()
    planner.follow([state])
    assert planner.snapshot.usage() == rows, "hypothetical workers stay"
    assert planner.size([pool("a"), pool("b")], waiting(9), (), Options()) == before
    planner.follow([StateReplaced((), ())])
    assert needed(planner.size([pool("a"), pool("b")], waiting(9), (), Options())) == {"a": 3, "b": 0}
    assert planner.snapshot.charges("n1") == ()


def test_two_equal_pools_need_no_more_than_one() -> None:
    sizing = size([pool("b"), pool("a")], waiting(9))
    assert needed(sizing) == {"a": 3, "b": 0}


def test_the_soft_score_goes_before_the_name_and_plain_work_avoids_gpus() -> None:
    wish = Requirements(amounts(), soft=(SoftTerm(10, matcher=Matcher(pools=("b",))),))
    assert needed(size([pool("a"), pool("b")], waiting(1, wish))) == {"a": 0, "b": 1}
    assert needed(size([pool("a", gpus=8), pool("b")], waiting(1))) == {"a": 0, "b": 1}


def test_no_gpu_worker_is_made_for_plain_work_that_others_could_hold() -> None:
    """Not even when these others are full; but work that only GPU workers could hold gets a GPU worker."""
    pools = [pool("a", most=0), pool("g", gpus=8)]
    sizing = size(pools, waiting(1))
    assert (needed(sizing), sizing.pool_fits["w0000"]) == ({"a": 0, "g": 0}, PoolFit(FitKind.FULL, "a"))
    picky = Requirements(amounts(), hard=Matcher(pools=("g",)))
    assert needed(size(pools, waiting(1, picky))) == {"a": 0, "g": 1}
    free = Options(keep_gpu_workers_free=False)
    assert needed(size(pools, waiting(1), options=free)) == {"a": 0, "g": 1}


def test_work_beyond_a_pools_maximum_counts_for_the_next_pool_and_else_for_the_best() -> None:
    sizing = size([pool("a", most=1), pool("b", most=1)], waiting(12))
    assert needed(sizing) == {"a": 1, "b": 1}
    counted = [pool_fit.pool for pool_fit in sizing.pool_fits.values()]
    assert (counted.count("a"), counted.count("b")) == (8, 4)


def test_the_overflow_of_a_fixed_pool_counts_for_other_pools() -> None:
    real = replace(template("a"), name="n1")
    sizing = size([pool("a", most=1, fixed=True), pool("b")], waiting(6), workers=(real,))
    assert needed(sizing) == {"a": 1, "b": 1}


def test_a_pool_of_unknown_shape_gets_no_new_workers_but_its_workers_are_used() -> None:
    sizing = size([EmptyPool("a"), pool("b")], waiting(1))
    assert needed(sizing) == {"a": 0, "b": 1}
    big = replace(template("a", cpu=16000), name="n1")
    huge = waiting(1, Requirements(amounts(9000)))
    sizing = size([pool("a")], huge, workers=(big,), charges=(running("n1", 8000),))
    assert (needed(sizing), sizing.pool_fits["w0000"].pool) == ({"a": 1}, "a")


def test_nowhere_means_that_the_end_of_niyantas_own_work_does_not_help() -> None:
    """Explanations rely on it: such work gets no estimated start."""
    whole, real = waiting(1, Requirements(amounts(4000))), replace(template("a"), name="n1")
    ours = running("n1", 1000)
    daemon = replace(ours, key="daemon", subject=None)
    lessened = EmptyPool("a", (template("a", cpu=3000),), 1, fixed=True)
    for charges, nowhere in (((ours,), False), ((daemon,), True)):
        sizing = size([lessened], whole, workers=(real,), charges=charges)
        assert (sizing.pool_fits["w0000"].fit is FitKind.NOWHERE) is nowhere


def test_work_that_fits_no_empty_worker_counts_for_no_pool_and_names_the_closest() -> None:
    sizing = size(
        [pool("a"), pool("b", cpu=64000)], waiting(1, Requirements(amounts(8000), hard=Matcher(pools=("a",))))
    )
    pool_fit = sizing.pool_fits["w0000"]
    assert (pool_fit.fit, pool_fit.pool, pool_fit.closest) == (FitKind.NOWHERE, "", "a")
    assert pool_fit.lacks == ((Reason.TOO_SMALL, "cpu"),)


def test_work_that_is_not_packed_has_the_first_pool_that_could_hold_a_pod_and_needs_no_worker() -> None:
    wish = Requirements(amounts(), soft=(SoftTerm(10, matcher=Matcher(pools=("b",))),))
    unpacked = [
        ("plain", *waiting(1, first=1)),
        ("wish", *waiting(1, wish, first=2)),
        ("large", *waiting(1, Requirements(amounts(9000)), first=3)),
    ]
    planner = Planner()
    planner.follow([StateReplaced((), ())])
    sizing = planner.size([pool("a", most=0), pool("b")], waiting(1, wish), (), Options(), frozenset(), unpacked)
    assert sizing.empty_fits["plain"] == PoolFit(FitKind.EMPTY, "a")
    assert sizing.empty_fits["wish"] == PoolFit(FitKind.EMPTY, "b")
    assert (sizing.empty_fits["large"].fit, sizing.empty_fits["large"].closest) == (FitKind.NOWHERE, "a")
    assert needed(sizing) == {"a": 0, "b": 1}
    assert sizing.pool_fits.keys() == {"w0000"}


def test_a_pool_that_lists_customers_grows_for_these_alone() -> None:
    closed = replace(pool("a"), templates=(replace(template("a"), customers=frozenset({"bolt"})),))
    shared = waiting(1)[0].requirements
    theirs = [replace(w, id=f"b{w.id}", subject=replace(SUBJECT, customer="bolt")) for w in waiting(4, shared)]
    sizing = size([closed], [*waiting(8, shared), *theirs])
    assert needed(sizing) == {"a": 1}
    assert {id_ for id_, pool_fit in sizing.pool_fits.items() if pool_fit.fit is FitKind.NEW} == {w.id for w in theirs}
    assert sizing.pool_fits["w0000"] == PoolFit(FitKind.NOWHERE), "no pool of others is named as the closest"
    sizing = size([closed, pool("b", cpu=100)], waiting(1, shared))
    assert sizing.pool_fits["w0000"].closest == "b"


def test_a_group_near_itself_gets_workers_of_one_zone_although_another_has_room_for_a_part() -> None:
    asked = Requirements(amounts(), near=(PeerTerm(SELF, ZONE_TOPOLOGY),))
    real = replace(template("a", zone="z1", cpu=3000), name="n1")
    both = EmptyPool("a", (template("a", zone="z1"), template("a", zone="z2")))
    sizing = size([both], waiting(1, asked, replicas=8), workers=(real,))
    assert sizing.pool_fits["w0000"] == PoolFit(FitKind.NEW, "a")
    pinned = EmptyPool("a", (template("a", zone="z2"),))
    sizing = size([pinned], waiting(1, asked, replicas=8), workers=(real,))
    assert (needed(sizing), sizing.pool_fits["w0000"]) == ({"a": 2}, PoolFit(FitKind.NEW, "a"))


def test_a_gpu_node_without_its_device_plugin_is_no_error() -> None:
    starting = replace(template("a", gpus=8), name="n1", allocatable=amounts(4000))
    asked = Requirements(amounts(), gpu_count=1, wants_gpu=True)
    unknown = Requirements(amounts(gpu=1))
    for requirements in (asked, unknown):
        sizing = size([EmptyPool("a")], waiting(2, requirements), workers=(starting,))
        assert (sizing.faults, sizing.pool_fits["w0000"].fit) == ((), FitKind.NOWHERE)
    sizing = size([pool("a", gpus=8)], waiting(9, asked), workers=(starting,))
    assert (sizing.faults, needed(sizing)) == ((), {"a": 3})


@pytest.mark.parametrize("where", ["_candidates_of", "_place", "_try_to_place", "_count", "_find_closest", "find"])
def test_an_error_in_the_sizing_of_one_workload_concerns_it_alone(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bad workload has requirements of its own, as far as errors arise from these."""
    owner = {"_find_closest": Planner, "find": ClassTable}.get(where, Packing)
    original = getattr(owner, where)
    marked = Requirements(amounts(64_000 if where == "_find_closest" else 1001))

    def broken(self: object, *args: object) -> object:
        if any(getattr(arg, "requirements", arg) is marked for arg in args) or (
            where == "_count" and getattr(args[0], "key", "") == "bad"
        ):
            raise ZeroDivisionError("no luck")
        return original(self, *args)

    monkeypatch.setattr(owner, where, broken)
    bad = waiting(1, marked, first=5000)
    more = (IdenticalWorkloads("bad", bad[0], 10), IdenticalWorkloads("good", waiting(1)[0], 4))
    sizing = size([pool("a")], [*bad, *waiting(8)], identical=more)
    assert [(fault.id, fault.text) for fault in sizing.faults] == [("w5000", "ZeroDivisionError: no luck")]
    assert needed(sizing)["a"] == (4 if where == "_count" else 3)
    assert sizing.identical["good"] == (("a", 4),)
    assert sizing.identical["bad"] == ()
    if where != "_count":
        assert sizing.pool_fits["w5000"] == PoolFit(FitKind.NOWHERE)


def test_work_over_a_customers_limit_needs_no_workers() -> None:
    sizing = size([pool("a")], waiting(9), options=Options(remaining={"acme": 2}))
    assert needed(sizing) == {"a": 1}
    assert [pool_fit.fit for pool_fit in sizing.pool_fits.values()].count(FitKind.LIMITED) == 7


def test_a_backlog_is_counted_by_class_and_never_rounded_up() -> None:
    pending = waiting(4)
    sizing = size([pool("a")], pending, identical=(IdenticalWorkloads("k", pending[0], 10),))
    assert needed(sizing) == {"a": 3}
    assert sizing.identical == {"k": (("a", 10),)}


def test_a_backlog_keeps_to_limits() -> None:
    pending = waiting(4)
    pools = [pool("a", most=2), pool("b", most=1)]
    sizing = size(pools, pending, identical=(IdenticalWorkloads("k", pending[0], 100),))
    assert needed(sizing) == {"a": 2, "b": 1}
    assert sum(count for _, count in sizing.identical["k"]) == 100
    limited = size(
        pools, pending, identical=(IdenticalWorkloads("k", pending[0], 100),), options=Options(remaining={"acme": 4})
    )
    assert (needed(limited), limited.identical["k"]) == ({"a": 1, "b": 0}, ())


def test_the_planner_follows_changes() -> None:
    """A planner used again gives the same result as a new one."""
    planner = Planner()
    assert planner.size([pool("a")], waiting(40), (), Options()).loads["a"].needed == 10
    assert planner.size([pool("a")], [], (), Options()).loads["a"].needed == 0
    planner.follow([WorkerUpserted(replace(template("b"), name="n1"))])
    again = planner.size([pool("a", cpu=8000), pool("b", most=1)], waiting(12), (), Options())
    fresh = size([pool("a", cpu=8000), pool("b", most=1)], waiting(12), workers=(replace(template("b"), name="n1"),))
    assert (again.loads, again.pool_fits) == (fresh.loads, fresh.pool_fits)


def test_loads_describe_the_usage_of_the_workers() -> None:
    one, two = (replace(template("a", gpus=4, slots=4), name=name) for name in ("n1", "n2"))
    gpu = Charge("r/1/0", "n1", amounts(1000), gpu_count=3, subject=SUBJECT)
    load = size([pool("a", gpus=4)], [], workers=(one, replace(two, cordoned=True)), charges=(gpu,)).loads["a"]
    assert (load.workers, load.ready, load.in_use, load.pods, load.needed) == (2, 1, 1, 1, 1)
    assert load.utilization == {"cpu": 0.125, "memory": None, "gpu": 0.375, "slots": 0.125}
    assert load.percent_sum == 75


def random_pools(rng: Random, *, limits: bool) -> list[EmptyPool]:
    found = []
    for name in worlds.POOLS:
        info = replace(worlds.worker(rng, 0), pool=name, ready=True, cordoned=False)
        most = rng.choice((None, 0, 1, 3)) if limits else None
        found.append(
            EmptyPool(name, (info,) if worlds.chance(rng, 85) else (), most, limits and worlds.chance(rng, 20))
        )
    return found


def random_pending(rng: Random) -> list[PendingWorkload]:
    made = worlds.world(rng).pending
    return [replace(w, id=f"{w.id}-{n}", excluded=frozenset()) for n in range(rng.choice((1, 3))) for w in made]


@checked
@given(st.randoms(use_true_random=False))
def test_the_needed_workers_hold_all_counted_work_and_each_is_used(rng: Random) -> None:
    """For pools with strategy Pack and no workers, the engine places on a fresh snapshot as sizing planned."""
    (only,) = [replace_strategy(p, Strategy.PACK) for p in random_pools(rng, limits=False) if p.templates][:1] or [
        pool("a")
    ]
    pending = random_pending(rng)
    sizing = size([only], pending)
    counted = [w for w in pending if sizing.pool_fits[w.id].fit is FitKind.NEW]

    fresh = Snapshot()
    for number in range(sizing.loads[only.name].needed):
        fresh.upsert_worker(replace(only.templates[0], name=f"fresh{number:05}", labels=hostless(only, number)))
    plan = schedule(fresh, counted, 0)

    assert {rejection.id for rejection in plan.rejections} == set()
    assert {name for placement in plan.placements for name in placement.workers} == set(fresh.workers)


def hostless(only: EmptyPool, number: int) -> tuple[tuple[str, str], ...]:
    labels = dict(only.templates[0].labels) | {HOSTNAME_TOPOLOGY: f"fresh{number:05}"}
    return tuple(sorted(labels.items()))


def replace_strategy(of: EmptyPool, strategy: Strategy) -> EmptyPool:
    return replace(of, templates=tuple(replace(info, strategy=strategy) for info in of.templates))


@checked
@given(st.randoms(use_true_random=False))
def test_every_workload_counts_for_one_pool_at_most_and_limits_hold(rng: Random) -> None:
    made = worlds.world(rng)
    pools, pending = random_pools(rng, limits=True), random_pending(rng)
    sizing = size(pools, pending, workers=made.workers, charges=made.charges)
    assert sizing.pool_fits.keys() == {w.id for w in pending}
    for pool_fit in sizing.pool_fits.values():
        assert bool(pool_fit.pool) == (pool_fit.fit not in (FitKind.NOWHERE, FitKind.LIMITED))
    for one in pools:
        load = sizing.loads[one.name]
        assert load.needed >= load.in_use
        there = load.workers if one.fixed else max(one.max_workers or 0, load.workers)
        assert one.max_workers is None or load.needed <= there
    assert sizing == size(pools, pending, workers=made.workers, charges=made.charges)


@checked
@given(st.randoms(use_true_random=False))
def test_a_second_equal_pool_changes_nothing(rng: Random) -> None:
    made, pending = worlds.world(rng), random_pending(rng)
    plain = [
        replace(w, requirements=replace(w.requirements, hard=replace(w.requirements.hard, pools=()))) for w in pending
    ]
    one = EmptyPool("p1", (replace(worlds.worker(rng, 0), pool="p1", ready=True, cordoned=False),))
    two = EmptyPool("p2", (replace(one.templates[0], pool="p2"),))
    alone = size([one], plain, workers=made.workers, charges=made.charges)
    both = size([one, two], plain, workers=made.workers, charges=made.charges)
    assert both.loads["p1"].needed == alone.loads["p1"].needed
    assert both.loads["p2"].needed == 0


@checked
@given(st.randoms(use_true_random=False))
def test_work_that_has_room_now_is_placed_by_the_next_cycle(rng: Random) -> None:
    made = worlds.world(rng)
    sizing = size(
        random_pools(rng, limits=False),
        list(made.pending),
        workers=made.workers,
        charges=made.charges,
        charged_nodes=made.charged_nodes,
    )
    plan = schedule(made.snapshot(), made.pending, 0)
    room = {id_ for id_, pool_fit in sizing.pool_fits.items() if pool_fit.fit is FitKind.ROOM}
    assert room == {placement.id for placement in plan.placements}


@checked
@given(st.randoms(use_true_random=False), st.integers(0, 4))
def test_a_higher_limit_never_needs_fewer_in_all(rng: Random, most: int) -> None:
    asked = Requirements(amounts(rng.choice((500, 1000, 3000))))
    pending = waiting(rng.randrange(30), asked)
    low = needed(size([pool("a", most=most), pool("b", most=2)], pending))
    high = needed(size([pool("a", most=most + 1), pool("b", most=2)], pending))
    assert low["a"] <= high["a"] <= most + 1
    assert sum(low.values()) <= sum(high.values())
