"""So that whoever wrote sees the write, although replicas are a little behind.

The answer to a write carries how far the primary's log was then. A read that sends this back is answered by a replica
that has replayed as much, or by the primary, in whichever process. Within one process the last write of each customer
is remembered too, for callers that send nothing back.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from niyanta.lsn import HEADER, UNKNOWN, parse, show
from niyanta.server.problems import BAD_REQUEST, Problem
from niyanta.settings import Settings

PATTERN = "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$"


class ReadYourWrites:
    """Last writes by customer. One is forgotten after max_replica_lag: what is read from has it by then."""

    def __init__(self, settings: Settings) -> None:
        self._kept_for = settings.max_replica_lag
        self._last: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def written(self, position: int | None, *customers: str) -> dict[str, str]:
        """Remember a write that is before `position`; returns the answer's headers. None: there are no replicas."""
        if position is None:
            return {}
        now = time.monotonic()
        for customer in customers:
            self._last[customer] = (now, max(position, self._of(customer, now)))
            self._last.move_to_end(customer)
        while now - next(iter(self._last.values()))[0] > self._kept_for:
            self._last.popitem(last=False)
        return {} if position == UNKNOWN else {HEADER: show(position)}

    def wanted(self, header: str | None, customer: str) -> int:
        """What a read must show, by its header and by the customer's last write here. Raises Problem (400)."""
        sent = 0
        if header is not None:
            try:
                sent = parse(header)
            except ValueError:
                raise Problem(BAD_REQUEST, f"{HEADER}: send back what an answer of this server carried") from None
        return max(sent, self._of(customer, time.monotonic()))

    def _of(self, customer: str, now: float) -> int:
        at, position = self._last.get(customer, (now, 0))
        return position if now - at <= self._kept_for else 0
