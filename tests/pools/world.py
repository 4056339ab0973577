"""A simulated group and cluster that carries out the plans of `decide` and records drains."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

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
    ScalingRules,
)
from niyanta.pools.policy import SECOND_US, decide


@dataclass
class PoolWorld:
    """One pool. Time moves only by `pass_time`."""

    rules: ScalingRules
    group_maximum: int | None = None
    group_minimum: int = 0
    now: int = 1_000 * SECOND_US
    workers: dict[str, PoolWorker] = field(default_factory=dict)
    desired: int = 0
    drains: dict[str, Drain] = field(default_factory=dict)
    last_up: int | None = None
    last_down: int | None = None
    removed: list[tuple[PoolWorker, int]] = field(default_factory=list)
    half: bool = False
    """The next removal is recorded, but the leader dies before it sends the order."""
    log: list[Action] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    # Actions of users and the cloud

    def add(self, count: int = 1, **fields: object) -> list[str]:
        """Add instances that are Ready."""
        names = [f"w{next(self._numbers)}" for _ in range(count)]
        for name in names:
            made = PoolWorker(instance=f"i-{name}", node=name, since=self.now)
            self.workers[made.instance] = replace(made, **fields)  # type: ignore[arg-type]
        self.desired += count
        return [f"i-{name}" for name in names]

    def change(self, instance: str, **fields: object) -> None:
        self.workers[instance] = replace(self.workers[instance], **fields)  # type: ignore[arg-type]

    def scale(self, replicas: int) -> None:
        self.rules = replace(self.rules, replicas=replicas)

    def vanish(self, instance: str) -> None:
        """The cloud removes an instance; the group keeps its size and orders another."""
        del self.workers[instance]

    def arrive(self) -> None:
        """Ordered instances start."""
        missing = self.desired - len(self.workers)
        if missing > 0:
            self.add(missing)
            self.desired -= missing

    def pass_time(self, seconds: float) -> None:
        self.now += round(seconds * SECOND_US)

    # Actions of the controller and the executor

    def view(self) -> PoolObservation:
        return PoolObservation(
            pool="pool",
            rules=self.rules,
            workers=tuple(sorted(self.workers.values(), key=lambda worker: worker.instance)),
            drains=tuple(self.drains[name] for name in sorted(self.drains)),
            desired=self.desired,
            group_minimum=self.group_minimum,
            group_maximum=self.group_maximum,
            last_up=self.last_up,
            last_down=self.last_down,
        )

    def plan(self) -> ScalingPlan:
        return decide(self.view(), self.now)

    def step(self, upto: int | None = None) -> ScalingPlan:
        """Carry out one plan; `upto`: the leader dies after this many actions."""
        plan = self.plan()
        for action in plan.actions[:upto]:
            self.do(action)
        return plan

    def settle(self, most: int = 50) -> ScalingPlan:
        """Carry out plans until no action is left."""
        for _ in range(most):
            self.arrive()
            plan = self.step()
            if all(isinstance(action, EvictPods) for action in plan.actions):
                return plan
        raise AssertionError(f"no end: {plan}")

    def do(self, action: Action) -> None:
        self.log.append(action)
        match action:
            case AdoptSize(replicas):
                self.scale(replicas)
            case GrowGroup(to, _):
                self.desired = max(self.desired, to)
                self.last_up = self.now
            case BeginDrain(worker):
                self.drains[worker.instance] = Drain(worker.instance, worker.node, worker.cordoned, self.now)
                self.last_down = self.now
            case CordonWorker(worker, drain):
                self.change(worker.instance, cordoned=True, marked=True, was_cordoned=drain.was_cordoned)
                self.drains[worker.instance] = replace(drain, cordoned_at=drain.cordoned_at or self.now)
            case EvictPods(worker, drain):
                self.change(worker.instance, workloads=0)
                self.drains[worker.instance] = replace(drain, evicted_at=drain.evicted_at or self.now)
            case RemoveInstance(worker, drain) if self.half:
                self.half = False
                self.drains[worker.instance] = replace(drain, removing_at=drain.removing_at or self.now)
            case RemoveInstance(worker, _):
                self.removed.append((self.workers.pop(worker.instance), self.now))
                self.desired -= 1
                started = self.drains[worker.instance]
                self.drains[worker.instance] = replace(started, removing_at=self.now)
            case CancelDrain(worker, drain, _, uncordon):
                self.change(worker.instance, cordoned=worker.cordoned and not uncordon, marked=False)
                del self.drains[drain.instance]
                self.last_down = self.now
            case ReleaseInstance(worker):
                self.change(worker.instance, cordoned=worker.was_cordoned, marked=False)
            case FinishDrain(drain, _):
                del self.drains[drain.instance]
            case ProtectInstances(instances):
                for name in instances:
                    self.change(name, protected=True)

    def kinds(self) -> list[str]:
        """Names of the actions so far."""
        return [type(action).__name__ for action in self.log]

    def names(self, instances: Iterable[str]) -> set[str]:
        return {self.workers[name].node for name in instances}
