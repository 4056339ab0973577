"""Scaling conditions of a pool's status: from a plan, or from the error that prevented one."""

from __future__ import annotations

from niyanta.pools.actions import ScalingPlan, ScalingReason, ScalingRules
from niyanta.pools.policy import bounded_replicas
from niyanta.pools.pool_status import PoolCondition
from niyanta.resources.models.worker_pool import WorkerPool

GOOD = frozenset({ScalingReason.STEADY, ScalingReason.SCALING_UP, ScalingReason.DRAINING, ScalingReason.COOLING_DOWN})
"""Nothing stands in the way of what is wanted."""


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
        message += f"; {len(outside)} nodes of the pool aren't the provider's and don't count: "
        message += ", ".join(outside[:3])
    return (PoolCondition("Scaling", plan.reason in GOOD, plan.reason.value, message), limited(rules))


def limited(rules: ScalingRules) -> PoolCondition:
    """Condition ScalingLimited: true if minReplicas or maxReplicas overrules spec.replicas."""
    target = bounded_replicas(rules)
    if rules.replicas is None or target == rules.replicas:
        return PoolCondition("ScalingLimited", False, "WithinLimits")
    reason, bound = ("TooFewReplicas", "minReplicas") if target > rules.replicas else ("TooManyReplicas", "maxReplicas")
    return PoolCondition("ScalingLimited", True, reason, f"replicas {rules.replicas}, but {bound} is {target}")


def unprovided(pool: WorkerPool, workers: int) -> tuple[PoolCondition, ...]:
    """Conditions of a pool without a provider; none unless spec.replicas is set."""
    if pool.spec.replicas is None:
        return ()
    rules = rules_of(pool)
    message = f"{bounded_replicas(rules)} wanted, {workers} there; the pool has no provider to add or remove workers"
    return (PoolCondition("Scaling", False, "NoProvider", message), limited(rules))
