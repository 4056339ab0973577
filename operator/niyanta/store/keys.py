"""The queue's order as one integer per row, bound to the settings' switches."""

from __future__ import annotations

from niyanta.settings import Settings

MINUTE = 60_000_000
"""Microseconds."""


class QueueKeys:
    """Computes queue keys (int64, higher goes first) under given settings."""

    def __init__(self, settings: Settings) -> None:
        self._priority = settings.enable_priority
        self._boost = settings.aging_boost_per_minute if settings.enable_aging else 0

    def key(self, priority: int, tier_weight: int, queued_at_us: int) -> int:
        """effective * MINUTE + constant, where effective = priority * tier_weight + boost * minutes waited."""
        base = priority * tier_weight * MINUTE if self._priority else 0
        return base - (self._boost or 1) * queued_at_us
