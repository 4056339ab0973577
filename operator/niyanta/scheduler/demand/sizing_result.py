"""Which pool's empty workers waiting work would fit: what `figures` found out, for the words that `cycle` notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from niyanta.engine.explain import fit_note
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, PoolFit
from niyanta.scheduler.workload_cache import TrackedWorkload

WorkloadKind = tuple[str, str]
"""Customer and requirements class."""


class SizingResult:
    """One sizing's verdicts, by workload, and by kind for those that weren't looked at one by one."""

    def __init__(
        self,
        verdicts: Mapping[str, PoolFit] | None = None,
        kinds: Mapping[WorkloadKind, PoolFit] | None = None,
        pools: Iterable[EmptyPool] = (),
    ) -> None:
        self._verdicts = verdicts or {}
        self._kinds = kinds or {}
        self._pools = {pool.name: pool for pool in pools}
        self._all_known = all(pool.templates for pool in self._pools.values())

    def of(self, tracked: TrackedWorkload) -> PoolFit | None:
        """None: it wasn't looked at yet."""
        found = self._verdicts.get(tracked.id)
        return found or self._kinds.get((tracked.row.customer, tracked.row.class_id))

    def text(self, tracked: TrackedWorkload) -> str:
        """Words to add to why it waits; empty when there is nothing to add."""
        verdict = self.of(tracked)
        if verdict is None:
            return ""
        return fit_note(
            verdict,
            self._pools.get(verdict.pool),
            tracked.row.replicas,
            tracked.requirements,
            all_known=self._all_known,
        )

    def reasons(self, tracked: TrackedWorkload) -> tuple[dict[str, Any], ...]:
        """The same as JSON values, beside the typed reasons."""
        verdict = self.of(tracked)
        if verdict is None:
            return ()
        if verdict.fit in (FitKind.NEW, FitKind.FULL):
            pool = self._pools.get(verdict.pool)
            most = pool.max_workers if pool is not None and verdict.fit is FitKind.FULL else None
            return ({"fitsPool": {"pool": verdict.pool, "atMaximum": most}},)
        if verdict.fit is FitKind.NOWHERE and verdict.closest:
            failed = [f"{reason.value} ({detail})" if detail else reason.value for reason, detail in verdict.lacks]
            return ({"closestPool": {"pool": verdict.closest, "failed": failed}},)
        return ()
