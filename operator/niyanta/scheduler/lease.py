"""This process's own view of its leadership: valid until a moment of the monotonic clock, never longer than
Postgres says.

`valid` is asked before every write to the API server; `tick` shows that the leader's loop is alive.
"""

from __future__ import annotations

import time


class Lease:
    """Monotonic bookkeeping of one candidate; times are seconds."""

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
        """Leadership is over, whatever Postgres says."""
        self._until = 0.0

    def tick(self) -> None:
        """The leader's loop did something."""
        self._ticked = time.monotonic()

    @property
    def valid(self) -> bool:
        """True if this process may write."""
        return time.monotonic() < self._until

    @property
    def stalled(self) -> bool:
        """True if the loop has not ticked for too long to go on renewing."""
        return time.monotonic() - self._ticked > self._stall_limit
