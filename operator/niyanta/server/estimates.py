"""Estimated start of waiting workloads: a time from the leader's placement rate, or a change that must come first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from niyanta.engine.explain import LASTING
from niyanta.server.schema import serializers
from niyanta.server.schema.models import Estimate, QueuePosition, ReasonCount
from niyanta.server.submit.backpressure import ObservedPlacementRate
from niyanta.store.row_mapping import from_us, to_us
from niyanta.store.rows import WorkloadRow

UNREFUSED = frozenset(("", "Released", "Resumed"))
"""Reasons of a row that has not been refused since it entered the queue."""

_LASTING = frozenset(reason.value for reason in LASTING)


def unforeseen_start(row: WorkloadRow, reasons: list[Any]) -> Estimate | None:
    """Estimate without a time, for a workload that nothing known to come lets start: every worker refuses it by what
    neither time nor the end of other workloads changes (`engine.explain.needs`), and no pool may add a worker for it.

    None if a worker may have room later, or a pool may add one. `reasons`: the stored form.
    """
    if row.reason != "Unschedulable":
        return None
    counts, fits = serializers.reason_counts(reasons), serializers.noted(reasons, "fitsPool")
    needs = serializers.noted(reasons, "needs")
    if fits and fits.get("atMaximum") is None:
        return None
    if not needs and any(count.reason not in _LASTING for count in counts):
        return None
    if not counts:
        basis = "not before a worker is added: there are no workers"
    elif needs:
        basis = f"not before a worker is added or changed: it needs one {', '.join(map(str, needs))}"
    else:  # written by a release that stored no needs
        basis = f"not before a worker changes or a worker that fits is added: all workers refuse it ({_named(counts)})"
    if fits:
        most = fits["atMaximum"]
        workers = f"{most} worker{'' if most == 1 else 's'}"
        basis += f"; pool {fits.get('pool')} could add one, but is at its maximum of {workers}"
    elif counts and serializers.noted(reasons, "closestPool"):
        basis += "; no pool is known to add such a worker"
    return Estimate(at=None, seconds=None, basis=basis)


def _named(counts: Sequence[ReasonCount]) -> str:
    return ", ".join(f"{count.reason} ({count.detail})" if count.detail else count.reason for count in counts)


def estimated_start(row: WorkloadRow, position: QueuePosition, rate: ObservedPlacementRate, now_us: int) -> Estimate:
    """Estimated start: (workloads ahead + 1) / placements per minute of the leader."""
    if rate.age is None:
        return Estimate(at=None, seconds=None, basis="no leader has reported its placement rate yet")
    if rate.total is None:
        return Estimate(at=None, seconds=None, basis=f"the leader's last report is {rate.age:.0f} s old")
    if rate.total <= 0:
        return Estimate(at=None, seconds=None, basis="nothing was placed in the last ten minutes")
    seconds = (position.ahead + 1) * 60.0 / rate.total
    basis = (
        f"{position.ahead}{'' if position.exact else ' or more'} ahead in the queue of all customers, "
        f"{rate.total:g} placements per minute over the last ten minutes"
    )
    if row.reason not in UNREFUSED:
        basis += f"; it also waits for another reason ({row.reason}), so this is the earliest time"
    backoff = 0.0 if row.not_before is None else max(0.0, (to_us(row.not_before) - now_us) / 1e6)
    if backoff > seconds:
        seconds, basis = backoff, "the end of its backoff, which is later than its turn in the queue"
    return Estimate(at=from_us(now_us) + timedelta(seconds=min(seconds, 1e9)), seconds=seconds, basis=basis)
