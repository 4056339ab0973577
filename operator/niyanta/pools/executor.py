"""Carries out the scaling plan of one pool. Each action is recorded before it is done, and may be repeated.

Raises ProviderError, ApiError, StoreError and StaleEpochError; `controller` decides how long to wait.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from niyanta.cluster.api.errors import ApiError
from niyanta.containment import SharedFaultError
from niyanta.observability import log
from niyanta.pools.actions import (
    Action,
    AdoptSize,
    BeginDrain,
    CancelDrain,
    CordonWorker,
    Drain,
    EvictPods,
    FinishDrain,
    GrowGroup,
    PoolWorker,
    ProtectInstances,
    ReleaseInstance,
    RemoveInstance,
    ScalingPlan,
)
from niyanta.pools.pool_nodes import PoolNodes
from niyanta.pools.providers.base import Group, Instance, InstanceGoneError, InstanceState, Provider, ProviderError
from niyanta.pools.reasons import CancelReason
from niyanta.pools.scaling_record import ScalingAction, ScalingRecord
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.scheduler.periodic.drain_queries import DrainQueries
from niyanta.store.errors import StoreError
from niyanta.store.leader.scaling import DrainStep, ScalingDecision
from niyanta.store.postgres.clock import Clock

logger = log.get(__name__)

EVICTED = "WorkerScaledDown"
"""Reason of workloads that went back to the queue because a drain reached its deadline."""

MOST_STEPS = 32
"""Most concurrent steps of removals."""

WARNINGS = frozenset({ScalingAction.EVICTED, ScalingAction.VANISHED, ScalingAction.TROUBLE})

CANCELLATIONS = {
    CancelReason.WANTED: "it is wanted again",
    CancelReason.UNCORDONED: "its node was uncordoned by another client",
    CancelReason.KEPT: "its node is annotated to be kept",
    CancelReason.USED_BY_OTHERS: "foreign pods still run there",
    CancelReason.POOL_GONE: "its pool is no longer scaled",
}


class Executor:
    """Carries out the plans of one pool."""

    def __init__(
        self,
        *,
        provider: Provider,
        nodes: PoolNodes,
        scaling_record: ScalingRecord,
        drain_queries: DrainQueries,
        clock: Clock,
    ) -> None:
        self._provider = provider
        self._nodes = nodes
        self._scaling_record = scaling_record
        self._drain_queries = drain_queries
        self._clock = clock
        self._growing: int | None = None
        """Size of an order to the provider that failed; None otherwise."""

    async def run(self, pool: WorkerPool, group: Group, plan: ScalingPlan) -> None:
        """Do the actions of a plan in their order, steps of several removals concurrently.

        The first error of the provider, the API server or Postgres ends the run. An unexpected error of one action is
        raised when the others are done.
        """
        instances = {instance.id: instance for instance in group.instances}
        unexpected: list[Exception] = []

        async def attempt(action: Coroutine[Any, Any, None]) -> None:
            try:
                await action
            except (ProviderError, ApiError, StoreError, SharedFaultError):
                raise
            except Exception as error:
                unexpected.append(error)

        if begins := [action for action in plan.actions if isinstance(action, BeginDrain)]:
            await attempt(self._begin(pool, plan, begins))
        for kind, actions in itertools.groupby(plan.actions, key=type):
            if kind in (CordonWorker, EvictPods, RemoveInstance, CancelDrain, ReleaseInstance):
                steps = [attempt(self._drain_step(pool, instances, action)) for action in actions]
                await self._run_concurrently(steps)
                continue
            for action in actions:
                await attempt(self._do(pool, group, plan, action))
        if unexpected:
            raise unexpected[0]

    async def _do(self, pool: WorkerPool, group: Group, plan: ScalingPlan, action: Action) -> None:
        match action:
            case AdoptSize(replicas):
                await self._adopt(pool, plan, replicas)
            case GrowGroup():
                await self._grow(pool, group, plan, action)
            case FinishDrain():
                await self._finish(pool, plan, action)
            case ProtectInstances(chosen):
                with suppress(InstanceGoneError):  # the next description of the group doesn't contain it
                    await self._provider.protect(chosen, on=True)

    async def _run_concurrently(self, steps: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run steps concurrently, because each waits up to half a second for the leader's loop to answer."""
        slots = asyncio.Semaphore(MOST_STEPS)

        async def one(step: Coroutine[Any, Any, None]) -> None:
            async with slots:
                await step

        for result in await asyncio.gather(*(one(step) for step in steps), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _drain_step(self, pool: WorkerPool, instances: Mapping[str, Instance], action: Action) -> None:
        """Do one step of a removal."""
        name = pool.metadata.name
        match action:
            case CordonWorker(worker, drain):
                if await self._nodes.cordon(worker.node, name, was_cordoned=drain.was_cordoned):
                    await self._scaling_record.step(name, drain, DrainStep.CORDONED)
            case EvictPods():
                await self._evict(pool, action)
            case RemoveInstance():
                await self._remove(pool, instances[action.worker.instance], action)
            case CancelDrain():
                await self._cancel(pool, action)
            case ReleaseInstance(worker):
                await self._nodes.uncordon(worker.node, unschedulable=worker.was_cordoned)

    async def report(self, pool: WorkerPool, decision: ScalingDecision) -> None:
        """Log a recorded decision and write its Event."""
        action = ScalingAction(decision.action)
        logger.info(
            "pool scaled",
            pool=decision.pool,
            action=decision.action,
            worker=decision.worker,
            instance=decision.instance,
            wanted=decision.wanted,
            had=decision.had,
            reason=decision.reason,
        )
        reason = decision.reason if action is ScalingAction.TROUBLE else action.value
        await self._nodes.record_event(pool, reason=reason, message=decision.message, warning=action in WARNINGS)

    async def _adopt(self, pool: WorkerPool, plan: ScalingPlan, replicas: int) -> None:
        if await self._nodes.adopt(pool, replicas):
            message = f"spec.replicas was not set; it is {replicas} now, the pool has {plan.have} workers"
            decision = ScalingDecision(
                pool.metadata.name, ScalingAction.ADOPTED.value, wanted=replicas, had=plan.have, message=message
            )
            await self._scaling_record.record([decision])
            await self.report(pool, decision)

    async def _grow(self, pool: WorkerPool, group: Group, plan: ScalingPlan, action: GrowGroup) -> None:
        name = pool.metadata.name
        message = f"{action.count} more workers: {plan.target} wanted, {plan.have} there"
        decision = ScalingDecision(
            name, ScalingAction.SCALE_UP.value, wanted=plan.target, had=plan.have, message=message
        )
        if self._growing != action.to:  # else the order is repeated because it failed
            await self._scaling_record.record([decision])
            await self.report(pool, decision)
        self._growing = action.to
        try:
            await self._provider.grow(group, action.to)
        except ProviderError:
            self._scaling_record.not_scaled_up(name)  # so that the cooldown doesn't delay the next attempt
            raise
        self._growing = None

    async def _begin(self, pool: WorkerPool, plan: ScalingPlan, begins: Sequence[BeginDrain]) -> None:
        """Begin the drains of all chosen workers in one transaction; the next pass cordons them."""
        now = self._clock.now()
        name = pool.metadata.name
        decisions = [
            ScalingDecision(
                name,
                ScalingAction.SCALE_DOWN.value,
                worker=begin.worker.node,
                instance=begin.worker.instance,
                wanted=plan.target,
                had=plan.have,
                reason=begin.why,
                message=f"worker {_name(begin.worker)} drains ({begin.why}): {plan.target} wanted, {plan.have} there",
            )
            for begin in begins
        ]
        drains = [Drain(begin.worker.instance, begin.worker.node, begin.worker.cordoned, now) for begin in begins]
        await self._scaling_record.record(decisions, begin=drains)
        for decision in decisions:
            await self.report(pool, decision)

    async def _evict(self, pool: WorkerPool, action: EvictPods) -> None:
        count = await self._drain_queries.evict(action.worker.node, EVICTED)
        if action.drain.evicted_at is None:
            waited = pool.spec.scaling.drain_timeout_seconds
            decision = ScalingDecision(
                pool.metadata.name,
                ScalingAction.EVICTED.value,
                worker=action.worker.node,
                instance=action.worker.instance,
                message=f"{count} workloads of worker {action.worker.node} went back to the queue after {waited} s",
            )
            await self._scaling_record.record([decision])
            await self._scaling_record.step(pool.metadata.name, action.drain, DrainStep.EVICTED)
            await self.report(pool, decision)

    async def _remove(self, pool: WorkerPool, instance: Instance, action: RemoveInstance) -> None:
        """Remove an instance, after the leader's loop has confirmed that no workload is or can be placed there. Once
        the step is recorded, no leader cancels the drain, so that a late request of this one does no harm."""
        if instance.state is InstanceState.LEAVING:
            return
        if action.worker.node and not await self._drain_queries.is_free(action.worker.node):
            return
        await self._scaling_record.step(pool.metadata.name, action.drain, DrainStep.REMOVING)
        try:
            if instance.protected:
                await self._provider.protect([instance.id], on=False)
            await self._provider.remove(instance)
        except InstanceGoneError:
            logger.info("an instance to remove was gone already", pool=pool.metadata.name, instance=instance.id)

    async def _cancel(self, pool: WorkerPool, action: CancelDrain) -> None:
        """Cancel a drain: the worker stays. The node is uncordoned first, so that the next leader finds the drain and
        cancels it again if this one dies in between."""
        if action.worker.node:
            still = action.worker.cordoned and not action.uncordon
            await self._nodes.uncordon(action.worker.node, unschedulable=still)
        why = CANCELLATIONS[action.reason]
        decision = ScalingDecision(
            pool.metadata.name,
            ScalingAction.CANCELLED.value,
            worker=action.worker.node,
            instance=action.worker.instance,
            reason=action.reason,
            message=f"worker {_name(action.worker)} stays: {why}",
        )
        await self._scaling_record.record([decision], end=[action.drain])
        await self.report(pool, decision)

    async def _finish(self, pool: WorkerPool, plan: ScalingPlan, action: FinishDrain) -> None:
        drain = action.drain
        done = ScalingAction.VANISHED if action.vanished else ScalingAction.REMOVED
        what = "vanished while it was being drained" if action.vanished else "was removed"
        decision = ScalingDecision(
            pool.metadata.name,
            done.value,
            worker=drain.worker,
            instance=drain.instance,
            wanted=plan.target,
            had=plan.have,
            message=f"worker {drain.worker or drain.instance} {what}",
        )
        await self._scaling_record.record([decision], end=[drain])
        await self.report(pool, decision)


def _name(worker: PoolWorker) -> str:
    return worker.node or worker.instance
