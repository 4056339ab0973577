"""The queue's order: constant keys.

    effective = priority * tier_weight + boost * minutes_waited            minutes_waited = (now - queued_at) / 60e6

All workloads age at the same rate, so `boost * now / 60e6` is equal in every effective priority and can be left out
of the comparison. The rest, times 60,000,000, is an integer that does not change with time:

    key = priority * tier_weight * 60_000_000 - boost * queued_at          larger first

With priorities off the first term is 0, with aging off the second; with both off all keys are equal and the tie-break,
`queued_at` then id, makes the queue first in, first out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from niyanta.engine.types import PendingWorkload

MINUTE_US: Final = 60_000_000
"""One minute in microseconds."""


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Settings of the order. `aging_boost_per_minute` is in units of effective priority."""

    enable_priority: bool = True
    enable_aging: bool = True
    aging_boost_per_minute: int = 5


DEFAULT_ORDER = QueueSettings()

Entry = tuple[int, int, str]
"""(-key, queued_at, id), which sorts ascending into queue order."""


def queue_key(priority: int, tier_weight: int, *, queued_at: int, settings: QueueSettings = DEFAULT_ORDER) -> int:
    """The constant key, larger first; equal keys go by `queued_at` (microseconds), then id."""
    key = 0
    if settings.enable_priority:
        key = priority * tier_weight * MINUTE_US
    if settings.enable_aging:
        key -= settings.aging_boost_per_minute * queued_at
    return key


def effective_priority(
    priority: int, tier_weight: int, *, queued_at: int, now: int, settings: QueueSettings = DEFAULT_ORDER
) -> float:
    """Effective priority at `now` (microseconds), for display; a clock behind `queued_at` counts as no wait."""
    effective = 0.0
    if settings.enable_priority:
        effective = float(priority * tier_weight)
    if settings.enable_aging:
        effective += settings.aging_boost_per_minute * max(now - queued_at, 0) / MINUTE_US
    return effective


def entry_of(workload: PendingWorkload, settings: QueueSettings) -> Entry:
    """The workload's place in the order."""
    key = queue_key(workload.priority, workload.tier_weight, queued_at=workload.queued_at, settings=settings)
    return -key, workload.queued_at, workload.id
