"""Keeps each pool at the size in its spec while this process leads. Each pool has a task of its own, so that a slow
provider doesn't delay other pools.

Flow: provider.describe and PoolNodes -> policy.decide -> Executor; the result becomes the pool's conditions, which
`pool_status` writes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from niyanta.aio import Backoff
from niyanta.cluster.api.errors import ApiError, WritesClosedError
from niyanta.cluster.state.pool_info import pool_infos
from niyanta.cluster.state.worker_info import by_age
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.containment import Boundary, contained, describe, record
from niyanta.observability import log
from niyanta.observability.gauges import LabelLimit
from niyanta.plain_text import plain
from niyanta.pools.actions import GrowGroup, PoolObservation, PoolWorker, RemoveInstance, ScalingPlan, ScalingReason
from niyanta.pools.conditions import GOOD, limited, of_plan, rules_of, unprovided
from niyanta.pools.executor import Executor
from niyanta.pools.metrics import ScalingMetrics
from niyanta.pools.policy import decide
from niyanta.pools.pool_nodes import PoolNodes
from niyanta.pools.pool_status import PoolCondition
from niyanta.pools.providers.base import Group, Provider, ProviderError
from niyanta.pools.reasons import CancelReason, ConditionReason, ConditionType
from niyanta.pools.scaling_record import ScalingAction, ScalingRecord
from niyanta.resources.models.worker_pool import PoolProviderSpec, WorkerPool
from niyanta.scheduler.periodic.drain_queries import DrainQueries
from niyanta.scheduler.state import SchedulerState
from niyanta.store.errors import StaleEpochError, StoreError
from niyanta.store.leader.scaling import ScalingDecision
from niyanta.store.postgres.clock import Clock
from niyanta.store.state import StateManager

logger = log.get(__name__)

NEXT_STEP_SECONDS = 0.3
"""Time until the next pass after actions, whose next step may be possible then; least time between two passes."""

DRAIN_INTERVAL_SECONDS = 1.0
"""Time between two passes while workers are draining."""

LONGEST_BACKOFF_SECONDS = 120.0
"""Longest pause after failures."""

ProviderFactory = Callable[[WorkerPool], Provider | None]


class PoolController:
    """One pool with a provider."""

    def __init__(
        self,
        name: str,
        provider: Provider,
        *,
        nodes: PoolNodes,
        scaling_record: ScalingRecord,
        clock: Clock,
        drain_queries: DrainQueries,
        interval: float,
    ) -> None:
        self.name = name
        self.conditions: tuple[PoolCondition, ...] = ()
        self._provider = provider
        self._nodes = nodes
        self._scaling_record = scaling_record
        self._clock = clock
        self._interval = interval
        self._executor = Executor(
            provider=provider, nodes=nodes, scaling_record=scaling_record, drain_queries=drain_queries, clock=clock
        )
        self._group: Group | None = None
        self._described_at = float("-inf")
        self._seen: dict[str, int] = {}
        self._unready: dict[str, int] = {}
        self._failing = False
        self._backoff = Backoff(first_seconds=interval, longest_seconds=LONGEST_BACKOFF_SECONDS)
        self._trouble = ""
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Pools or nodes may have changed: start the next pass soon."""
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled or until leadership is lost."""
        try:
            while True:
                self._wake.clear()
                try:
                    pause = await self._pass()
                except (WritesClosedError, StaleEpochError):
                    raise
                except Exception as error:
                    record(Boundary.POOL, self.name, error)
                    self._failing, pause = True, self._backoff.next()
                # `wake` shortens the pause, but not below the least time between passes and not after a failure.
                await asyncio.sleep(pause if self._failing else min(pause, NEXT_STEP_SECONDS))
                if not self._failing:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(0.0, pause - NEXT_STEP_SECONDS)):
                            await self._wake.wait()
        except (WritesClosedError, StaleEpochError):
            logger.info("scaling ends: leadership is over", pool=self.name)
        finally:
            self._provider.close()

    async def _pass(self) -> float:
        """Run one pass; returns the seconds until the next."""
        pool = self._nodes.pool(self.name)
        if pool is None:
            return self._interval
        try:
            await self._scaling_record.refresh()
            pause = await self._scale(pool)
        except (WritesClosedError, StaleEpochError):
            raise
        except ProviderError as error:
            return await self._failed(pool, error.reason, str(error), temporary=error.temporary)
        except (ApiError, StoreError) as error:
            logger.warning("pool is not scaled for now", pool=self.name, error=str(error))
            self._failing = True
            return self._backoff.next()
        except Exception as error:  # an internal error must not end the scaling of the pool
            record(Boundary.POOL, self.name, error)
            return await self._failed(pool, ConditionReason.INTERNAL_ERROR, describe(error), temporary=True)
        self._failing = False
        self._backoff.reset()
        return pause

    async def _scale(self, pool: WorkerPool) -> float:
        """Make a plan and carry it out; returns the seconds until the next pass."""
        fresh = self._group is None or time.monotonic() - self._described_at >= self._interval
        group = await self._described() if fresh or self._group is None else self._group
        plan = decide(self._view(pool, group), self._clock.now())
        if not fresh and any(isinstance(action, GrowGroup | RemoveInstance) for action in plan.actions):
            group = await self._described()
            plan = decide(self._view(pool, group), self._clock.now())
        rules = rules_of(pool)
        if rules.replicas is not None:
            self.conditions = of_plan(plan, rules, self._nodes.nodes_outside_group(self.name, group))
            await self._report_blocked(pool, plan)
        if plan.actions:
            await self._executor.run(pool, group, plan)
            self._described_at = float("-inf")
            return NEXT_STEP_SECONDS
        return (
            DRAIN_INTERVAL_SECONDS
            if plan.reason is ScalingReason.DRAINING or self._scaling_record.drains(self.name)
            else self._interval
        )

    async def _described(self) -> Group:
        self._group = await self._provider.describe()
        self._described_at = time.monotonic()
        return self._group

    def _view(self, pool: WorkerPool, group: Group) -> PoolObservation:
        now = self._clock.now()
        ids = {instance.id for instance in group.instances}
        self._seen = {i: self._seen.get(i, now) for i in ids}
        ready = self._nodes.ready_instances(self.name, group)
        self._unready = {i: self._unready.get(i, now) for i in ids - ready}
        workers: Sequence[PoolWorker] = self._nodes.workers(self.name, group, self._seen, self._unready)
        return PoolObservation(
            pool=self.name,
            rules=rules_of(pool),
            workers=tuple(workers),
            drains=self._scaling_record.drains(self.name),
            desired=group.desired,
            group_minimum=group.minimum,
            group_maximum=group.maximum,
            protects=group.protects,
            last_up=self._scaling_record.last_up(self.name),
            last_down=self._scaling_record.last_down(self.name),
        )

    # --- trouble -----------------------------------------------------------------------------------------------------

    async def _report_blocked(self, pool: WorkerPool, plan: ScalingPlan) -> None:
        """Record an Event and a row when scaling becomes blocked, and when it is no longer blocked."""
        reason = "" if plan.reason in GOOD else plan.reason.value
        await self._report_trouble(pool, reason, plan.message, wanted=plan.target, had=plan.have)

    async def _failed(self, pool: WorkerPool, reason: str, message: str, *, temporary: bool) -> float:
        rules = rules_of(pool)
        self.conditions = (PoolCondition(ConditionType.SCALING, False, reason, plain(message)), limited(rules))
        self._described_at = float("-inf")
        self._failing = True
        pause = self._backoff.next() if temporary else max(self._backoff.next(), self._interval)
        try:
            await self._report_trouble(pool, reason, message)
        except (WritesClosedError, StaleEpochError):
            raise
        except (ApiError, StoreError) as error:
            logger.warning("scaling trouble was not recorded", pool=self.name, reason=reason, error=str(error))
        return pause

    async def _report_trouble(
        self, pool: WorkerPool, reason: str, message: str, *, wanted: int | None = None, had: int | None = None
    ) -> None:
        if reason == self._trouble:
            return
        action = ScalingAction.TROUBLE if reason else ScalingAction.RECOVERED
        words = message if reason else f"no longer {self._trouble}"
        decision = ScalingDecision(self.name, action.value, wanted=wanted, had=had, reason=reason, message=plain(words))
        await self._scaling_record.record([decision])
        self._trouble = reason
        await self._executor.report(pool, decision)


class ScalingController:
    """Starts and ends the pools' tasks when pools are added, deleted or get another provider."""

    def __init__(
        self,
        *,
        nodes: PoolNodes,
        state: SchedulerState,
        store: StateManager,
        drain_queries: DrainQueries,
        pool_labels: LabelLimit,
        pools: ResourceStore[WorkerPool],
        provider_for: ProviderFactory,
        interval: float,
        enabled: bool,
    ) -> None:
        self._nodes = nodes
        self._clock = state.clock
        self._drain_queries = drain_queries
        self._enabled = enabled
        self._pools = pools
        self._provider_for = provider_for
        self._interval = interval
        self._metrics = ScalingMetrics(pool_labels.label, (action.value for action in ScalingAction))
        self._scaling_record = ScalingRecord(store, state.clock, state.epoch, self._metrics)
        self._controllers: dict[str, PoolController] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._specs: dict[str, PoolProviderSpec] = {}
        self._shared: dict[str, str] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Pools or nodes changed. Call it in the event loop."""
        self._wake.set()
        for controller in self._controllers.values():
            controller.wake()

    def conditions(self, pool: WorkerPool) -> tuple[PoolCondition, ...]:
        """Scaling conditions for the pool's status."""
        name = pool.metadata.name
        if pool.spec.provider is None:
            return unprovided(pool, self._nodes.count(name)[0])
        if not self._enabled:
            return (
                PoolCondition(ConditionType.SCALING, False, ConditionReason.SCALING_DISABLED, "enable_scaling is off"),
                limited(rules_of(pool)),
            )
        if older := self._shared.get(name):
            message = f"the older pool {older} scales this group"
            condition = PoolCondition(ConditionType.SCALING, False, ConditionReason.GROUP_SHARED, message)
            return (condition, limited(rules_of(pool)))
        controller = self._controllers.get(name)
        return controller.conditions if controller is not None else ()

    async def run(self) -> None:
        """Run until cancelled. Start it after recovery, because the leader's memory shows which workers are empty."""
        if not self._enabled:
            return
        try:
            while True:
                self._wake.clear()
                try:
                    await self._follow_pools()
                    self._show()
                except (WritesClosedError, StaleEpochError):
                    raise
                except Exception as error:
                    record(Boundary.POOL, "all pools", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._wake.wait()
        except (WritesClosedError, StaleEpochError):
            logger.info("scaling ends: leadership is over")
        finally:
            await self._stop(list(self._tasks))
            self._metrics.clear()

    def _show(self) -> None:
        """Set the metrics of pools with a provider."""
        conditions: dict[str, tuple[PoolCondition, ...]] = {}
        for name, pool in self._pools.items().items():
            with contained(Boundary.POOL, name):
                if pool.spec.provider is not None:
                    conditions[name] = self.conditions(pool)
        blocked = {
            name: any(condition.type == ConditionType.SCALING and not condition.holds for condition in found)
            for name, found in conditions.items()
        }
        self._metrics.show(blocked, {name: len(self._scaling_record.drains(name)) for name in conditions})

    async def _follow_pools(self) -> None:
        pools = self._pools.items()
        self._shared = shared(pools.values())
        wanted = {
            name: pool.spec.provider
            for name, pool in pools.items()
            if pool.spec.provider is not None and name not in self._shared
        }
        await self._stop([name for name in self._tasks if self._specs[name] != wanted.get(name)])
        for name, spec in wanted.items():
            if name not in self._tasks:
                with contained(Boundary.POOL, name):
                    self._start(pools[name], spec)
        try:
            await self._scaling_record.refresh()
            for name in sorted(self._scaling_record.pools() - wanted.keys()):
                await self._end_drains(name, pools.get(name))
        except (WritesClosedError, StaleEpochError):
            raise
        except (ApiError, StoreError) as error:
            logger.warning("drains of pools without provider were not ended", error=describe(error))

    async def _end_drains(self, name: str, pool: WorkerPool | None) -> None:
        try:
            await self._cancel_drains(name, pool)
        except (ApiError, StoreError):
            raise
        except Exception as error:
            record(Boundary.POOL, name, error)

    def _start(self, pool: WorkerPool, spec: PoolProviderSpec) -> None:
        provider = self._provider_for(pool)
        if provider is None:
            return
        name = pool.metadata.name
        self._specs[name] = spec
        self._metrics.known(name)
        self._controllers[name] = PoolController(
            name,
            provider,
            nodes=self._nodes,
            scaling_record=self._scaling_record,
            clock=self._clock,
            drain_queries=self._drain_queries,
            interval=self._interval,
        )
        self._tasks[name] = asyncio.create_task(self._controllers[name].run(), name=f"scaling of {name}")

    async def _stop(self, names: Sequence[str]) -> None:
        tasks = [self._tasks.pop(name) for name in names]
        for name in names:
            del self._controllers[name], self._specs[name]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cancel_drains(self, name: str, pool: WorkerPool | None) -> None:
        """Cancel the drains of a pool that is no longer scaled. Nodes of instances whose removal was ordered stay
        cordoned."""
        for drain in self._scaling_record.drains(name):
            uncordon = drain.removing_at is None and not drain.was_cordoned
            if drain.worker and drain.removing_at is None:
                await self._nodes.uncordon(drain.worker, unschedulable=not uncordon)
            decision = ScalingDecision(
                name,
                ScalingAction.CANCELLED.value,
                worker=drain.worker,
                instance=drain.instance,
                reason=CancelReason.POOL_GONE,
                message=f"worker {drain.worker or drain.instance} stays: its pool is no longer scaled",
            )
            await self._scaling_record.record([decision], end=[drain])
            if pool is not None:
                await self._nodes.record_event(pool, reason=decision.action, message=decision.message, warning=False)


def shared(pools: Iterable[WorkerPool]) -> dict[str, str]:
    """Pools whose Auto Scaling group an older pool names too -> that older pool, which alone scales the group."""
    owners: dict[tuple[str, str], str] = {}
    found: dict[str, str] = {}
    by_name = {pool.metadata.name: pool for pool in pools}
    for info in by_age(pool_infos(by_name.values())):
        pool = by_name[info.name]
        group = pool.spec.provider.ec2_auto_scaling_group if pool.spec.provider is not None else None
        if group is None:
            continue
        owner = owners.setdefault((group.region, group.name), pool.metadata.name)
        if owner != pool.metadata.name:
            found[pool.metadata.name] = owner
    return found
