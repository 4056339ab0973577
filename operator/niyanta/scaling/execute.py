"""Does what `decide` says, for one pool. Each act is written down before it is done, and can be done again.

Raises ProviderError, ApiError, StoreError and StaleEpochError as they come: `scaler` knows how long to wait.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from niyanta import log
from niyanta.resources.worker_pool import WorkerPool
from niyanta.scaling import decide
from niyanta.scaling.board import Action, Board
from niyanta.scaling.decide import Adopt, Begin, Cancel, Cordon, Evict, Finish, Grow, Plan, Protect, Release, Remove
from niyanta.scaling.fleet import Fleet
from niyanta.scaling.ports import Group, Instance, InstanceGoneError, InstanceState, Provider, ProviderError
from niyanta.scheduler.session import Session
from niyanta.store.clock import Clock
from niyanta.store.scaling import Decision, Step

logger = log.get(__name__)

EVICTED = "WorkerScaledDown"
"""Reason of workloads that went back to the queue because of a drain's deadline."""

WIDTH = 32
"""Steps of removals under way at once."""

WARNINGS = frozenset({Action.EVICTED, Action.VANISHED, Action.TROUBLE})

CANCELLATIONS = {
    "Wanted": "it is wanted again",
    "Uncordoned": "somebody uncordoned it",
    "Kept": "somebody asked to keep it",
    "UsedByOthers": "pods that aren't Niyanta's still run there",
    "PoolGone": "its pool is gone or has no provider any more",
}


class Executor:
    """Of one pool and its provider."""

    def __init__(self, *, provider: Provider, fleet: Fleet, board: Board, session: Session, clock: Clock) -> None:
        self._provider = provider
        self._fleet = fleet
        self._board = board
        self._session = session
        self._clock = clock
        self._growing: int | None = None
        """Size that was asked for without success."""

    async def run(self, pool: WorkerPool, group: Group, plan: Plan) -> None:
        """Do the actions of a plan in their order, steps of several removals side by side; what fails ends the run."""
        instances = {instance.id: instance for instance in group.instances}
        if begins := [action for action in plan.actions if isinstance(action, Begin)]:
            await self._begin(pool, plan, begins)
        for kind, actions in itertools.groupby(plan.actions, key=type):
            if kind in (Cordon, Evict, Remove, Cancel, Release):
                await self._side_by_side([self._go_on(pool, instances, action) for action in actions])
                continue
            for action in actions:
                await self._do(pool, group, plan, action)

    async def _do(self, pool: WorkerPool, group: Group, plan: Plan, action: decide.Action) -> None:
        match action:
            case Adopt(replicas):
                await self._adopt(pool, plan, replicas)
            case Grow():
                await self._grow(pool, group, plan, action)
            case Finish():
                await self._finish(pool, plan, action)
            case Protect(chosen):
                with suppress(InstanceGoneError):  # the next look doesn't see it any more
                    await self._provider.protect(chosen, on=True)

    async def _side_by_side(self, steps: Sequence[Coroutine[Any, Any, None]]) -> None:
        """The leader's loop answers asks twice a second, so that one after the other would take long."""
        slots = asyncio.Semaphore(WIDTH)

        async def one(step: Coroutine[Any, Any, None]) -> None:
            async with slots:
                await step

        for result in await asyncio.gather(*(one(step) for step in steps), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _go_on(self, pool: WorkerPool, instances: Mapping[str, Instance], action: decide.Action) -> None:
        """One step of a removal."""
        name = pool.metadata.name
        match action:
            case Cordon(worker, drain):
                if await self._fleet.cordon(worker.node, name, was_cordoned=drain.was_cordoned):
                    await self._board.step(name, drain, Step.CORDONED)
            case Evict():
                await self._evict(pool, action)
            case Remove():
                await self._remove(pool, instances[action.worker.instance], action)
            case Cancel():
                await self._cancel(pool, action)
            case Release(worker):
                await self._fleet.uncordon(worker.node, unschedulable=worker.was_cordoned)

    async def tell(self, pool: WorkerPool, decision: Decision) -> None:
        """The Event of a decision that is on record."""
        action = Action(decision.action)
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
        reason = decision.reason if action is Action.TROUBLE else action.value
        await self._fleet.tell(pool, reason=reason, message=decision.message, warning=action in WARNINGS)

    async def _adopt(self, pool: WorkerPool, plan: Plan, replicas: int) -> None:
        if await self._fleet.adopt(pool, replicas):
            message = f"spec.replicas was not set; it is {replicas} now, {plan.have} workers were there"
            decision = Decision(
                pool.metadata.name, Action.ADOPTED.value, wanted=replicas, had=plan.have, message=message
            )
            await self._board.record([decision])
            await self.tell(pool, decision)

    async def _grow(self, pool: WorkerPool, group: Group, plan: Plan, action: Grow) -> None:
        name = pool.metadata.name
        message = f"{action.count} more workers: {plan.target} wanted, {plan.have} there"
        decision = Decision(name, Action.SCALE_UP.value, wanted=plan.target, had=plan.have, message=message)
        if self._growing != action.to:  # else it is a repeat of an order that didn't get through
            await self._board.record([decision])
            await self.tell(pool, decision)
        self._growing = action.to
        try:
            await self._provider.grow(group, action.to)
        except ProviderError:
            self._board.not_scaled_up(name)  # nothing to cool down from
            raise
        self._growing = None

    async def _begin(self, pool: WorkerPool, plan: Plan, begins: Sequence[Begin]) -> None:
        """All that are chosen at once: one transaction, then the cordons by the next look."""
        now = self._clock.now()
        name = pool.metadata.name
        decisions = [
            Decision(
                name,
                Action.SCALE_DOWN.value,
                worker=begin.worker.node,
                instance=begin.worker.instance,
                wanted=plan.target,
                had=plan.have,
                reason=begin.why,
                message=f"worker {_name(begin.worker)} is to go ({begin.why}): {plan.target} wanted, {plan.have} there",
            )
            for begin in begins
        ]
        drains = [
            decide.Drain(begin.worker.instance, begin.worker.node, begin.worker.cordoned, now) for begin in begins
        ]
        await self._board.record(decisions, begin=drains)
        for decision in decisions:
            await self.tell(pool, decision)

    async def _evict(self, pool: WorkerPool, action: Evict) -> None:
        count = await self._session.evict(action.worker.node, EVICTED)
        if action.drain.evicted_at is None:
            waited = pool.spec.scaling.drain_timeout_seconds
            decision = Decision(
                pool.metadata.name,
                Action.EVICTED.value,
                worker=action.worker.node,
                instance=action.worker.instance,
                message=f"{count} workloads of worker {action.worker.node} went back to the queue after {waited} s",
            )
            await self._board.record([decision])
            await self._board.step(pool.metadata.name, action.drain, Step.EVICTED)
            await self.tell(pool, decision)

    async def _remove(self, pool: WorkerPool, instance: Instance, action: Remove) -> None:
        """The point of no return. Nothing can be placed there any more, which the leader's loop confirms; from the
        row on, no leader lets the worker live, so a late call of this one can't harm it."""
        if instance.state is InstanceState.LEAVING:
            return
        if action.worker.node and not await self._session.is_free(action.worker.node):
            return
        await self._board.step(pool.metadata.name, action.drain, Step.REMOVING)
        try:
            if instance.protected:
                await self._provider.protect([instance.id], on=False)
            await self._provider.remove(instance)
        except InstanceGoneError:
            logger.info("an instance to be removed was gone", pool=pool.metadata.name, instance=instance.id)

    async def _cancel(self, pool: WorkerPool, action: Cancel) -> None:
        """The worker stays. Uncordoned first: a leader that dies in between leaves a row, and the next one sees a node
        that takes pods again."""
        if action.worker.node:
            still = action.worker.cordoned and not action.uncordon
            await self._fleet.uncordon(action.worker.node, unschedulable=still)
        why = CANCELLATIONS[action.reason]
        decision = Decision(
            pool.metadata.name,
            Action.CANCELLED.value,
            worker=action.worker.node,
            instance=action.worker.instance,
            reason=action.reason,
            message=f"worker {_name(action.worker)} stays: {why}",
        )
        await self._board.record([decision], end=[action.drain])
        await self.tell(pool, decision)

    async def _finish(self, pool: WorkerPool, plan: Plan, action: Finish) -> None:
        drain = action.drain
        done = Action.VANISHED if action.vanished else Action.REMOVED
        what = "vanished while it was being drained" if action.vanished else "was removed"
        decision = Decision(
            pool.metadata.name,
            done.value,
            worker=drain.worker,
            instance=drain.instance,
            wanted=plan.target,
            had=plan.have,
            message=f"worker {drain.worker or drain.instance} {what}",
        )
        await self._board.record([decision], end=[drain])
        await self.tell(pool, decision)


def _name(worker: decide.Worker) -> str:
    return worker.node or worker.instance
