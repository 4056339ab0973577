"""Read your writes: a caller sees its own changes although replicas lag behind the primary.

The response to a write carries the primary's WAL position. A read that sends it back is answered by a replica that has
replayed that far, or by the primary; this works across processes. Each process also keeps the last write of each
customer, for callers that send no position.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from niyanta.lsn import HEADER, UNKNOWN, parse, show
from niyanta.server.problems import BAD_REQUEST, Problem
from niyanta.settings import Settings

PATTERN = "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$"


class ReadYourWrites:
    """Last write of each customer, kept for max_replica_lag: replicas that serve reads have replayed it by then."""

    def __init__(self, settings: Settings) -> None:
        self._kept_for = settings.max_replica_lag
        self._last: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def written(self, position: int | None, *customers: str) -> dict[str, str]:
        """Keep the position of a write; returns the response's headers. None: there are no replicas."""
        if position is None:
            return {}
        now = time.monotonic()
        for customer in customers:
            self._last[customer] = (now, max(position, self._of(customer, now)))
            self._last.move_to_end(customer)
        while now - next(iter(self._last.values()))[0] > self._kept_for:
            self._last.popitem(last=False)
        return {} if position == UNKNOWN else {HEADER: show(position)}

    def required(self, header: str | None, customer: str) -> int:
        """Position that a read must include: that of its header or of the customer's last write; Problem (400)."""
        sent = 0
        if header is not None:
            try:
                sent = parse(header)
            except ValueError:
                raise Problem(
                    BAD_REQUEST, f"{HEADER}: must be the value of this header in a response to a write"
                ) from None
        return max(sent, self._of(customer, time.monotonic()))

    def _of(self, customer: str, now: float) -> int:
        at, position = self._last.get(customer, (now, 0))
        return position if now - at <= self._kept_for else 0
