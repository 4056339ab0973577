"""Queue keys of rows: the engine's formula (`niyanta.engine.queue`) with the settings."""

from __future__ import annotations

from niyanta.engine.queue.order import QueueSettings, effective_priority, queue_key
from niyanta.settings import Settings


def queue_settings(settings: Settings) -> QueueSettings:
    """Settings of the queue's order for the engine."""
    return QueueSettings(
        enable_priority=settings.enable_priority,
        enable_aging=settings.enable_aging,
        aging_boost_per_minute=settings.aging_boost_per_minute,
    )


class QueueKeys:
    """Computes queue keys (higher first; ties by queued_at, then id) with given settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = queue_settings(settings)

    def key(self, priority: int, tier_weight: int, queued_at_us: int) -> int:
        """The key as a bigint; OverflowError when weights or boosts (above 1e9 and 5,000) make it too large."""
        key = queue_key(priority, tier_weight, queued_at=queued_at_us, settings=self._settings)
        if not -(2**63) <= key < 2**63:
            raise OverflowError(f"queue key of priority {priority}, weight {tier_weight} doesn't fit a bigint")
        return key

    def effective(self, priority: int, tier_weight: int, queued_at_us: int, *, now_us: int) -> int:
        """Effective priority at `now_us`, for display."""
        return int(
            effective_priority(priority, tier_weight, queued_at=queued_at_us, now=now_us, settings=self._settings)
        )
