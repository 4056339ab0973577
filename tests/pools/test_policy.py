"""The rule for one pool: up, down, cancelled, stopped half-way, at every bound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.pools.actions import (
    BeginDrain,
    CancelDrain,
    Drain,
    EvictPods,
    FinishDrain,
    GrowGroup,
    ProtectInstances,
    RemoveInstance,
    ScalingReason,
    ScalingRules,
)
from niyanta.pools.policy import bounded_replicas, decide, order
from tests.pools.world import PoolWorld

pytestmark = pytest.mark.unit

CAREFUL = ScalingRules(replicas=0, down_cooldown=0, drain_timeout=100, ready_timeout=60)


def world(replicas: int, workers: int = 0, **rules: object) -> PoolWorld:
    made = PoolWorld(replace(CAREFUL, replicas=replicas, **rules))  # type: ignore[arg-type]
    made.add(workers)
    return made


# --- up --------------------------------------------------------------------------------------------------------------


def test_it_asks_once_for_what_is_missing() -> None:
    pool = world(5, 2)
    plan = pool.step()
    assert plan.actions == (GrowGroup(to=5, count=3),)
    assert pool.step().actions == ()  # ordered and not there yet
    assert pool.plan().reason is ScalingReason.SCALING_UP
    pool.arrive()
    assert pool.step().actions == ()
    assert pool.plan().reason is ScalingReason.STEADY


def test_instances_without_a_node_count() -> None:
    pool = world(3)
    pool.add(3, node="", ready=False)
    assert pool.step().actions == ()


@pytest.mark.parametrize(
    ("replicas", "minimum", "maximum", "target"), [(5, 0, 3, 3), (1, 2, None, 2), (0, 0, None, 0), (4, 2, 6, 4)]
)
def test_the_rails_bound_what_is_asked_for(replicas: int, minimum: int, maximum: int | None, target: int) -> None:
    rules = ScalingRules(replicas=replicas, minimum=minimum, maximum=maximum)
    assert bounded_replicas(rules) == target
    pool = PoolWorld(rules)
    pool.settle()
    assert len(pool.workers) == target


def test_at_the_groups_maximum_it_takes_what_there_is_and_says_so() -> None:
    pool = world(10, 2)
    pool.group_maximum = 4
    plan = pool.step()
    assert plan.actions == (GrowGroup(to=4, count=2),)
    assert plan.reason is ScalingReason.AT_GROUP_MAXIMUM
    pool.arrive()
    plan = pool.step()
    assert (plan.actions, plan.reason) == ((), ScalingReason.AT_GROUP_MAXIMUM)
    assert "maximum is 4" in plan.message


def test_two_orders_are_a_cooldown_apart() -> None:
    pool = world(1, 0, up_cooldown=30)
    pool.settle()
    pool.scale(2)
    assert pool.step().actions == ()
    assert pool.plan().reason is ScalingReason.COOLING_DOWN
    pool.pass_time(30)
    assert pool.step().actions == (GrowGroup(to=2, count=1),)


def test_workers_that_do_not_come_are_reported_and_not_made_again() -> None:
    pool = world(2)
    pool.step()
    pool.pass_time(60)
    assert pool.plan().actions == ()
    assert pool.plan().reason is ScalingReason.NOT_READY
    pool.arrive()
    for name in list(pool.workers):
        pool.change(name, ready=False, unready_since=pool.now)
    assert pool.plan().reason is ScalingReason.SCALING_UP
    pool.pass_time(60)
    plan = pool.plan()
    assert (plan.actions, plan.reason) == ((), ScalingReason.NOT_READY)
    assert "w0" in plan.message


def test_a_pool_without_replicas_is_adopted_as_it_is() -> None:
    pool = PoolWorld(ScalingRules(replicas=None, minimum=2))
    pool.add(4)
    pool.settle()
    assert pool.rules.replicas == 4
    assert pool.kinds() == ["AdoptSize"]
    empty = PoolWorld(ScalingRules(replicas=None))
    empty.step()
    assert empty.rules.replicas == 1


# --- down ------------------------------------------------------------------------------------------------------------


def test_the_emptiest_go_first() -> None:
    """No pods of Niyanta's; of these NotReady, then cordoned by people, then newest. Then by workloads and use."""
    pool = world(0)
    old, new, cordoned, broken = pool.add(4)
    pool.change(new, since=pool.now + 1)
    pool.change(cordoned, cordoned=True)
    pool.change(broken, ready=False)
    full, half, single = pool.add(3)
    pool.change(full, workloads=1, usage=0.9)
    pool.change(half, workloads=3, usage=0.1)
    pool.change(single, workloads=1, usage=0.2)
    ordered = [worker.instance for worker in sorted(pool.workers.values(), key=order)]
    assert ordered == [broken, cordoned, new, old, single, full, half]


def test_an_empty_worker_is_cordoned_and_then_removed() -> None:
    pool = world(1, 2)
    pool.settle()
    assert pool.kinds() == ["BeginDrain", "CordonWorker", "RemoveInstance", "FinishDrain"]
    assert len(pool.workers) == pool.desired == 1


def test_a_busy_worker_is_waited_for() -> None:
    pool = world(0, 1)
    (name,) = pool.workers
    pool.change(name, workloads=1, pods=1)
    pool.settle()
    pool.pass_time(99)
    pool.settle()
    assert pool.kinds() == ["BeginDrain", "CordonWorker"]
    pool.change(name, workloads=0)
    pool.settle()
    assert pool.removed == []  # its pods still stop
    pool.change(name, pods=0)
    pool.settle()
    assert [worker.instance for worker, _ in pool.removed] == [name]
    assert "EvictPods" not in pool.kinds()


def test_after_the_drain_timeout_what_runs_goes_back_to_the_queue_first() -> None:
    pool = world(0, 1)
    (name,) = pool.workers
    pool.change(name, workloads=2, pods=2)
    pool.settle()
    pool.pass_time(100)
    assert isinstance(pool.step().actions[0], EvictPods)
    assert pool.removed == []
    pool.settle()
    assert pool.removed == []  # the pods are being stopped
    pool.change(name, pods=0)
    pool.settle()
    assert len(pool.removed) == 1


def test_without_a_timeout_a_drain_waits_for_the_work_however_long() -> None:
    assert ScalingRules(replicas=0).drain_timeout is None
    pool = world(0, 2, drain_timeout=None)
    busy, shared = pool.workers
    pool.change(busy, workloads=1, pods=1)
    pool.change(shared, workloads=1, pods=1)
    pool.settle()
    pool.change(shared, workloads=0, pods=0, others=("team/theirs",))
    pool.pass_time(10_000_000)
    pool.settle()
    assert set(pool.kinds()) == {"BeginDrain", "CordonWorker"}
    assert pool.drains.keys() == {busy, shared}
    pool.change(busy, workloads=0, pods=0)
    pool.settle()
    assert [worker.instance for worker, _ in pool.removed] == [busy]


def test_a_dead_node_is_removed_though_nobody_stops_its_pods() -> None:
    pool = world(0, 1)
    (name,) = pool.workers
    pool.change(name, ready=False, workloads=1, pods=1)
    pool.settle()
    pool.pass_time(100)
    pool.step()
    assert pool.removed == []
    pool.settle()
    assert len(pool.removed) == 1


def test_pods_of_others_keep_their_worker() -> None:
    pool = world(0, 2)
    used, free = pool.workers
    pool.change(used, others=("kube-system/coredns-1",))
    plan = pool.settle()
    assert list(pool.workers) == [used]
    assert plan.reason is ScalingReason.BLOCKED
    assert "coredns-1" in plan.message
    assert free not in pool.workers


def test_pods_of_others_that_come_during_a_drain_are_waited_for_and_then_left() -> None:
    pool = world(0, 1)
    (name,) = pool.workers
    pool.change(name, workloads=1, pods=1)
    pool.settle()
    pool.change(name, workloads=0, pods=0, others=("team/theirs",))
    pool.settle()
    assert pool.removed == []
    pool.pass_time(100)
    pool.settle()
    assert name in pool.workers
    assert not pool.workers[name].cordoned
    assert pool.drains == {}


def test_workers_people_want_to_keep_stay() -> None:
    pool = world(0, 2)
    kept, _ = pool.workers
    pool.change(kept, kept=True)
    assert pool.settle().reason is ScalingReason.BLOCKED
    assert list(pool.workers) == [kept]


def test_not_below_the_groups_minimum() -> None:
    pool = world(0, 3)
    pool.group_minimum = 2
    plan = pool.settle()
    assert len(pool.workers) == 2
    assert plan.reason is ScalingReason.AT_GROUP_MINIMUM


def test_the_next_removal_is_a_cooldown_after_any_scaling() -> None:
    pool = world(3, 2, down_cooldown=60)
    pool.settle()
    pool.scale(2)
    assert pool.plan().reason is ScalingReason.COOLING_DOWN
    pool.pass_time(60)
    pool.settle()
    pool.scale(1)
    pool.pass_time(59)
    assert pool.settle().reason is ScalingReason.COOLING_DOWN
    pool.pass_time(1)
    pool.settle()
    assert len(pool.workers) == 1


def test_what_is_not_there_yet_is_not_made_up_for_by_what_is() -> None:
    """10 ordered, 5 there, then 3 wanted: 2 go now; of the others, when they come."""
    pool = world(3, 5)
    pool.desired = 10
    begun = [action for action in pool.step().actions if isinstance(action, BeginDrain)]
    assert len(begun) == 2
    pool.settle()
    assert len(pool.workers) == 3


def test_an_instance_without_a_node_is_chosen_only_when_none_can_be_expected() -> None:
    pool = world(1, 1)
    (late,) = pool.add(1, node="", ready=False)
    assert pool.step().actions == ()
    pool.pass_time(60)
    pool.settle()
    assert late not in pool.workers
    assert len(pool.workers) == 1


# --- changes of mind -------------------------------------------------------------------------------------------------


def test_scaling_up_takes_back_drains_before_it_orders() -> None:
    pool = world(0, 3)
    for name in pool.workers:
        pool.change(name, workloads=1, pods=1)
    pool.settle()
    pool.scale(5)
    actions = pool.step().actions
    assert [type(action) for action in actions] == [CancelDrain, CancelDrain, CancelDrain, GrowGroup]
    assert actions[-1] == GrowGroup(to=5, count=2)
    assert not any(worker.cordoned for worker in pool.workers.values())


def test_what_people_cordoned_stays_cordoned() -> None:
    pool = world(0, 1)
    (name,) = pool.workers
    pool.change(name, cordoned=True, workloads=1, pods=1)
    pool.settle()
    assert pool.workers[name].marked
    pool.scale(1)
    pool.settle()
    assert pool.workers[name].cordoned
    assert not pool.workers[name].marked


def test_a_worker_that_people_uncordon_stays() -> None:
    pool = world(0, 1)
    (name,) = pool.workers
    pool.change(name, workloads=1, pods=1)
    pool.settle()
    pool.change(name, cordoned=False)
    pool.pass_time(20)
    (action,) = pool.step().actions
    assert isinstance(action, CancelDrain)
    assert action.reason == "Uncordoned"


def test_a_removal_that_was_ordered_is_not_taken_back() -> None:
    pool = world(0, 1)
    (name,) = pool.workers
    pool.settle()
    ghost = replace(pool.removed[0][0])
    pool.workers[name] = ghost  # the order is on record, and the instance is still there
    pool.desired = 1
    pool.drains[name] = replace(_drain(pool, name), removing_at=pool.now)
    pool.scale(1)
    kinds = [type(action) for action in pool.step().actions]
    assert kinds == [GrowGroup, RemoveInstance]
    pool.settle()
    assert len(pool.workers) == pool.desired == 1


def _drain(pool: PoolWorld, name: str) -> Drain:
    return Drain(name, pool.removed[0][0].node, False, pool.now, cordoned_at=pool.now)


def test_an_instance_that_vanishes_ends_its_drain() -> None:
    pool = world(0, 1)
    (name,) = pool.workers
    pool.change(name, workloads=1, pods=1)
    pool.settle()
    pool.vanish(name)
    pool.desired = 0
    (action,) = pool.step().actions
    assert isinstance(action, FinishDrain)
    assert action.vanished


@pytest.mark.parametrize("before", [True, False])
def test_a_mark_without_a_record_is_taken_off(before: bool) -> None:
    """The database was restored to a time before the drain."""
    pool = world(0, 1)
    (name,) = pool.workers
    pool.change(name, workloads=1, pods=1, cordoned=before)
    pool.settle()
    pool.drains.clear()
    pool.scale(1)
    pool.settle()
    assert not pool.workers[name].marked
    assert pool.workers[name].cordoned is before


def test_what_the_provider_still_starts_cannot_be_protected() -> None:
    pool = world(2, 2)
    first, second = pool.workers
    pool.change(first, in_service=False)
    (protect,) = decide(replace(pool.view(), protects=True), pool.now).actions
    assert protect == ProtectInstances((second,))


def test_all_that_stay_are_protected() -> None:
    pool = world(1, 3)
    view = replace(pool.view(), protects=True)
    plan = decide(view, pool.now)
    chosen = {action.worker.instance for action in plan.actions if isinstance(action, BeginDrain)}
    (protect,) = [action for action in plan.actions if isinstance(action, ProtectInstances)]
    assert len(chosen) == 2
    assert set(protect.instances) == set(pool.workers) - chosen
