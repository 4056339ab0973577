"""The pace of writes to a server that others need as well: it rises by steps while the server answers as quickly as
usual, and halves while it doesn't (additive increase, multiplicative decrease). Pure: times are arguments, in seconds
of one monotonic clock.
"""

from __future__ import annotations

LOWEST_RATE = 5.0
FIRST_RATE = 60.0
HIGHEST_RATE = 400.0
"""Writes a second."""

STEP = 20.0
"""Writes a second that a window of quick answers adds."""

WINDOW_SECONDS = 0.25
"""Time over which answers are averaged: the pace changes at most once in it."""

BURST_SECONDS = 0.1
"""Time whose writes may go at once after a pause."""

SLOW_FACTOR = 4.0
"""Answers are slow if they take this many times as long as the quickest ones."""

ALWAYS_QUICK_SECONDS = 0.03
ALWAYS_SLOW_SECONDS = 0.25
"""Bounds of the time from which on an answer is slow."""

FORGET = 1.002
"""Growth per window of the time that counts as the quickest, so that a server that became slower for good is
believed."""

SLOW_FOR_SECONDS = 2.0
"""Time without answers after which a slow server counts as quick, so that it is asked again."""


class WritePace:
    """Gives each write its time. Writes report how long the server took to answer."""

    def __init__(self) -> None:
        self.rate = FIRST_RATE
        """Writes a second now."""
        self._next = float("-inf")
        self._quickest = float("inf")
        self._window = float("-inf")
        """Start of the present window."""
        self._answers = 0
        self._seconds = 0.0
        self._slow = False
        self._answered_at = float("-inf")

    def take(self, now: float) -> float:
        """The seconds that the next write has to wait; it should be sent after them."""
        self._next = max(self._next, now - BURST_SECONDS) + 1.0 / self.rate
        return max(self._next - now, 0.0)

    def slow(self, now: float) -> bool:
        """True while the server answers slowly."""
        return self._slow and now - self._answered_at < SLOW_FOR_SECONDS

    def answered(self, seconds: float, now: float) -> None:
        """A write got its answer after so many seconds."""
        if now - self._window > 2 * WINDOW_SECONDS:
            self._start(now - WINDOW_SECONDS)
        self._answered_at = now
        self._answers += 1
        self._seconds += seconds
        if now - self._window >= WINDOW_SECONDS:
            self._adapt(self._seconds / self._answers, now - self._window)
            self._start(now)

    def failed(self, now: float) -> None:
        """A write got no answer, or was told to come later."""
        self._answered_at = now
        self._halve()
        self._start(now)

    def _start(self, now: float) -> None:
        self._window = now
        self._answers = 0
        self._seconds = 0.0

    def _adapt(self, mean: float, seconds: float) -> None:
        self._quickest = min(self._quickest * FORGET, mean)
        limit = min(max(SLOW_FACTOR * self._quickest, ALWAYS_QUICK_SECONDS), ALWAYS_SLOW_SECONDS)
        if mean > limit:
            self._halve()
            return
        self._slow = False
        if self._answers >= self.rate * seconds / 2:  # a pace that isn't used says nothing about a higher one
            self.rate = min(self.rate + STEP, HIGHEST_RATE)

    def _halve(self) -> None:
        self._slow = True
        self.rate = max(self.rate / 2, LOWEST_RATE)
