"""A snapshot that follows changes equals one built fresh; charges and devices are counted once."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    ZONE_TOPOLOGY,
    Charge,
    ChargedNode,
    Gpu,
    Matcher,
    PeerTerm,
    Reason,
    Selector,
)
from tests.engine.builders import ALIKE, NEAR_WEB, POD, WEB, node, snapshot, wants, workers
from tests.engine.worlds import World, charge, snapshot_of, worker, world

pytestmark = pytest.mark.unit
worlds = st.randoms(use_true_random=False).map(world)
checked = settings(max_examples=60, deadline=None)


def test_charges_that_come_before_their_worker_count_when_it_appears() -> None:
    made = Snapshot()
    made.charge(Charge("x", "a", (("cpu", 3500), ("pods", 1)), subject=WEB))
    made.upsert_worker(node("a", slots=4))
    usage = made.worker_usage("a")
    assert dict(usage.used) == {"cpu": 3500, "pods": 1}
    assert (usage.slots, usage.slots_used) == (4, 1)
    assert schedule(made, [wants("p")], now=0).rejections[0].counts == ((Reason.RESOURCE, "cpu", 1),)
    made.remove_worker("a")
    assert made.workers == ()
    made.release("x")
    made.release("x")
    made.upsert_worker(node("a"))
    assert made.worker_usage("a").used == ()


def test_charging_is_idempotent_and_other_content_replaces() -> None:
    made = snapshot(node("a"), node("b"))
    for _ in range(3):
        made.charge(Charge("x", "a", (("cpu", 100), ("pods", 1))))
    assert dict(made.worker_usage("a").used) == {"cpu": 100, "pods": 1}
    made.charge(Charge("x", "b", (("cpu", 200), ("pods", 1))))
    assert made.worker_usage("a").used == ()
    assert dict(made.worker_usage("b").used) == {"cpu": 200, "pods": 1}


def test_devices_of_an_overcommitted_worker_pass_on_when_one_user_leaves() -> None:
    made = snapshot(node("a", gpus=4))
    made.charge(Charge("1", "a", (("pods", 1),), gpu_count=3, subject=WEB))
    made.charge(Charge("2", "a", (("nvidia.com/gpu", 2), ("pods", 1))))
    assert made.worker_usage("a").devices_idle == 0
    made.release("1")
    assert made.worker_usage("a").devices_idle == 2


def test_pods_on_a_node_that_left_its_pool_still_keep_their_zone() -> None:
    apart = replace(POD, anti=(PeerTerm(Selector(types=("web",)), ZONE_TOPOLOGY),))
    beside = replace(POD, near=(NEAR_WEB,))
    made = snapshot(node("a", "z1"), node("b", "z1"), node("c", "z2"))
    made.charge(Charge("web", "a", (("cpu", 100), ("pods", 1)), subject=WEB, anti=(ALIKE,)))
    made.upsert_charged_node(ChargedNode("a", node("a", "z1").labels))
    assert made.workers == ("b", "c")
    plan = schedule(made, [wants("one", apart), wants("two", beside)], now=0)
    assert workers(plan) == {"one": ("c",), "two": ("b",)}
    made.remove_worker("b")
    rejected = schedule(made, [wants("two", beside)], now=0).rejections[0]
    assert rejected.counts == ((Reason.NEAR, "", 1),), "it may not start elsewhere while its peer runs"
    made.upsert_worker(node("a", "z1"))
    assert dict(made.worker_usage("a").used) == {"cpu": 100, "pods": 1}
    made.upsert_charged_node(ChargedNode("a", ()))
    made.release("web")
    made.remove_charged_node("a")
    assert workers(schedule(made, [wants("two", beside)], now=0)) == {"two": ("c",)}


def test_absurd_amounts_of_nodes_and_pods_are_bounded() -> None:
    """A node's status and a foreign pod can hold any 64-bit number, and millicores are more than 64 bits."""
    huge = (1 << 63) - 1
    offers = (("cpu", 1000 * huge), ("memory", huge), ("nvidia.com/gpu", huge), ("pods", huge))
    absurd = replace(node("a"), gpu=Gpu("A100", 0), allocatable=offers)
    made = snapshot(absurd, node("b"))
    for number in range(100):
        requests = (("cpu", 1000 * huge), ("memory", huge), ("pods", 1))
        made.charge(Charge(f"x{number}", "b", requests))
    giant = replace(POD, requests=(("cpu", 1000 * huge), ("memory", huge), ("pods", 1)))
    on_b = replace(POD, hard=Matcher(node_names=("b",)))
    plan = schedule(made, [wants("p", on_b), wants("q"), wants("r", giant)], now=0)
    assert plan.faults == ()
    assert workers(plan) == {"q": ("a",)}
    for number in range(100):
        made.release(f"x{number}")
    assert made.worker_usage("b").used == ()


def test_the_columns_of_a_removed_worker_are_used_again() -> None:
    made = snapshot(*(node(f"n{n}") for n in range(64)))
    for n in range(1000):
        made.remove_worker(f"n{n}")
        made.upsert_worker(node(f"n{n + 64}"))
    assert made.capacity == 64
    assert len(made.workers) == 64


@checked
@given(worlds, st.randoms(use_true_random=False))
def test_the_order_of_deltas_does_not_matter(made: World, rng: Random) -> None:
    workers, charges = list(made.workers), list(made.charges)
    rng.shuffle(workers)
    rng.shuffle(charges)
    shuffled = snapshot_of(tuple(workers), tuple(charges), made.charged_nodes)
    assert schedule(shuffled, made.pending, now=0) == schedule(made.snapshot(), made.pending, now=0)


@checked
@given(worlds, st.randoms(use_true_random=False))
def test_a_snapshot_that_follows_deltas_equals_one_built_fresh(made: World, rng: Random) -> None:
    snapshot = made.snapshot()
    workers = {w.name: w for w in made.workers}
    charges = {c.key: c for c in made.charges}
    nodes = {n.name: n for n in made.charged_nodes}
    for number in range(rng.randrange(40)):
        event = rng.randrange(8)
        if event == 0:
            new = worker(rng, rng.randrange(15))
            workers[new.name] = new
            nodes.pop(new.name, None)
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
        elif event == 5 and len(workers) > 1:
            left = worker(rng, rng.randrange(15))
            workers.pop(left.name, None)
            nodes[left.name] = ChargedNode(left.name, left.labels)
            snapshot.upsert_charged_node(nodes[left.name])
        elif event == 6 and nodes:
            name = rng.choice(sorted(nodes))
            del nodes[name]
            snapshot.remove_charged_node(name)
        elif number % 3 == 0:
            schedule(snapshot, made.pending, now=0)
    fresh = snapshot_of(tuple(workers.values()), tuple(charges.values()), tuple(nodes.values()))
    assert snapshot.usage() == fresh.usage()
    assert schedule(snapshot, made.pending, now=0) == schedule(fresh, made.pending, now=0)
