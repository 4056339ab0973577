"""Token buckets: a rate with a burst, counted in this process by the monotonic clock."""

from __future__ import annotations

import time
from collections import OrderedDict


class TokenBucket:
    """`rate` tokens per second, at most `burst` at once."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = time.monotonic()

    def empty(self) -> bool:
        """True while there is less than a whole token."""
        self._refill()
        return self._left < 1.0

    def take(self) -> None:
        """Take a token; the bucket never owes any."""
        self._refill()
        self._left = max(0.0, self._left - 1.0)

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now


class TokenBuckets:
    """A bucket for each of at most `most` names; the ones used last are kept."""

    def __init__(self, rate: float, burst: float, *, most: int) -> None:
        self._rate, self._burst, self._most = rate, burst, most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def empty(self, name: str) -> bool:
        """True while the name has no token."""
        return name in self._buckets and self._buckets[name].empty()

    def take(self, name: str) -> None:
        """Take one of the name's tokens."""
        if name not in self._buckets:
            self._buckets[name] = TokenBucket(self._rate, self._burst)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        self._buckets[name].take()
