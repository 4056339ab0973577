"""The waiting workloads by class: only what changed is looked at, and the counts agree with a full count."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.queue.order import DEFAULT_ORDER
from niyanta.engine.sizing.pool_fit import FitKind, PoolFit
from niyanta.engine.types import Requirements, Subject
from niyanta.lifecycle import Door, Phase
from niyanta.resources.compile.pod import pod_name
from niyanta.scheduler.cluster_api import ClusterReads, PodView
from niyanta.scheduler.demand import waiting_classes
from niyanta.scheduler.demand.waiting import Selection, waiting_since
from niyanta.scheduler.demand.waiting_classes import WaitingClasses
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.workload_cache import WorkloadCache
from niyanta.store.queue_classes import WaitingClass
from tests.scheduler.demand.test_stats_collector import ROW, SPEC

pytestmark = pytest.mark.unit


@dataclass
class World:
    """Memory, and pods that still stop."""

    workloads: WorkloadCache = field(default_factory=lambda: WorkloadCache(DEFAULT_ORDER, budget_bytes=2**40))
    stopping: set[str] = field(default_factory=set)

    def pods(self, workload: str, owner_uid: str | None = None, *, namespace: str | None = None) -> list[PodView]:
        name = pod_name("w", workload, attempt=1, index=0)
        return [cast(PodView, _Stopping(name))] if workload in self.stopping else []

    def classes(self) -> WaitingClasses:
        return WaitingClasses(self.workloads, cast(ClusterReads, self))

    def put(self, cpu: int = 1, *, stops: bool = False, **fields: Any) -> str:
        """A pending REST row in memory that isn't in the queue yet. `stops`: a pod of its last attempt does."""
        row = replace(ROW, id=str(uuid.uuid4()), attempt=1, queue_class=f"s{cpu}", **fields)
        if stops:
            self.stopping.add(row.id)
        needs = Requirements((("cpu", cpu), ("pods", 1)))
        tracked = TrackedWorkload(row, SPEC, needs, Subject(row.namespace, row.customer))
        self.workloads.put(tracked)
        self.workloads.note_phase(tracked)
        return row.id

    def queue(self, cpu: int = 1, **fields: Any) -> str:
        """A row in the queue."""
        id_ = self.put(cpu, **fields)
        self.enqueue(id_)
        return id_

    def tracked(self, id_: str) -> TrackedWorkload:
        found = self.workloads.get(id_)
        assert found is not None
        return found

    def enqueue(self, id_: str) -> None:
        self.workloads.enqueue(self.tracked(id_), now=0)

    def move(self, id_: str, **fields: Any) -> None:
        tracked = self.tracked(id_)
        tracked.row = replace(tracked.row, **fields)
        self.workloads.note_phase(tracked)
        if tracked.row.phase is not Phase.PENDING:
            self.workloads.dequeue(id_)

    def backlog(self, cpu: int, pending: int, customer: str = "acme") -> None:
        """Postgres has so many rows of a stored class; those in memory are among them."""
        counts = {"pending": pending, "pending_rest": pending, "oldest_us": 5, "key": 0}
        self.workloads.backlog.counted([WaitingClass(customer, f"s{cpu}", "team", 1, **counts)])


@dataclass
class _Stopping:
    name: str
    attempt: int = 1
    index: int = 0
    over: bool = False


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the classes that were counted."""
    names: list[str] = []
    count = WaitingClasses._count

    def counting(self: WaitingClasses, name: str) -> None:
        names.append(name)
        count(self, name)

    monkeypatch.setattr(WaitingClasses, "_count", counting)
    return names


async def followed(classes: WaitingClasses) -> Selection:
    await classes.follow(now=0)
    return classes.select()


async def test_a_change_of_one_workload_costs_one_class(looked_at: list[str]) -> None:
    world = World()
    ids = [world.queue(cpu, customer=f"c{cpu % 5}") for cpu in range(40)]
    classes = world.classes()
    first = await followed(classes)
    assert len(first.sized) == 40
    looked_at.clear()
    assert await followed(classes) is first
    assert looked_at == []
    world.workloads.drop(ids[7])
    second = await followed(classes)
    assert len(looked_at) == 1
    assert {one.id for one in first.sized} - {one.id for one in second.sized} == {ids[7]}


async def test_a_workload_in_backoff_costs_nothing_while_it_waits(looked_at: list[str]) -> None:
    world = World()
    for cpu in range(10):
        world.queue(cpu)
    backs_off, stops = world.put(3), world.put(4, stops=True)
    classes = world.classes()
    first = await followed(classes)
    assert len(first.sized) == 11
    looked_at.clear()
    for _ in range(3):
        assert await followed(classes) is first
    assert looked_at == []
    world.stopping = set()
    assert stops in {one.id for one in (await followed(classes)).sized}
    world.enqueue(backs_off)
    assert len((await followed(classes)).sized) == 12


async def test_a_class_counts_for_its_pool_when_memory_no_longer_has_it() -> None:
    world = World()
    id_ = world.queue(2)
    world.backlog(2, 1)  # nothing is outside yet
    classes = world.classes()
    (name,) = (await followed(classes)).likes
    classes.fit({name: PoolFit(FitKind.NEW, "a")})
    world.workloads.drop(id_)
    assert (await followed(classes)).sized == ()
    ((customer, pool, count),) = classes.unsized
    assert (customer, pool, count.workloads, count.pods, count.oldest) == ("acme", "a", 1, 1, 5)
    world.workloads.backlog.counted([], [("acme", "s2")])
    await followed(classes)
    assert list(classes.unsized) == []
    assert classes.fits == {}, "a class without workloads is forgotten"


async def test_each_customer_has_a_turn_and_the_best_ones_are_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_classes, "SIZED_CLASSES", 4)
    world = World()
    for cpu in range(10):
        world.queue(cpu, customer="greedy", priority=100)
    for number in range(3):
        world.queue(customer=f"quiet{number}", priority=number)
    chosen = (await followed(world.classes())).sized
    assert [one.subject.customer for one in chosen] == ["greedy", "quiet2", "quiet1", "quiet0"]
    world.queue(customer="best", priority=1000)
    chosen = (await followed(world.classes())).sized
    assert [one.subject.customer for one in chosen] == ["best", "greedy", "quiet2", "quiet1"]


async def test_a_class_that_is_not_chosen_counts_for_the_first_pool_that_could_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting_classes, "SIZED_CLASSES", 1)
    world = World()
    world.queue(1, priority=5)
    for _ in range(3):
        world.queue(2, priority=4, queued_at_us=7)
    classes = world.classes()
    selection = await followed(classes)
    assert len(selection.sized) == 1
    ((name, like),) = classes.unfitted()
    assert like.requirements == Requirements((("cpu", 2), ("pods", 1)))
    classes.fit({name: PoolFit(FitKind.EMPTY, "b")})
    ((customer, pool, count),) = classes.unsized
    assert (customer, pool, count.workloads, count.oldest) == ("acme", "b", 3, 7)
    assert classes.unfitted() == []
    assert not classes.has_unfitted
    classes.fit({name: PoolFit(FitKind.LIMITED)})
    assert [pool for _, pool, _ in classes.unsized] == ["b"], "its customer's limit changes no pool"
    classes.outdate_fits()
    assert [one for one, _ in classes.unfitted()] == [name]
    assert [pool for _, pool, _ in classes.unsized] == ["b"], "it keeps its pool until another is found"
    world.queue(2, priority=1000)
    await followed(classes)
    assert [one for one, _ in classes.unfitted()] != [name]
    assert list(classes.unsized) == [], "it is chosen now"


async def test_classes_that_need_the_same_find_their_pool_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_classes, "SIZED_CLASSES", 1)
    monkeypatch.setattr(waiting_classes, "FITTED_REQUIREMENTS", 2)
    world = World()
    world.queue(0, priority=1000)
    for cpu in (1, 2, 3):
        for number in range(5):
            world.queue(cpu, customer=f"c{number}")
    classes = world.classes()
    await followed(classes)
    found = classes.unfitted()
    assert {like.requirements.requests[0][1] for _, like in found} == {1, 2}
    assert len(found) == 10
    classes.fit({name: PoolFit(FitKind.EMPTY, "a") for name, _ in found})
    assert classes.has_unfitted
    assert len(classes.unfitted()) == 5
    monkeypatch.setattr(waiting_classes, "FITTED_CLASSES", 3)
    assert len(classes.unfitted()) == 3


async def test_a_workload_that_the_api_server_refuses_does_not_speak_for_its_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting_classes, "SIZED_WORKLOADS", 2)
    world = World()
    good = world.queue(1, priority=5)
    refused = world.queue(1, priority=4)
    world.queue(1, priority=3)
    world.tracked(refused).turned_down = True
    selection = await followed(world.classes())
    assert [one.id for one in selection.sized] == [good, refused]
    assert selection.refused == {refused}
    assert [like.id for like in selection.likes.values()] == [good]
    assert [(one.workload.id, one.count) for one in selection.bulk] == [(good, 1)]


def a_step(rng: random.Random, world: World, ids: list[str]) -> None:
    """Something that happens to a workload, or to the backlog."""
    cpu, customer = rng.randrange(4), rng.choice("xy")
    if not ids or rng.random() < 0.3:
        door = rng.choice((Door.REST, Door.KUBERNETES))
        fields = {"customer": customer, "door": door, "queued_at_us": rng.randrange(9), "priority": rng.randrange(3)}
        stops = rng.random() < 0.3
        ids.append(world.queue(cpu, **fields) if rng.random() < 0.7 else world.put(cpu, stops=stops, **fields))
        return
    id_ = rng.choice(ids)
    phase = world.tracked(id_).row.phase
    match rng.randrange(8):
        case 0:
            world.move(id_, phase=rng.choice(list(Phase)), pool=rng.choice("ab"))
            if world.tracked(id_).row.phase.terminal:  # for good
                ids.remove(id_)
        case 1:
            if phase is Phase.PENDING:
                world.enqueue(id_)
        case 2:
            world.workloads.dequeue(id_)
        case 3:
            world.workloads.drop(id_)
            ids.remove(id_)
        case 4:
            world.backlog(cpu, rng.randrange(1, 9), customer)
        case 5:
            world.workloads.backlog.counted([], [(customer, f"s{cpu}")])
        case 6:
            world.stopping.discard(id_)
        case 7:
            if phase is Phase.PENDING:
                world.move(id_, queued_at_us=rng.randrange(9))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_counts_agree_with_a_full_count_whatever_happened(seed: int) -> None:
    asyncio.run(_agree(random.Random(seed)))


async def _agree(rng: random.Random) -> None:
    world = World()
    ids: list[str] = []
    classes = world.classes()
    for _ in range(60):
        a_step(rng, world, ids)
        if rng.random() < 0.6:
            continue
        selection = await followed(classes)
        classes.fit({name: PoolFit(FitKind.NEW, "a") for name in selection.likes})
        classes.fit({name: PoolFit(FitKind.EMPTY, "b") for name, _ in classes.unfitted()})
        anew = await followed(world.classes())
        assert [one.id for one in selection.sized] == [one.id for one in anew.sized]
        pending = [tracked for tracked in world.workloads if tracked.row.phase is Phase.PENDING]
        counted = {t.id: t for t in pending if t.id in world.workloads.queue or t.id not in world.stopping}
        assert {one.id for one in selection.sized} == counted.keys()
        outside = list(world.workloads.backlog.outside())
        known = [one for one in outside if one.like is not None]
        total = sum(count.workloads for count in selection.rest.values())
        total += sum(count.workloads for _, _, count in classes.unsized)
        assert sum(one.workloads for one in known) <= total <= sum(one.workloads for one in outside)
        since = waiting_since(world.workloads)
        assert since.outside == sum(one.workloads for one in outside)
        times = [(t.row.customer, t.row.queued_at_us) for t in pending]
        times += [(one.customer, one.oldest_us) for one in outside]
        assert since.oldest == min((at for _, at in times), default=None)
        assert since.customers == {name: min(at for one, at in times if one == name) for name, _ in times}
        assert world.workloads.tally.pending == len(pending)
        assert world.workloads.tally.bound == Counter(t.row.pool for t in world.workloads if t.row.phase.bound)
