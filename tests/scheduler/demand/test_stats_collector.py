"""Demand statistics: counts by pool and namespace, and the row that is written."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

import pytest

from niyanta.aio import Timer
from niyanta.containment import CONTAINED_ERRORS, Boundary
from niyanta.engine.sizing.planner import Planner, Sizing
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind
from niyanta.engine.snapshot.deltas import DeltaCursor, DeltaPublisher, StateReplaced
from niyanta.engine.types import Charge, DecisionFault, Requirements, Subject, WorkerInfo
from niyanta.lifecycle import Door, Phase
from niyanta.resources.models.workload import WorkloadSpec
from niyanta.scheduler.cluster_api import ClusterReads, CustomerLimits, PodView
from niyanta.scheduler.demand import waiting_classes
from niyanta.scheduler.demand.stats_collector import StatsCollector
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.leader.demand_stats import NamespaceStats
from niyanta.store.postgres.clock import Clock
from niyanta.store.queue_classes import WaitingClass
from niyanta.store.row_mapping import EPOCH
from niyanta.store.rows import PoolRow, WorkloadRow
from niyanta.store.state import StateManager
from tests.store.conftest import epoch, leadership, pool, settings, state  # noqa: F401 - fixtures

pytestmark = pytest.mark.store

NEEDS = Requirements((("cpu", 1000), ("pods", 1)))
SPEC = WorkloadSpec.model_validate({"template": {"spec": {"containers": [{"name": "main", "image": "i"}]}}})
WORKER = WorkerInfo("", "a", (), (), (("cpu", 4000), ("pods", 10)), slots=5)
A, B = EmptyPool("a", (WORKER,), region="eu"), EmptyPool("b", (replace(WORKER, pool="b"),))


@dataclass
class DemandReads:
    """The cluster reads that demand statistics need."""

    pools: list[EmptyPool] = field(default_factory=lambda: [A, B])
    workers: list[WorkerInfo] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    living: dict[str, list[PodView]] = field(default_factory=dict)
    shapes: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[Mapping[str, Any]] = field(default_factory=list)

    def delta_cursor(self) -> DeltaCursor:
        return DeltaPublisher(lambda: StateReplaced(tuple(self.workers), tuple(self.charges))).cursor()

    def empty_pools(self, remembered: Mapping[str, Any]) -> list[EmptyPool]:
        self.asked.append(dict(remembered))
        return self.pools

    async def observe_empty_workers(self) -> Mapping[str, Any]:
        return self.shapes

    def customer_limits(self, customer: str) -> CustomerLimits:
        return CustomerLimits(concurrent=self.limits.get(customer))

    def pods(self, workload: str, owner_uid: str | None = None, *, namespace: str | None = None) -> list[PodView]:
        return self.living.get(workload, [])


@dataclass
class CollectorCase:
    world: DemandReads
    state: SchedulerState
    store: StateManager

    def collector(self) -> StatsCollector:
        """A collector on these."""
        return StatsCollector(self.state, store=self.store, cluster=cast(ClusterReads, self.world))

    def backlog(self, name: str, pending: int, **fields: Any) -> None:
        """Postgres has so many pending REST rows of a stored class; those in memory are among them."""
        place = {"customer": "acme", "namespace": "team", "replicas": 1} | fields
        oldest = self.state.clock.now() - 60_000_000
        counts = {"pending": pending, "pending_rest": pending, "oldest_us": oldest, "key": 0}
        self.state.backlog.counted([WaitingClass(queue_class=name, **place, **counts)])

    def track(self, count: int = 1, *, phase: Phase = Phase.PENDING, away: bool = False, **fields: Any) -> list[str]:
        """Workloads of the queue (or of none, when they are away for a while)."""
        made = []
        asked = fields.pop("asked", NEEDS)
        for _ in range(count):
            row = replace(ROW, id=str(uuid.uuid4()), phase=phase, queued_at_us=self.state.clock.now(), **fields)
            tracked = TrackedWorkload(row, SPEC, asked, Subject(row.namespace, row.customer))
            self.state.workloads.put(tracked)
            self.state.workloads.note_phase(tracked)
            if phase is Phase.PENDING and not away:
                self.state.workloads.enqueue(tracked, now=0)
            made.append(row.id)
        return made


ROW = WorkloadRow(
    id="",
    door=Door.REST,
    namespace="team",
    name="w",
    customer="acme",
    type="",
    labels={},
    generation=1,
    spec={},
    class_id="k",
    replicas=1,
    phase=Phase.PENDING,
    version=1,
    priority=10,
    tier_weight=10,
    queued_at_us=0,
    queue_key=0,
    created_at=EPOCH + timedelta(days=1),
)


@pytest.fixture
async def case(state: StateManager, settings: Settings, epoch: int) -> CollectorCase:  # noqa: F811 - the fixtures
    clock = Clock(state)
    await clock.refresh()
    world = DemandReads()
    return CollectorCase(world, SchedulerState.of_leadership(epoch, settings, clock=clock), state)


async def test_what_waits_and_runs_is_counted_and_written(case: CollectorCase) -> None:
    case.world.workers = [replace(WORKER, name="n1")]
    case.world.charges = [Charge("r/1/0", "n1", (("cpu", 3000), ("pods", 1)), subject=Subject("team", "acme"))]
    case.track(6)
    case.track(1, replicas=2, namespace="other")
    case.track(1, phase=Phase.RUNNING, pool="a", workers=("n1",))
    case.track(1, phase=Phase.HELD)

    made = await case.collector().once()

    a, b = made.pools
    assert (a.pool, a.region, a.workers, a.ready_workers, a.workers_in_use) == ("a", "eu", 1, 1, 1)
    assert (a.running_workloads, a.running_slots, a.queued_workloads, a.queued_slots) == (1, 1, 7, 8)
    assert (a.workers_needed, a.demand, a.utilization_percent_sum) == (3, 9, 75)
    assert (b.workers_needed, b.queued_workloads, b.oldest_age_seconds) == (0, 0, 0.0)
    assert 0 < a.oldest_age_seconds < 60
    spaces = [replace(space, oldest_age_seconds=0.0) for space in made.namespaces]
    assert spaces == [NamespaceStats("other", 1, 2), NamespaceStats("team", 6, 6, 1, 1)]
    written = await case.store.get_figures()
    assert written is not None
    assert written[0] == made == case.state.demand_stats


async def test_backoff_counts_and_pods_that_still_stop_stand_for_their_workload(case: CollectorCase) -> None:
    (waits,) = case.track(1, away=True)
    (stops,) = case.track(1, away=True)
    case.world.living[stops] = [cast(PodView, _Living())]
    made = await case.collector().once()
    assert (made.pools[0].queued_workloads, made.pools[0].workers_needed) == (1, 1)
    assert made.namespaces[0].queued_workloads == 2
    tracked = case.state.workloads.get(waits)
    assert tracked is not None
    verdict = case.state.sizing_result.of(tracked)
    assert verdict is not None
    assert verdict.fit is FitKind.NEW


class _Living:
    over = False


async def test_work_that_the_api_server_turns_down_counts_and_makes_no_worker(case: CollectorCase) -> None:
    (refused, _) = case.track(2, away=True)
    tracked = case.state.workloads.get(refused)
    assert tracked is not None
    tracked.turned_down = True
    (a, _) = (await case.collector().once()).pools
    assert (a.queued_workloads, a.workers_needed) == (2, 1)
    tracked.turned_down = False
    case.track(4)
    (a, _) = (await case.collector().once()).pools
    assert (a.queued_workloads, a.workers_needed) == (6, 2)


async def test_a_customers_limit_makes_no_demand(case: CollectorCase) -> None:
    case.track(1, phase=Phase.RUNNING, pool="a")
    case.track(9)
    case.world.limits["acme"] = 3
    (a, _) = (await case.collector().once()).pools
    assert (a.queued_workloads, a.workers_needed) == (2, 1)


async def test_nothing_new_is_not_thought_about_again(case: CollectorCase) -> None:
    maker = case.collector()
    case.track(1)
    await maker.once()
    fits = case.state.sizing_result
    first = case.state.demand_stats
    await maker.once()
    assert case.state.sizing_result is fits
    assert case.state.demand_stats is not first
    case.track(1)
    maker._engine_rests_until = 0.0
    await maker.once()
    assert case.state.sizing_result is not fits


async def test_a_wall_of_one_kind_hides_no_other_and_is_counted_by_its_class(
    case: CollectorCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_classes, "SIZED_WORKLOADS", 8)
    monkeypatch.setattr(waiting_classes, "SIZED_WORKLOADS_PER_CLASS", 4)
    case.track(40)
    case.track(1, class_id="other", asked=replace(NEEDS, requests=(("cpu", 3000), ("pods", 1))))
    (a, _) = (await case.collector().once()).pools
    assert (a.queued_workloads, a.workers_needed) == (41, 11)


async def test_what_only_postgres_has_counts_exactly(case: CollectorCase) -> None:
    case.track(4, queue_class="s")
    case.backlog("s", 12)
    made = await case.collector().once()
    assert (made.pools[0].queued_workloads, made.pools[0].workers_needed) == (12, 3)
    (team,) = made.namespaces
    assert (team.queued_workloads, team.queued_slots) == (12, 12)
    assert 60 <= team.oldest_age_seconds < 120
    assert 60 <= made.pools[0].oldest_age_seconds < 120
    assert case.state.waiting_since.outside == 8


async def test_a_class_without_a_row_in_memory_counts_in_its_namespace(case: CollectorCase) -> None:
    case.backlog("s", 5, customer="other", namespace="far", replicas=3)
    made = await case.collector().once()
    (far,) = made.namespaces
    assert (far.namespace, far.queued_workloads, far.queued_slots) == ("far", 5, 15)
    assert 60 <= far.oldest_age_seconds < 120
    assert set(case.state.waiting_since.customers) == {"other"}


async def test_a_class_that_left_memory_counts_for_its_pool(case: CollectorCase) -> None:
    collector = case.collector()
    (uid,) = case.track(1, queue_class="s")
    case.backlog("s", 6)
    assert (await collector.once()).pools[0].queued_workloads == 6
    case.state.workloads.drop(uid)
    made = await collector.once()
    assert made.pools[0].queued_workloads == 6
    assert made.namespaces[0].queued_workloads == 6


async def test_many_classes_of_one_customer_hide_no_other_and_all_are_counted(
    case: CollectorCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_classes, "SIZED_CLASSES", 4)
    for number in range(12):
        needs = replace(NEEDS, requests=(("cpu", 1000 + number), ("pods", 1)))
        case.track(2, asked=needs, customer="greedy", priority=100)
    case.track(1, customer="quiet", namespace="quiet", priority=0)
    collector = case.collector()
    (a, _) = (await collector.once()).pools
    quiet = next(w for w in case.state.workloads if w.row.customer == "quiet")
    assert case.state.sizing_result.of(quiet) is not None, "customers take turns"
    assert (a.queued_workloads, a.queued_slots) == (25, 25), "no class is left out"
    assert a.workers_needed == 3, "only the four classes that were packed need workers"


async def test_work_beyond_a_customers_limit_counts_for_no_pool_in_any_class(
    case: CollectorCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_classes, "SIZED_CLASSES", 2)
    case.world.limits["acme"] = 5
    case.track(1, phase=Phase.RUNNING, pool="a")
    for number in range(6):
        case.track(2, asked=replace(NEEDS, requests=(("cpu", 1000 + number), ("pods", 1))), replicas=2)
    (a, _) = (await case.collector().once()).pools
    assert (a.queued_workloads, a.queued_slots) == (4, 8)
    assert case.state.demand_stats is not None
    assert case.state.demand_stats.namespaces[0].queued_workloads == 12


async def test_classes_that_are_not_packed_move_with_the_shapes_of_pools(
    case: CollectorCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_classes, "SIZED_CLASSES", 1)
    collector = case.collector()
    for number in range(4):
        case.track(1, asked=replace(NEEDS, requests=(("cpu", 3000 + number), ("pods", 1))))
    assert [one.queued_workloads for one in (await collector.once()).pools] == [4, 0]
    small = replace(WORKER, allocatable=(("cpu", 2000), ("pods", 10)))
    case.world.pools = [EmptyPool("a", (small,)), B]
    collector._engine_rests_until = 0.0
    assert [one.queued_workloads for one in (await collector.once()).pools] == [0, 4]


async def test_work_that_came_after_the_sizing_counts_for_the_pool_of_its_class(case: CollectorCase) -> None:
    collector = case.collector()
    case.track(1)
    await collector.once()
    collector._engine_rests_until = float("inf")
    case.track(2)
    (a, _) = (await collector.once()).pools
    assert (a.queued_workloads, a.workers_needed) == (3, 1)


async def test_a_class_whose_only_row_left_memory_counts_for_its_pool(case: CollectorCase) -> None:
    collector = case.collector()
    (uid,) = case.track(1, queue_class="s")
    case.backlog("s", 1)  # nothing is outside memory yet
    await collector.once()
    case.state.workloads.drop(uid)
    made = await collector.once()
    assert made.pools[0].queued_workloads == made.namespaces[0].queued_workloads == 1


async def test_shapes_are_remembered_by_the_next_leader(case: CollectorCase) -> None:
    state = case.store  # noqa: F811
    case.world.shapes = {"a": {"allocatable": {"cpu": 1}}}
    maker = case.collector()
    await maker.once()
    assert await state.get_shapes() == {}  # the pool has no row yet
    await state.upsert_pools([PoolRow("a")])
    maker._observe = Timer(60)  # due at once
    await maker.once()
    assert await state.get_shapes() == case.world.shapes
    case.world.pools = [B]
    await maker.once()
    await maker.once()
    assert case.world.asked[-1] == {}


async def test_errors_at_one_workload_are_counted_once_and_hide_no_other(
    case: CollectorCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bad,) = case.track(1, away=True)
    (faulty,) = case.track(1)
    case.track(1)
    size, pods = Planner.size, DemandReads.pods

    def injected(self: Planner, *args: Any) -> Sizing:
        sizing = size(self, *args)
        (workload,) = [w for w in args[1] if w.id == faulty]
        return replace(sizing, faults=(DecisionFault.of(workload, KeyError("x")),))

    def failing(self: DemandReads, workload: str, *args: Any, **kwargs: Any) -> list[PodView]:
        if workload == bad:
            raise KeyError(workload)
        return pods(self, workload, *args, **kwargs)

    monkeypatch.setattr(Planner, "size", injected)
    monkeypatch.setattr(DemandReads, "pods", failing)
    packing = CONTAINED_ERRORS.labels(Boundary.POOL_SIZE.value)
    before = packing._value.get()
    collector = case.collector()
    for _ in range(2):
        made = await collector.once()
        assert made.pools[0].queued_workloads == 2
        case.track(1, phase=Phase.HELD)
    assert packing._value.get() == before + 1
