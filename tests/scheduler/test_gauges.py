"""The leader's gauges: totals are complete despite the bounds on labels, and no sample stays after leadership."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from prometheus_client import REGISTRY

from niyanta.lifecycle import Phase
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.gauges import SchedulerGauges
from niyanta.scheduler.metrics import SchedulerMetrics
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.leader.demand_stats import DemandStats, PoolStats
from niyanta.store.postgres.clock import Clock
from niyanta.store.queue_classes import WaitingClass
from niyanta.store.row_mapping import new_row
from niyanta.store.rows import Depth, QueueDepth
from niyanta.store.state import StateManager
from tests.store.make import intake

pytestmark = pytest.mark.unit

TIERS = {"acme": "Premium", "beta": "Premium", "tiny": "Free"}


@dataclass
class GaugeSources:
    """The sources of the gauges: a leader with nothing in memory, a record and a cluster with these statistics."""

    depths: dict[str, Depth] = field(default_factory=dict)
    stats: DemandStats | None = None
    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    most: int = 100

    def __post_init__(self) -> None:
        self.settings = Settings(dsn="x", metrics_max_customers=self.most)
        self.metrics = SchedulerMetrics(customer_tier=self.customer_tier, most_pools=self.most)
        self.state = SchedulerState.of_leadership(1, self.settings, clock=cast(Clock, self))
        self.state.demand_stats = self.stats

    async def get_queue_depth(self) -> QueueDepth:
        return QueueDepth(Depth(pending=sum(depth.pending for depth in self.depths.values())), self.depths)

    def customer_tier(self, customer: str) -> str:
        return TIERS.get(customer, "unknown")

    def worker_states(self) -> Counter[tuple[str, str]]:
        return self.states

    def now(self) -> int:
        return 10_000_000


@pytest.fixture(autouse=True)
def _clear() -> Iterator[None]:
    yield
    SchedulerGauges.clear()


async def shown(world: GaugeSources) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples of a scrape after a refresh: metric name -> label values -> value."""
    await SchedulerGauges(
        world.state,
        store=cast(StateManager, world),
        cluster=cast(ClusterReads, world),
        pool_labels=world.metrics.pools,
    ).refresh()
    return scrape()


def scrape() -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            labels = tuple(sample.labels[name] for name in sorted(sample.labels))
            found.setdefault(sample.name.removeprefix("niyanta_"), {})[labels] = sample.value
    return found


async def test_customers_beyond_the_bound_are_added_up_by_tier() -> None:
    depths = {"acme": Depth(pending=5, running=1), "beta": Depth(pending=3, scheduled=2), "tiny": Depth(pending=2)}
    found = await shown(GaugeSources(depths, most=1))
    assert found["customer_queue_depth"] == {("acme", "Premium"): 5, ("other", "Premium"): 3, ("other", "Free"): 2}
    assert found["customer_running_workloads"][("other", "Premium")] == 2
    assert sum(found["customer_queue_depth"].values()) == sum(found["tier_queue_depth"].values()) == 10
    assert found["queue_depth"] == {(): 10}


async def test_ages_and_reasons_are_those_of_all_workloads_in_memory_or_not() -> None:
    world = GaugeSources({"acme": Depth(pending=3), "tiny": Depth(pending=2)})
    for number, (phase, reason) in enumerate([(Phase.PENDING, ""), (Phase.HELD, "NoCustomer"), (Phase.HELD, "x")]):
        row = new_row(intake(id=f"{number}", customer="acme"), 7_000_000, 0)
        world.state.workloads.tally.note(replace(row, phase=phase, reason=reason))
    counts = {"pending": 2, "pending_rest": 2, "oldest_us": 4_000_000, "key": 0}
    world.state.backlog.counted([WaitingClass("tiny", "s", "team", 1, **counts)])
    found = await shown(world)
    assert found["customer_queue_oldest_age_seconds"] == {("acme", "Premium"): 3, ("tiny", "Free"): 6}
    assert found["queue_oldest_age_seconds"] == {(): 6}
    held = {reason: number for (reason,), number in found["held_workloads"].items() if number}
    assert held == {"NoCustomer": 1, "other": 1}


async def test_every_tier_is_shown_with_nothing_waiting() -> None:
    found = await shown(GaugeSources())
    tiers = {("Free",): 0, ("Standard",): 0, ("Premium",): 0, ("Enterprise",): 0}
    assert found["tier_queue_depth"] == found["tier_queue_oldest_age_seconds"] == tiers


async def test_pools_beyond_the_bound_are_added_up_but_their_shares_are_not() -> None:
    def pool(name: str, age: float) -> PoolStats:
        return PoolStats(
            name, "eu", running_slots=2, queued_slots=3, oldest_age_seconds=age, utilization={"cpu": 0.5, "gpu": None}
        )

    stats = DemandStats(at=9_000_000, epoch=1, pools=(pool("a", 1), pool("b", 7), pool("c", 3)))
    states = Counter({("a", "ready"): 4, ("b", "not_ready"): 1, ("c", "not_ready"): 2})
    found = await shown(GaugeSources(stats=stats, states=states, most=1))
    assert found["pool_demand_slots"] == {("a",): 5, ("other",): 10}
    assert found["pool_queue_oldest_age_seconds"] == {("a",): 1, ("other",): 7}
    assert found["pool_worker_utilization_ratio"] == {("a", "eu", "cpu"): 0.5}
    assert found["pool_workers"][("a", "eu", "ready")] == 4
    assert found["pool_workers"][("other", "", "not_ready")] == 3
    assert found["figures_age_seconds"] == {(): 1}


async def test_nothing_is_left_when_it_leads_no_longer() -> None:
    stats = DemandStats(at=0, epoch=1, pools=(PoolStats("a"),))
    before = await shown(GaugeSources({"acme": Depth(pending=1)}, stats))
    SchedulerGauges.clear()
    SchedulerMetrics.close()
    gone = before.keys() - scrape().keys()
    assert gone >= {"queue_depth", "tier_queue_depth", "customer_queue_depth", "pool_workers", "figures_age_seconds"}
