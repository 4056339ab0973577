"""Rules that hold for every plan, on random clusters, and the limits of a cycle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.explain import summary
from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    Rejection,
)
from tests.engine.builders import node, snapshot, wants
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
    cluster = Cluster(list(made.workers), list(made.charges))
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


@checked
@given(worlds)
def test_scheduling_leaves_the_snapshot_as_it_was(made: World) -> None:
    snapshot = made.snapshot()
    before = snapshot.usage(), [t.peer_bits for t in snapshot.affinity.terms], str(snapshot.host_ports.taken)
    plan = schedule(snapshot, made.pending, now=0)
    kept = [t.peer_bits for t in snapshot.affinity.terms[: len(before[1])]]
    assert (snapshot.usage(), kept, str(snapshot.host_ports.taken)) == before
    assert schedule(snapshot, made.pending, now=0) == plan
