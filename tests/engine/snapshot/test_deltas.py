"""Every consumer gets every change in order, even if it reads rarely, and memory stays bounded."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot.deltas import (
    ChargedNodeRemoved,
    ChargedNodeUpserted,
    Delta,
    DeltaCursor,
    DeltaPublisher,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import Charge, ChargedNode, WorkerInfo
from tests.engine.worlds import World, charge, snapshot_of, worker, world

pytestmark = pytest.mark.unit

worlds = st.randoms(use_true_random=False).map(world)
checked = settings(max_examples=40, deadline=None)


class Observed:
    """A cluster that publishes its changes."""

    def __init__(self, made: World, *, max_unread: int) -> None:
        self.workers = {info.name: info for info in made.workers}
        self.charges = {charged.key: charged for charged in made.charges}
        self.nodes = {node.name: node for node in made.charged_nodes}
        self.publisher = DeltaPublisher(self.state, max_unread=max_unread)

    def state(self) -> StateReplaced:
        return StateReplaced(tuple(self.workers.values()), tuple(self.charges.values()), tuple(self.nodes.values()))

    def happen(self, delta: Delta) -> None:
        match delta:
            case WorkerUpserted(info):
                self.workers[info.name] = info
                self.nodes.pop(info.name, None)
            case WorkerRemoved(name):
                del self.workers[name]
            case ChargedNodeUpserted(node):
                self.nodes[node.name] = node
                self.workers.pop(node.name, None)
            case ChargedNodeRemoved(name):
                del self.nodes[name]
            case PodCharged(charged):
                self.charges[charged.key] = charged
            case PodReleased(key):
                del self.charges[key]
        self.publisher.publish(delta)

    def step(self, rng: Random) -> None:
        match rng.randrange(7):
            case 0:
                self.happen(WorkerUpserted(worker(rng, rng.randrange(15))))
            case 1 if len(self.workers) > 1:
                self.happen(WorkerRemoved(rng.choice(sorted(self.workers))))
            case 2 | 3:
                self.happen(PodCharged(charge(rng, rng.randrange(30), 15)))
            case 4 if self.charges:
                self.happen(PodReleased(rng.choice(sorted(self.charges))))
            case 5 if len(self.workers) > 1:
                left = worker(rng, rng.randrange(15))
                self.happen(ChargedNodeUpserted(ChargedNode(left.name, left.labels)))
            case 6 if self.nodes:
                self.happen(ChargedNodeRemoved(rng.choice(sorted(self.nodes))))


def released(number: int) -> PodReleased:
    return PodReleased(f"w/{number}/0")


def publisher(*, max_unread: int = 10) -> DeltaPublisher:
    return DeltaPublisher(lambda: StateReplaced((), ()), max_unread=max_unread)


def opened(of: DeltaPublisher) -> DeltaCursor:
    cursor = of.cursor()
    assert cursor.take() == [StateReplaced((), ())]
    return cursor


def test_the_first_read_returns_the_whole_state() -> None:
    info, charged = WorkerInfo("n", "p", (), (), ()), Charge("f", "n", ())
    of = DeltaPublisher(lambda: StateReplaced((info,), (charged,)))
    cursor = of.cursor()
    assert cursor.has_unread
    assert cursor.take() == [StateReplaced((info,), (charged,))]
    assert not cursor.has_unread
    assert cursor.take() == []


def test_changes_come_in_order_and_once() -> None:
    of = publisher()
    cursor = opened(of)
    for number in range(3):
        of.publish(released(number))
    assert cursor.has_unread
    assert cursor.take() == [released(0), released(1), released(2)]
    assert cursor.take() == []
    of.publish(released(3))
    assert cursor.take() == [released(3)]


def test_consumers_read_at_their_own_pace() -> None:
    of = publisher()
    often, seldom = opened(of), opened(of)
    for number in range(4):
        of.publish(released(number))
        assert often.take() == [released(number)]
    assert seldom.take() == [released(number) for number in range(4)]
    assert opened(of).take() == []


def test_nothing_is_kept_before_the_first_read() -> None:
    of = publisher()
    cursor = of.cursor()
    assert not of.has_readers
    of.publish(released(0))
    assert cursor.take() == [StateReplaced((), ())]
    assert of.has_readers


def test_a_consumer_that_does_not_read_starts_over_and_costs_the_others_nothing() -> None:
    of = publisher(max_unread=10)
    idle, busy = opened(of), opened(of)
    seen: list[Delta] = []
    for number in range(1000):
        of.publish(released(number))
        seen += busy.take()
        assert len(idle._unread or ()) <= 10
    assert seen == [released(number) for number in range(1000)]
    assert idle._unread is None
    assert idle.has_unread
    assert idle.take() == [StateReplaced((), ())]
    of.publish(released(0))
    assert idle.take() == busy.take() == [released(0)]


def test_as_many_changes_as_the_bound_are_kept() -> None:
    of = publisher(max_unread=3)
    cursor = opened(of)
    for number in range(3):
        of.publish(released(number))
    assert cursor.take() == [released(0), released(1), released(2)]


def test_after_closing_nothing_is_kept_and_a_read_starts_over() -> None:
    of = publisher()
    cursor = opened(of)
    of.publish(released(0))
    of.close_all()
    of.publish(released(1))
    assert not of.has_readers
    assert cursor.take() == [StateReplaced((), ())]


@checked
@given(worlds, st.randoms(use_true_random=False), st.sampled_from((0, 3, 1000)))
def test_snapshots_that_follow_equal_one_built_fresh(made: World, rng: Random, max_unread: int) -> None:
    """Two consumers that read at random moments, with bounds that make them start over often, sometimes or never."""
    observed = Observed(made, max_unread=max_unread)
    readers = [(observed.publisher.cursor(), Snapshot()) for _ in range(2)]
    for _ in range(rng.randrange(60)):
        observed.step(rng)
        for cursor, snapshot in readers:
            if rng.random() < 0.2:
                for delta in cursor.take():
                    snapshot.apply(delta)
    state = observed.state()
    fresh = snapshot_of(state.workers, state.charges, state.charged_nodes)
    wanted = schedule(fresh, made.pending, now=0)
    for cursor, snapshot in readers:
        for delta in cursor.take():
            snapshot.apply(delta)
        assert snapshot.usage() == fresh.usage()
        assert schedule(snapshot, made.pending, now=0) == wanted
