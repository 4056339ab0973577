"""Scaling conditions of a pool's status: from a plan, or from the error that prevented one."""

from __future__ import annotations

from niyanta.pools.actions import ScalingPlan, ScalingReason, ScalingRules
from niyanta.pools.policy import bounded_replicas
from niyanta.pools.pool_status import PoolCondition
from niyanta.pools.reasons import ConditionReason, ConditionType
from niyanta.resources.models.worker_pool import WorkerPool

GOOD = frozenset({ScalingReason.STEADY, ScalingReason.SCALING_UP, ScalingReason.DRAINING, ScalingReason.COOLING_DOWN})
"""Reasons of pools that aren't blocked."""


def rules_of(pool: WorkerPool) -> ScalingRules:
    """The scaling rules of a pool's spec."""
    spec = pool.spec
    return ScalingRules(
        replicas=spec.replicas,
        minimum=spec.min_replicas,
        maximum=spec.max_replicas,
        up_cooldown=spec.scaling.scale_up_cooldown_seconds,
        down_cooldown=spec.scaling.scale_down_cooldown_seconds,
        drain_timeout=spec.scaling.drain_timeout_seconds,
        ready_timeout=spec.scaling.ready_timeout_seconds,
    )


def of_plan(plan: ScalingPlan, rules: ScalingRules, outside: list[str]) -> tuple[PoolCondition, ...]:
    """Conditions of a pool whose provider answered."""
    message = plan.message
    if outside:
        message += f"; {len(outside)} nodes of the pool don't belong to the provider's group and don't count: "
        message += ", ".join(outside[:3])
    condition = PoolCondition(ConditionType.SCALING, plan.reason in GOOD, plan.reason.value, message)
    return (condition, limited(rules))


def limited(rules: ScalingRules) -> PoolCondition:
    """Condition ScalingLimited: true if minReplicas or maxReplicas overrules spec.replicas."""
    target = bounded_replicas(rules)
    if rules.replicas is None or target == rules.replicas:
        return PoolCondition(ConditionType.SCALING_LIMITED, False, ConditionReason.WITHIN_LIMITS)
    if target > rules.replicas:
        reason, bound = ConditionReason.TOO_FEW_REPLICAS, "minReplicas"
    else:
        reason, bound = ConditionReason.TOO_MANY_REPLICAS, "maxReplicas"
    message = f"replicas {rules.replicas}, but {bound} is {target}"
    return PoolCondition(ConditionType.SCALING_LIMITED, True, reason, message)


def unprovided(pool: WorkerPool, workers: int) -> tuple[PoolCondition, ...]:
    """Conditions of a pool without a provider; none unless spec.replicas is set."""
    if pool.spec.replicas is None:
        return ()
    rules = rules_of(pool)
    message = f"{bounded_replicas(rules)} wanted, {workers} there; the pool has no provider to add or remove workers"
    return (PoolCondition(ConditionType.SCALING, False, ConditionReason.NO_PROVIDER, message), limited(rules))
