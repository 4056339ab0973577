"""Writes of statuses that the API server may refuse, because it has refused them before or refuses the statuses of
their namespace: a webhook or policy there. They are few and slow, and take nothing from the pace of the others; a first
state of a workload doesn't wait behind repeated ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from niyanta.aio import jittered
from niyanta.cluster.status.fair_writes import FairWrites
from niyanta.cluster.status.write_pace import WritePace

REFUSALS = 3
"""Refusals in a row after which a namespace refuses its statuses, until it accepts one."""

FIRST_REPEAT_SECONDS = 2.0
LONGEST_REPEAT_SECONDS = 300.0
"""Range of the time before a refused status is sent again, without jitter."""

CONCURRENCY = 4
"""Most such writes under way; a namespace has at most half of them."""

PAUSE_SECONDS = 0.5
"""Time for which a write waits in its place while its namespace refuses, so that at most CONCURRENCY / PAUSE_SECONDS
are sent in a second."""

LONGEST_PACED_SECONDS = 5.0
"""Longest wait for the pace."""

MOST_NAMESPACES = 10_000
"""Namespaces whose refusals are remembered."""


def repeat_after(refusals: int) -> float:
    """Seconds until a status is sent again that was refused so many times in a row."""
    return jittered(min(FIRST_REPEAT_SECONDS * 2.0 ** min(refusals - 1, 16), LONGEST_REPEAT_SECONDS))


class RefusedWrites:
    """The queue of these writes, and the namespaces that refuse."""

    def __init__(self, write: Callable[[str], Awaitable[bool | None]], pace: WritePace) -> None:
        """`write`: as `FairWrites` takes it. `pace`: of all statuses; it is asked only where statuses are accepted."""
        self._write = write
        self._pace = pace
        self._in_a_row: dict[str, int] = {}
        """Namespace -> refusals since it last accepted a status."""
        self._writes = FairWrites(self._turn, concurrency=CONCURRENCY)

    def put(self, namespace: str, customer: str, workload_id: str, *, again: bool) -> None:
        """Write the status of a workload when it is its turn. `again`: it was refused before."""
        # Repeated statuses of a namespace are a queue of their own, so that others find out that it accepts again.
        self._writes.put(namespace, "" if again else customer, (namespace, workload_id))

    def close(self) -> None:
        """Cancel everything."""
        self._writes.close()

    def clear(self) -> None:
        """Forget which namespaces refuse."""
        self._in_a_row.clear()

    def refuses(self, namespace: str) -> bool:
        """True if the last statuses of the namespace were refused."""
        return self._in_a_row.get(namespace, 0) >= REFUSALS

    def refused(self, namespace: str) -> None:
        """A status in this namespace was refused."""
        if len(self._in_a_row) >= MOST_NAMESPACES:
            self._in_a_row.clear()
        self._in_a_row[namespace] = self._in_a_row.get(namespace, 0) + 1

    def accepted(self, namespace: str) -> None:
        """A status in this namespace was written."""
        self._in_a_row.pop(namespace, None)

    async def _turn(self, item: tuple[str, str]) -> bool | None:
        namespace, workload_id = item
        if namespace in self._in_a_row:
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            await asyncio.sleep(min(self._pace.take(time.monotonic()), LONGEST_PACED_SECONDS))
        return await self._write(workload_id)
