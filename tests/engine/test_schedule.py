"""Rules that hold for every plan, on random clusters, and the limits of a cycle."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.explain import summary
from niyanta.engine.placement import placer
from niyanta.engine.placement.class_table import ClassTable
from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import Expression, Matcher, NodeTerm, Op, PendingWorkload, Reason, Rejection
from tests.engine.builders import POD, WEB, node, snapshot, wants, workers
from tests.engine.reference import Cluster
from tests.engine.worlds import World, world

pytestmark = pytest.mark.unit
worlds = st.randoms(use_true_random=False).map(world)
checked = settings(max_examples=60, deadline=None)


def test_an_empty_cluster_rejects_everything_without_reasons() -> None:
    plan = schedule(Snapshot(), [wants("a"), wants("b", replicas=3)], now=0)
    assert plan.rejections == (Rejection("a", 7, 0, ()), Rejection("b", 7, 0, ()))
    assert summary(plan.rejections[0]) == "no workers"


def test_stop_leaves_the_rest_undecided() -> None:
    calls: list[int] = []

    def stop() -> bool:
        calls.append(0)
        return len(calls) > 2

    plan = schedule(snapshot(node("a")), (wants(f"p{n}") for n in range(100)), now=0, stop=stop)
    assert len(plan.placements) + len(plan.rejections) == 64
    assert plan.undecided == 36


@checked
@given(worlds)
def test_every_placed_pod_passes_every_check_at_its_turn(made: World) -> None:
    """Capacity, hard constraints, ports and anti-affinity, checked by the reference pod by pod."""
    plan = schedule(made.snapshot(), made.pending, now=0)
    by_id = {w.id: w for w in made.pending}
    cluster = Cluster(list(made.workers), list(made.charges), charged_nodes=made.charged_nodes)
    for placement in plan.placements:
        workload = by_id[placement.id]
        starts = cluster.starting(workload)
        assert len(placement.workers) == workload.replicas
        for name in placement.workers:
            assert cluster.fits(workload, cluster.by_name[name], starts)
            cluster.put(workload, name)


@checked
@given(worlds)
def test_every_workload_is_decided_once_and_every_worker_counted_once(made: World) -> None:
    plan = schedule(made.snapshot(), made.pending, now=0)
    decided = sorted([p.id for p in plan.placements] + [r.id for r in plan.rejections])
    assert decided == sorted(w.id for w in made.pending)
    for rejection in plan.rejections:
        assert sum(count for _, _, count in rejection.counts) == rejection.workers == len(made.workers)


def test_a_pool_that_lists_customers_is_closed_to_others_whatever_they_name() -> None:
    closed = replace(node("a"), customers=frozenset({"bolt"}))
    bolt = replace(WEB, customer="bolt")
    ways = [
        POD,
        replace(POD, hard=Matcher(node_names=("a",))),
        replace(POD, hard=Matcher(pools=("pool",))),
        replace(POD, hard=Matcher(tags=(Expression("none", Op.DOES_NOT_EXIST),))),
        replace(POD, node_terms=(NodeTerm((), (Expression("metadata.name", Op.IN, ("a",)),)),)),
    ]
    for asked in ways:
        made = snapshot(closed)
        plan = schedule(made, [wants("p", asked), wants("q", asked, bolt), wants("r", asked)], now=0)
        assert workers(plan) == {"q": ("a",)}
        assert [r.counts for r in plan.rejections] == [((Reason.POOL_NOT_FOR_CUSTOMER, "", 1),)] * 2
    made.upsert_worker(replace(closed, customers=None))
    assert workers(schedule(made, [wants("p")], now=0)) == {"p": ("a",)}


def test_a_worker_that_rejected_pods_of_a_customer_is_closed_to_it_alone() -> None:
    rejecting = replace(node("a"), rejected_customers=frozenset({WEB.customer}))
    made = snapshot(rejecting)
    plan = schedule(made, [wants("p"), wants("q", POD, replace(WEB, customer="bolt"))], now=0)
    assert workers(plan) == {"q": ("a",)}
    assert [r.counts for r in plan.rejections] == [((Reason.REJECTING, "", 1),)]
    made.upsert_worker(replace(rejecting, rejected_customers=frozenset()))
    assert workers(schedule(made, [wants("p")], now=0)) == {"p": ("a",)}


STAGES = ("find", "terms_of", "matched", "place_pod", "take_back", "count_reasons", "_accept")


@checked
@given(worlds, st.randoms(use_true_random=False), st.sampled_from(STAGES), st.booleans())
def test_a_workload_that_raises_is_a_fault_and_leaves_no_trace(
    made: World, rng: Random, stage: str, late: bool
) -> None:
    """The plan for all others is the plan without the workload, wherever in its decision the error arises."""
    bad = rng.choice(made.pending)
    others = [workload for workload in made.pending if workload is not bad]
    expected = schedule(made.snapshot(), others, now=0)
    owners: dict[str, Any] = {"count_reasons": placer, "_accept": placer.Placer, "find": ClassTable}
    owner = owners.get(stage, Overlay)
    original = getattr(owner, stage)
    decided: list[str] = []
    decide = placer.Placer._decide

    def deciding(self: placer.Placer, workload: PendingWorkload) -> None:
        decided.append(workload.id)
        decide(self, workload)

    def broken(*args: Any, **more: Any) -> Any:
        if decided[-1] != bad.id or raised:
            return original(*args, **more)
        if late:
            original(*args, **more)
        raised.append(1)
        raise ZeroDivisionError("no luck")

    raised: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placer.Placer, "_decide", deciding)
        patch.setattr(owner, stage, broken)
        plan = schedule(made.snapshot(), made.pending, now=0)
    if not raised:
        assert plan.faults == ()
        return
    assert [(fault.id, fault.version) for fault in plan.faults] == [(bad.id, bad.version)]
    assert isinstance(plan.faults[0].error, ZeroDivisionError)
    assert (plan.placements, plan.rejections) == (expected.placements, expected.rejections)


@checked
@given(worlds)
def test_scheduling_leaves_the_snapshot_as_it_was(made: World) -> None:
    snapshot = made.snapshot()
    before = snapshot.usage(), [t.peer_bits for t in snapshot.affinity.terms], str(snapshot.host_ports.taken)
    plan = schedule(snapshot, made.pending, now=0)
    kept = [t.peer_bits for t in snapshot.affinity.terms[: len(before[1])]]
    assert (snapshot.usage(), kept, str(snapshot.host_ports.taken)) == before
    assert schedule(snapshot, made.pending, now=0) == plan
