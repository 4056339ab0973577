"""Rules that hold for every plan, on clusters that hypothesis draws."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot import affinity_terms
from tests.engine.reference import Cluster
from tests.engine.worlds import World, charge, snapshot_of, worker, world

pytestmark = pytest.mark.unit

worlds = st.randoms(use_true_random=False).map(world)
checked = settings(max_examples=60, deadline=None)


@checked
@given(worlds)
def test_every_placed_pod_passes_every_check_at_its_turn(made: World) -> None:
    """Capacity, hard constraints, ports and anti-affinity, told by the reference pod by pod."""
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
@given(worlds, st.randoms(use_true_random=False))
def test_the_order_in_which_things_were_learnt_does_not_matter(made: World, rng: Random) -> None:
    workers, charges = list(made.workers), list(made.charges)
    rng.shuffle(workers)
    rng.shuffle(charges)
    shuffled = snapshot_of(tuple(workers), tuple(charges))
    assert schedule(shuffled, made.pending, now=0) == schedule(made.snapshot(), made.pending, now=0)


@checked
@given(worlds)
def test_scheduling_leaves_the_snapshot_as_it_was(made: World) -> None:
    snapshot = made.snapshot()
    before = snapshot.usage(), [t.peer_bits for t in snapshot.affinity.terms], str(snapshot.host_ports.taken)
    plan = schedule(snapshot, made.pending, now=0)
    kept = [t.peer_bits for t in snapshot.affinity.terms[: len(before[1])]]
    assert (snapshot.usage(), kept, str(snapshot.host_ports.taken)) == before
    assert schedule(snapshot, made.pending, now=0) == plan


@checked
@given(worlds, st.randoms(use_true_random=False))
def test_a_snapshot_kept_up_event_by_event_equals_one_built_fresh(made: World, rng: Random) -> None:
    snapshot = made.snapshot()
    workers = {w.name: w for w in made.workers}
    charges = {c.key: c for c in made.charges}
    for number in range(rng.randrange(40)):
        event = rng.randrange(6)
        if event == 0:
            new = worker(rng, rng.randrange(15))
            workers[new.name] = new
            snapshot.upsert_worker(new)
        elif event == 1 and len(workers) > 1:
            name = rng.choice(sorted(workers))
            del workers[name]
            snapshot.remove_worker(name)
        elif event in (2, 3):
            again = charge(rng, rng.randrange(30), 15)
            charges[again.key] = again
            snapshot.charge(again)
        elif event == 4 and charges:
            key = rng.choice(sorted(charges))
            del charges[key]
            snapshot.release(key)
        elif number % 3 == 0:
            schedule(snapshot, made.pending, now=0)
    fresh = snapshot_of(tuple(workers.values()), tuple(charges.values()))
    assert snapshot.usage() == fresh.usage()
    assert schedule(snapshot, made.pending, now=0) == schedule(fresh, made.pending, now=0)


@checked
@given(worlds)
def test_dropping_unused_terms_changes_no_plan(made: World) -> None:
    """Terms of workloads that waited once are forgotten when there are many; here: before every cycle."""
    snapshot = made.snapshot()
    plan = schedule(snapshot, made.pending, now=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affinity_terms, "_MAX_UNUSED_TERMS", -1_000_000)
        assert schedule(snapshot, made.pending, now=0) == plan
        assert schedule(snapshot, made.pending, now=0) == plan
