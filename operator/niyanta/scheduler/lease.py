"""This process's own view of its leadership: it expires at a monotonic time, never later than the lease in Postgres.

`valid` is checked before every write to the API server; `tick` shows that the leader's loop is alive.
"""

from __future__ import annotations

import time


class Lease:
    """The lease of one candidate in monotonic time, seconds."""

    def __init__(self, *, seconds: float, stall_limit: float) -> None:
        self._seconds = seconds
        self._stall_limit = stall_limit
        self._until = 0.0
        self._ticked = 0.0
        self.epoch = 0

    def begin(self, epoch: int, *, asked_at: float) -> None:
        """Leadership was taken by a statement sent at `asked_at` (monotonic)."""
        self.epoch = epoch
        self._until = asked_at + self._seconds
        self._ticked = time.monotonic()

    def renewed(self, *, asked_at: float) -> None:
        """A renewal sent at `asked_at` succeeded."""
        self._until = asked_at + self._seconds

    def end(self) -> None:
        """End leadership at once, before the lease in Postgres expires."""
        self._until = 0.0

    def tick(self) -> None:
        """Record that the leader's loop made progress."""
        self._ticked = time.monotonic()

    @property
    def valid(self) -> bool:
        """True if this process may write."""
        return time.monotonic() < self._until

    @property
    def stalled(self) -> bool:
        """True if the loop hasn't ticked within the stall limit, so that the lease must not be renewed."""
        return time.monotonic() - self._ticked > self._stall_limit
