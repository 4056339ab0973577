"""The sizing result: the pool that each waiting workload counts for. `stats_collector` makes it; `pending_reasons` adds
it to the explanations of waiting workloads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from niyanta.engine.explain import fit_note
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, PoolFit
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload


class SizingResult:
    """The pool of each workload that was sized, and of each class for the workloads that weren't."""

    def __init__(
        self,
        fits: Mapping[str, PoolFit] | None = None,
        classes: Mapping[str, PoolFit] | None = None,
        pools: Iterable[EmptyPool] = (),
    ) -> None:
        self._fits = fits or {}
        self._classes = classes or {}
        self._pools = {pool.name: pool for pool in pools}
        self._all_known = all(pool.templates for pool in self._pools.values())

    def of(self, tracked: TrackedWorkload) -> PoolFit | None:
        """The pool that fits the workload; None if it hasn't been sized yet."""
        return self._fits.get(tracked.id) or self._classes.get(tracked.class_name)

    def changed_since(self, before: SizingResult) -> set[str]:
        """Ids of workloads that were sized one by one, now or then, and fit elsewhere now."""
        if self is before:
            return set()
        ids = self._fits.keys() | before._fits.keys()
        return {workload_id for workload_id in ids if self._fits.get(workload_id) != before._fits.get(workload_id)}

    def text(self, tracked: TrackedWorkload) -> str:
        """Text to append to the workload's pending reason; may be empty."""
        found = self.of(tracked)
        if found is None:
            return ""
        return fit_note(
            found,
            self._pools.get(found.pool),
            tracked.row.replicas,
            tracked.requirements,
            all_known=self._all_known,
        )

    def reasons(self, tracked: TrackedWorkload) -> tuple[dict[str, Any], ...]:
        """The same as JSON values, beside the typed reasons."""
        found = self.of(tracked)
        if found is None:
            return ()
        if found.fit in (FitKind.NEW, FitKind.FULL):
            pool = self._pools.get(found.pool)
            most = pool.max_workers if pool is not None and found.fit is FitKind.FULL else None
            return ({"fitsPool": {"pool": found.pool, "atMaximum": most}},)
        if found.fit is FitKind.NOWHERE and found.closest:
            failed = [f"{reason.value} ({detail})" if detail else reason.value for reason, detail in found.lacks]
            return ({"closestPool": {"pool": found.closest, "failed": failed}},)
        return ()
