"""The sizing result: pools whose empty workers fit waiting workloads. `stats_collector` makes it, `pending_reasons`
tells users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from niyanta.engine.explain import fit_note
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, PoolFit
from niyanta.scheduler.workload_cache import TrackedWorkload

WorkloadKind = tuple[str, str]
"""Customer and requirements class."""


class SizingResult:
    """The pool of each workload that was sized, and of its kind for those that weren't."""

    def __init__(
        self,
        fits: Mapping[str, PoolFit] | None = None,
        kinds: Mapping[WorkloadKind, PoolFit] | None = None,
        pools: Iterable[EmptyPool] = (),
    ) -> None:
        self._fits = fits or {}
        self._kinds = kinds or {}
        self._pools = {pool.name: pool for pool in pools}
        self._all_known = all(pool.templates for pool in self._pools.values())

    def of(self, tracked: TrackedWorkload) -> PoolFit | None:
        """The pool that fits the workload; None: it was not sized yet."""
        return self._fits.get(tracked.id) or self._kinds.get((tracked.row.customer, tracked.row.class_id))

    def text(self, tracked: TrackedWorkload) -> str:
        """Words to add to why it waits; empty when there is nothing to add."""
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
