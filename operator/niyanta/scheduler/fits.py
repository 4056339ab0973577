"""Which pool's empty workers waiting work would fit: what `figures` found out, for the words that `cycle` notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from niyanta.engine.explain import fit_note
from niyanta.engine.fit import EmptyPool, Fit, Verdict
from niyanta.scheduler.mirror import Tracked

Kind = tuple[str, str]
"""Customer and requirements class."""


class Fits:
    """One sizing's verdicts, by workload, and by kind for those that weren't looked at one by one."""

    def __init__(
        self,
        verdicts: Mapping[str, Verdict] | None = None,
        kinds: Mapping[Kind, Verdict] | None = None,
        pools: Iterable[EmptyPool] = (),
    ) -> None:
        self._verdicts = verdicts or {}
        self._kinds = kinds or {}
        self._pools = {pool.name: pool for pool in pools}
        self._all_known = all(pool.templates for pool in self._pools.values())

    def of(self, tracked: Tracked) -> Verdict | None:
        """None: it wasn't looked at yet."""
        found = self._verdicts.get(tracked.id)
        return found or self._kinds.get((tracked.row.customer, tracked.row.class_id))

    def text(self, tracked: Tracked) -> str:
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

    def reasons(self, tracked: Tracked) -> tuple[dict[str, Any], ...]:
        """The same as JSON values, beside the typed reasons."""
        verdict = self.of(tracked)
        if verdict is None:
            return ()
        if verdict.fit in (Fit.NEW, Fit.FULL):
            pool = self._pools.get(verdict.pool)
            most = pool.most if pool is not None and verdict.fit is Fit.FULL else None
            return ({"fitsPool": {"pool": verdict.pool, "atMaximum": most}},)
        if verdict.fit is Fit.NOWHERE and verdict.closest:
            failed = [f"{reason.value} ({detail})" if detail else reason.value for reason, detail in verdict.lacks]
            return ({"closestPool": {"pool": verdict.closest, "failed": failed}},)
        return ()
