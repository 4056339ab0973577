"""The leader's gauges: workloads waiting and running, by tier, customer and pool. Cleared when leadership is over.

Depths come from counters in Postgres, so that they include the backlog that isn't in memory. Ages and values by pool
come from the demand statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from niyanta.lifecycle import Phase
from niyanta.observability.gauges import OTHER, LabelLimit, LeaderGauge, Values
from niyanta.resources.models.customer import Tier
from niyanta.resources.ownership import HeldReason
from niyanta.scheduler.cluster_api import ClusterReads, WorkerState
from niyanta.scheduler.metrics import PLACEMENTS
from niyanta.scheduler.state import SchedulerState
from niyanta.store.leader.demand_stats import DemandStats, PoolStats
from niyanta.store.rows import Depth
from niyanta.store.state import StateManager
from niyanta.store.workloads.limits import QUEUE_FULL

QUEUE_DEPTH = LeaderGauge("niyanta_queue_depth", "Workloads waiting to be placed (phase Pending)")
OLDEST_AGE = LeaderGauge("niyanta_queue_oldest_age_seconds", "Age of the workload that has been Pending longest")
TIER_DEPTH = LeaderGauge("niyanta_tier_queue_depth", "Workloads waiting to be placed, by tier", ["tier"])
TIER_OLDEST_AGE = LeaderGauge(
    "niyanta_tier_queue_oldest_age_seconds", "Age of the workload of a tier that has been Pending longest", ["tier"]
)
CUSTOMER_DEPTH = LeaderGauge(
    "niyanta_customer_queue_depth", "Workloads waiting to be placed, by customer", ["customer", "tier"]
)
CUSTOMER_OLDEST_AGE = LeaderGauge(
    "niyanta_customer_queue_oldest_age_seconds",
    "Age of the workload of a customer that has been Pending longest",
    ["customer", "tier"],
)
CUSTOMER_RUNNING = LeaderGauge(
    "niyanta_customer_running_workloads", "Workloads placed or running, by customer", ["customer", "tier"]
)
WORKLOADS = LeaderGauge("niyanta_workloads", "Unfinished workloads, by phase", ["phase"])
HELD = LeaderGauge("niyanta_held_workloads", "Workloads that may not be queued, by reason", ["reason"])

POOL_WORKERS = LeaderGauge(
    "niyanta_pool_workers",
    "Workers: ready, cordoned (ready, but closed to new work), not_ready",
    ["pool", "region", "state"],
)
POOL_IN_USE = LeaderGauge("niyanta_pool_workers_in_use", "Workers with at least one pod of a workload", ["pool"])
POOL_NEEDED = LeaderGauge(
    "niyanta_pool_workers_needed", "Workers in use if all workloads that wait for the pool were placed", ["pool"]
)
POOL_DEMAND = LeaderGauge("niyanta_pool_demand_slots", "Slots running and slots queued for the pool", ["pool"])
POOL_DEPTH = LeaderGauge(
    "niyanta_pool_queue_depth", "Workloads waiting that count for the pool; each counts for one pool", ["pool"]
)
POOL_OLDEST_AGE = LeaderGauge(
    "niyanta_pool_queue_oldest_age_seconds", "Age of the workload of a pool that has been Pending longest", ["pool"]
)
POOL_RUNNING = LeaderGauge("niyanta_pool_running_workloads", "Workloads placed or running on the pool", ["pool"])
POOL_UTILIZATION = LeaderGauge(
    "niyanta_pool_worker_utilization_ratio",
    "Share of cpu, memory, gpu and slots that is taken on the pool's workers, 0 to 1",
    ["pool", "region", "resource"],
)
STATS_AGE = LeaderGauge("niyanta_figures_age_seconds", "Age of the leader's demand statistics, which autoscalers read")

_LIVE: tuple[tuple[Phase, Callable[[Depth], int]], ...] = (
    (Phase.PENDING, lambda depth: depth.pending),
    (Phase.HELD, lambda depth: depth.held),
    (Phase.SUSPENDED, lambda depth: depth.suspended),
    (Phase.SCHEDULED, lambda depth: depth.scheduled),
    (Phase.RUNNING, lambda depth: depth.running),
)
_SUMS: tuple[tuple[LeaderGauge, Callable[[PoolStats], int]], ...] = (
    (POOL_IN_USE, lambda pool: pool.workers_in_use),
    (POOL_NEEDED, lambda pool: pool.workers_needed),
    (POOL_DEMAND, lambda pool: pool.demand),
    (POOL_DEPTH, lambda pool: pool.queued_workloads),
    (POOL_RUNNING, lambda pool: pool.running_workloads),
)
_ALL = (
    *(QUEUE_DEPTH, OLDEST_AGE, TIER_DEPTH, TIER_OLDEST_AGE, CUSTOMER_DEPTH, CUSTOMER_OLDEST_AGE, CUSTOMER_RUNNING),
    *(WORKLOADS, HELD, POOL_WORKERS, POOL_OLDEST_AGE, POOL_UTILIZATION, STATS_AGE),
    *(gauge for gauge, _ in _SUMS),
)

Key = tuple[str, ...]


class SchedulerGauges:
    """Refreshes the gauges of one leadership."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterReads,
        pool_labels: LabelLimit,
    ) -> None:
        """`pool_labels` are shared with the counters, so that a pool has the same label everywhere."""
        self._state = state
        self._store = store
        self._cluster = cluster
        self._pool_labels = pool_labels
        self._customers = LabelLimit(state.settings.metrics_max_customers)

    async def refresh(self) -> None:
        """Count again. The cost is that of customers and pools, not of workloads."""
        depths = await self._store.get_queue_depth()
        held = self._held()
        now = self._state.clock.now()
        oldest = self._state.waiting_since.customers
        ages = {customer: max(0.0, (now - since) / 1e6) for customer, since in oldest.items()}
        QUEUE_DEPTH.set(depths.total.pending)
        OLDEST_AGE.set(max(ages.values(), default=0.0))
        WORKLOADS.show({(phase.value,): float(count(depths.total)) for phase, count in _LIVE})
        HELD.show({(reason,): held[reason] for reason in (*(r.value for r in HeldReason), QUEUE_FULL, OTHER)})
        self._show_customers(depths.customers, ages)
        self._show_pools(self._state.demand_stats)

    @staticmethod
    def clear() -> None:
        """Remove all gauges: this process no longer leads."""
        for gauge in _ALL:
            gauge.clear()

    def _held(self) -> Counter[str]:
        """Held workloads by reason."""
        known = {*(reason.value for reason in HeldReason), QUEUE_FULL}
        held: Counter[str] = Counter()
        for reason, count in self._state.workloads.tally.held.items():
            held[reason if reason in known else OTHER] += count
        return held

    def _show_customers(self, depths: Mapping[str, Depth], ages: Mapping[str, float]) -> None:
        customer_tier = self._cluster.customer_tier
        tiers = {customer: customer_tier(customer) for customer in depths}
        labels = self._customers.assign(
            {name: d.pending + d.held + d.scheduled + d.running for name, d in depths.items()}
        )
        waiting: Counter[Key] = Counter()
        running: Counter[Key] = Counter()
        longest: dict[Key, float] = {}
        by_tier: Counter[Key] = Counter({(tier.value,): 0 for tier in Tier})
        oldest: dict[Key, float] = {(tier.value,): 0.0 for tier in Tier}
        for customer, depth in depths.items():
            tier, age = tiers[customer], ages.get(customer, 0.0)
            key = (labels[customer], tier)
            waiting[key] += depth.pending
            running[key] += depth.scheduled + depth.running
            longest[key] = max(longest.get(key, 0.0), age)
            by_tier[tier,] += depth.pending
            oldest[tier,] = max(oldest.get((tier,), 0.0), age)
        CUSTOMER_DEPTH.show(waiting)
        CUSTOMER_RUNNING.show(running)
        CUSTOMER_OLDEST_AGE.show(longest)
        TIER_DEPTH.show(by_tier)
        TIER_OLDEST_AGE.show(oldest)

    def _show_pools(self, stats: DemandStats | None) -> None:
        if stats is None:
            return
        label = self._pool_labels.label
        states = self._cluster.worker_states()
        sums: dict[LeaderGauge, Counter[Key]] = {gauge: Counter() for gauge, _ in _SUMS}
        workers: Counter[Key] = Counter()
        ages: dict[Key, float] = {}
        shares: dict[Key, float] = {}
        for pool in stats.pools:
            name = label(pool.pool)
            region = "" if name == OTHER else pool.region
            for gauge, amount in _SUMS:
                sums[gauge][name,] += amount(pool)
            for state in WorkerState:
                workers[name, region, state] += states.get((pool.pool, state), 0)
            ages[name,] = max(ages.get((name,), 0.0), pool.oldest_age_seconds)
            if name != OTHER:  # shares of several pools can't be added
                taken = {resource: share for resource, share in pool.utilization.items() if share is not None}
                shares |= {(name, region, resource): share for resource, share in taken.items()}
            for tier in Tier:
                PLACEMENTS.labels(name, tier.value)  # shows 0 until the first placement
        for gauge, values in sums.items():
            gauge.show(values)
        POOL_WORKERS.show(workers)
        POOL_OLDEST_AGE.show(ages)
        POOL_UTILIZATION.show(shares)
        STATS_AGE.ask(self._stats_age)

    def _stats_age(self) -> Values:
        stats = self._state.demand_stats
        return {} if stats is None else {(): max(0.0, (self._state.clock.now() - stats.at) / 1e6)}
