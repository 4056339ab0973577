"""Prometheus metrics of scaling: recorded decisions, and pools whose scaling is blocked."""

from __future__ import annotations

from collections import Counter as Sum
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Counter

from niyanta.observability.gauges import LeaderGauge
from niyanta.store.leader.scaling import ScalingDecision

DECISIONS = Counter(
    "niyanta_scaling_decisions_total", "Decisions about a pool's workers that were recorded", ["pool", "action"]
)
BLOCKED = LeaderGauge(
    "niyanta_scaling_blocked",
    "1 while the scaling of a pool with a provider is blocked (its condition Scaling has the reason)",
    ["pool"],
)
LEAVING = LeaderGauge("niyanta_scaling_leaving_workers", "Workers of a pool that are draining", ["pool"])


class ScalingMetrics:
    """Scaling metrics of one leadership."""

    def __init__(self, label: Callable[[str], str], actions: Iterable[str]) -> None:
        """`label`: pool -> label value; the number of values is bounded. `actions`: all values of that label."""
        self._label = label
        self._actions = tuple(actions)

    def known(self, pool: str) -> None:
        """Show 0 decisions for a pool with a provider."""
        for action in self._actions:
            DECISIONS.labels(self._label(pool), action)

    def decided(self, decisions: Iterable[ScalingDecision]) -> None:
        """Count recorded decisions."""
        for decision in decisions:
            DECISIONS.labels(self._label(decision.pool), decision.action).inc()

    def show(self, blocked: Mapping[str, bool], leaving: Mapping[str, int]) -> None:
        """Set the gauges of pools with a provider."""
        BLOCKED.show({(self._label(pool),): float(is_blocked) for pool, is_blocked in blocked.items()})
        sums: Sum[tuple[str, ...]] = Sum()
        for pool, count in leaving.items():
            sums[self._label(pool),] += count
        LEAVING.show(sums)

    @staticmethod
    def clear() -> None:
        """Remove the gauges: this process no longer leads."""
        BLOCKED.clear()
        LEAVING.clear()
