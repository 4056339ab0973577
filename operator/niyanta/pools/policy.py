"""Scaling policy of one pool: a pure function from its observed and wanted state to actions.

`controller` makes the observation, `executor` carries the actions out. The function may be called again at any time,
also by another leader: the observation contains the drains in progress, and the plan continues them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    PoolObservation,
    PoolWorker,
    ProtectInstances,
    ReleaseInstance,
    RemoveInstance,
    ScalingPlan,
    ScalingReason,
    ScalingRules,
)
from niyanta.pools.reasons import CancelReason

SECOND_US = 1_000_000
"""One second in microseconds of the database's clock, the unit of all times here."""

CORDON_SEEN_AFTER_US = 15 * SECOND_US
"""Time after which the cache shows every cordon of Niyanta. A node that isn't cordoned then was uncordoned by another
client."""


def decide(view: PoolObservation, now: int) -> ScalingPlan:
    """The next actions for a pool."""
    if view.rules.replicas is None:
        alive = sum(1 for worker in view.workers if not worker.leaving)
        return ScalingPlan((AdoptSize(max(1, view.rules.minimum, view.desired, alive)),), have=alive)
    return _Decision(view, now).plan()


def bounded_replicas(rules: ScalingRules) -> int:
    """spec.replicas within minReplicas and maxReplicas."""
    wanted = max(rules.replicas or 0, rules.minimum)
    return wanted if rules.maximum is None else min(wanted, rules.maximum)


def order(worker: PoolWorker) -> tuple[bool, bool, bool, int, float, int, str]:
    """Sort key of removal: workers without Niyanta's pods first, then NotReady ones, then cordoned ones, then by fewest
    workloads, least use, newest, name."""
    return (
        worker.busy,
        worker.ready,
        not worker.cordoned,
        max(worker.workloads, worker.pods),
        worker.usage,
        -worker.since,
        worker.node or worker.instance,
    )


class _Decision:
    """One run of `decide`."""

    def __init__(self, view: PoolObservation, now: int) -> None:
        self.view = view
        self.now = now
        self.target = bounded_replicas(view.rules)
        self.alive = [worker for worker in view.workers if not worker.leaving]
        self.drains = {drain.instance: drain for drain in view.drains}
        present = {worker.instance for worker in self.alive}
        self.ended = [drain for drain in view.drains if drain.instance not in present]
        self.draining = [worker for worker in self.alive if worker.instance in self.drains]
        self.active = [worker for worker in self.alive if worker.instance not in self.drains]
        self.ordered = max(0, view.desired - len(self.alive))
        """Ordered instances that don't exist yet."""
        self.have = len(self.active) + self.ordered
        self.blocked: ScalingReason | None = None
        self.message = ""
        self.cancelled: set[str] = set()

    def plan(self) -> ScalingPlan:
        actions: list[Action] = [FinishDrain(drain, vanished=drain.removing_at is None) for drain in self.ended]
        actions += [ReleaseInstance(worker) for worker in self.active if worker.marked]
        if self.target > self.have:
            actions += self._more()
        elif self.target < self.have:
            actions += self._fewer()
        for worker in sorted(self.draining, key=order):
            if worker.instance not in self.cancelled:
                actions += self._next_step(worker, self.drains[worker.instance])
        actions += self._protect(actions)
        reason, message = self._reason(actions)
        return ScalingPlan(tuple(actions), self.target, self.have + len(self.cancelled), reason, message)

    # --- more --------------------------------------------------------------------------------------------------------

    def _more(self) -> Iterator[Action]:
        """Cancel drains, of the busiest workers first, then order new workers."""
        short = self.target - self.have
        back = [worker for worker in self.draining if self.drains[worker.instance].removing_at is None]
        for worker in sorted(back, key=order, reverse=True)[:short]:
            self.cancelled.add(worker.instance)
            short -= 1
            yield self._cancel(worker, CancelReason.WANTED, uncordon=True)
        if not short:
            return
        size = len(self.alive) + self.ordered
        to = size + short
        maximum = self.view.group_maximum
        if maximum is not None and to > maximum:
            to = max(size, maximum)
            self.blocked = ScalingReason.AT_GROUP_MAXIMUM
            self.message = f"{self.target} workers wanted, the group's maximum is {maximum}"
        if to <= size:
            return
        if not self._rested(self.view.last_up, self.view.rules.up_cooldown):
            self.blocked = self.blocked or ScalingReason.COOLING_DOWN
            return
        yield GrowGroup(to, to - size)

    # --- fewer -------------------------------------------------------------------------------------------------------

    def _fewer(self) -> Iterator[Action]:
        """Choose workers to remove. Ordered instances that don't exist yet can't be chosen, and no other worker is
        removed for them."""
        surplus = self.have - self.target - self.ordered - sum(1 for worker in self.active if self._young(worker))
        room = self.have - self.view.group_minimum
        candidates = sorted((worker for worker in self.active if self._may_go(worker)), key=order)
        count = min(surplus, room, len(candidates))
        if surplus > room:
            self.blocked = ScalingReason.AT_GROUP_MINIMUM
            self.message = f"{self.target} workers wanted, the group's minimum is {self.view.group_minimum}"
        elif surplus > len(candidates):
            self.blocked = ScalingReason.BLOCKED
            self.message = self._why_kept(surplus - len(candidates))
        if count <= 0:
            return
        last = max((at for at in (self.view.last_up, self.view.last_down) if at is not None), default=None)
        if not self._rested(last, self.view.rules.down_cooldown):
            self.blocked = ScalingReason.COOLING_DOWN
            return
        for worker in candidates[:count]:
            yield BeginDrain(worker, _why(worker))

    def _young(self, worker: PoolWorker) -> bool:
        """True if an instance has no node but may still get one. It isn't chosen before, because only a node can be
        cordoned."""
        return not worker.node and self.now - worker.since < self.view.rules.ready_timeout * SECOND_US

    def _may_go(self, worker: PoolWorker) -> bool:
        return not worker.kept and not worker.others and not self._young(worker)

    def _why_kept(self, count: int) -> str:
        kept = [worker for worker in self.active if worker.kept]
        used = [worker for worker in self.active if worker.others and not worker.kept]
        parts = []
        if kept:
            parts.append(f"{_names(kept)} kept by annotation")
        if used:
            parts.append(f"{_names(used)} used by foreign pods ({used[0].others[0]}, ..)")
        return f"{count} more workers than wanted stay: " + "; ".join(parts)

    # --- drains ------------------------------------------------------------------------------------------------------

    def _next_step(self, worker: PoolWorker, drain: Drain) -> Iterator[Action]:
        """The next step of a drain."""
        over = self._timed_out(drain)
        if worker.node and not worker.cordoned and self._uncordoned_by_others(drain):
            yield self._cancel(worker, CancelReason.UNCORDONED, uncordon=False)
        elif worker.node and not (worker.cordoned and worker.marked and drain.cordoned_at is not None):
            yield CordonWorker(worker, drain)
        elif worker.kept and drain.removing_at is None:
            yield self._cancel(worker, CancelReason.KEPT, uncordon=True)
        elif not worker.busy and not worker.others:
            yield RemoveInstance(worker, drain)
        elif worker.others and over and drain.removing_at is None:
            yield self._cancel(worker, CancelReason.USED_BY_OTHERS, uncordon=True)
        elif worker.busy and over:
            # No kubelet stops the pods of a dead node; its removal does. Their workloads were evicted before.
            dead = not worker.ready and not worker.workloads and drain.evicted_at is not None and not worker.others
            yield RemoveInstance(worker, drain) if dead else EvictPods(worker, drain)

    def _timed_out(self, drain: Drain) -> bool:
        timeout = self.view.rules.drain_timeout
        return timeout is not None and self.now >= drain.started_at + timeout * SECOND_US

    def _uncordoned_by_others(self, drain: Drain) -> bool:
        if drain.cordoned_at is None or drain.removing_at is not None:
            return False
        return self.now - drain.cordoned_at > CORDON_SEEN_AFTER_US

    def _cancel(self, worker: PoolWorker, reason: CancelReason, *, uncordon: bool) -> CancelDrain:
        drain = self.drains[worker.instance]
        return CancelDrain(worker, drain, reason, uncordon and not drain.was_cordoned)

    # --- protection and condition ------------------------------------------------------------------------------------

    def _protect(self, actions: Sequence[Action]) -> Iterator[Action]:
        """Protect the workers that aren't chosen, so that the group never removes them when it becomes smaller."""
        if not self.view.protects:
            return
        leaving = {action.worker.instance for action in actions if isinstance(action, BeginDrain)}
        staying = [w for w in self.active if w.in_service and not w.protected and w.instance not in leaving]
        if staying:
            yield ProtectInstances(tuple(sorted(worker.instance for worker in staying)))

    def _rested(self, last: int | None, seconds: int) -> bool:
        return last is None or self.now - last >= seconds * SECOND_US

    def _reason(self, actions: Sequence[Action]) -> tuple[ScalingReason, str]:
        """Reason and message of condition Scaling; reasons that block scaling come first."""
        if self.blocked is not None and self.blocked is not ScalingReason.COOLING_DOWN:
            return self.blocked, self.message
        late = [worker for worker in self.active if self._late(worker)]
        limit = self.view.rules.ready_timeout
        if late or (self.ordered and self.view.last_up is not None and self._rested(self.view.last_up, limit)):
            what = f"{_names(late)} not Ready" if late else f"{self.ordered} ordered but missing"
            return ScalingReason.NOT_READY, f"{what} for more than {limit} s; no replacement is ordered"
        leaving = len(self.draining) - len(self.cancelled) + sum(1 for a in actions if isinstance(a, BeginDrain))
        if leaving:
            return ScalingReason.DRAINING, f"{leaving} draining, {self.target} wanted"
        if self.blocked is not None:
            return self.blocked, f"{self.have} workers, {self.target} wanted"
        starting = self.ordered + sum(1 for worker in self.active if not worker.ready)
        starting += sum(action.count for action in actions if isinstance(action, GrowGroup))
        if starting:
            return ScalingReason.SCALING_UP, f"{starting} not Ready yet, {self.target} wanted"
        return ScalingReason.STEADY, f"{self.target} wanted"

    def _late(self, worker: PoolWorker) -> bool:
        if worker.unready_since is None:
            return False
        return self.now - worker.unready_since >= self.view.rules.ready_timeout * SECOND_US


def _why(worker: PoolWorker) -> str:
    """The reason for which a worker was chosen for removal."""
    if worker.busy:
        return f"fewest workloads ({max(worker.workloads, worker.pods)})"
    if not worker.ready:
        return "not Ready"
    return "cordoned" if worker.cordoned else "empty"


def _names(workers: Sequence[PoolWorker]) -> str:
    names = sorted(worker.node or worker.instance for worker in workers)
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
