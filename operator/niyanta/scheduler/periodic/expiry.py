"""Expiry: deletes the objects of workloads whose ttlSecondsAfterFinished is over, in tasks beside the leader's loop.

`wake_ups` submits due rows and takes the results. Namespaces take turns, so that deletions that fail or are slow in one
(a webhook that refuses, or doesn't answer) delay neither the loop nor the deletions in others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from niyanta.aio import Backoff
from niyanta.containment import Boundary, record
from niyanta.observability import log
from niyanta.plain_text import plain
from niyanta.scheduler.cluster_api import ClusterWrites, LeaseLostError, PodWriteError, WriteProblem
from niyanta.scheduler.pods.namespace_gate import NamespaceGates
from niyanta.store.rows import WorkloadRow

logger = log.get(__name__)

CONCURRENCY = 8
"""Most concurrent deletions. Expiry isn't urgent, and connections must be left for pods."""

MOST_UNDER_WAY = 4_000
"""Most rows that wait for their deletion or its result, to bound memory."""

MOST_UNDER_WAY_IN_NAMESPACE = 1_000

MOST_TRIES = 4
"""Tries of one deletion; afterwards its row comes due again later."""

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 20.0
"""Range of the delay before a failed deletion is repeated, without jitter."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A row whose object doesn't exist any more. The row stays as history."""

    id: str
    namespace: str
    customer: str
    name: str


class ObjectExpiry:
    """The deletions of one leadership; each row has at most one at a time."""

    def __init__(self, cluster: ClusterWrites, *, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called when a request finds leadership lost."""
        self._cluster = cluster
        self._on_lost = on_lost
        self._gates = NamespaceGates(CONCURRENCY)
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._in_namespace: Counter[str] = Counter()
        self.finished: list[Expired] = []
        """Rows whose objects are gone; `wake_ups` removes them when it has stored that."""

    @property
    def under_way(self) -> int:
        """Number of deletions that have begun or wait for their turn."""
        return len(self._under_way)

    def submit(self, row: WorkloadRow) -> None:
        """Start deleting the object of a finished row. Nothing happens if it is being deleted already, or while too
        many others are: the row comes due again."""
        if row.object is None:
            self.finished.append(Expired(row.id, row.namespace, row.customer, row.name))
            return
        full = len(self._under_way) >= MOST_UNDER_WAY or len(self.finished) >= MOST_UNDER_WAY
        if full or row.id in self._under_way or self._in_namespace[row.namespace] >= MOST_UNDER_WAY_IN_NAMESPACE:
            return
        name, uid = row.object
        task = asyncio.create_task(
            self._run(Expired(row.id, row.namespace, row.customer, row.name), name, uid), name=f"expire {row.id}"
        )
        self._under_way[row.id] = task
        self._in_namespace[row.namespace] += 1
        task.add_done_callback(lambda _: self._ended(row.id, row.namespace))

    async def close(self) -> None:
        """Cancel all deletions; the next leader finds their rows due."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, row_id: str, namespace: str) -> None:
        self._under_way.pop(row_id, None)
        self._in_namespace[namespace] -= 1
        if not self._in_namespace[namespace]:
            del self._in_namespace[namespace]

    async def _run(self, row: Expired, name: str, uid: str) -> None:
        backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
        problem: PodWriteError | None = None
        for _ in range(MOST_TRIES):
            gate = self._gates.of(row.namespace, row.customer)
            if not await gate.enter():
                return
            succeeded = False
            problem = None
            try:
                await self._cluster.delete_workload(row.namespace, name, uid)
                succeeded = True
            except LeaseLostError:
                self._on_lost()
                return
            except PodWriteError as error:
                succeeded = error.problem is not WriteProblem.UNAVAILABLE
                problem = error
            except Exception as error:
                record(Boundary.OBJECT_WRITE, row.id, error)
                return
            finally:
                gate.leave(succeeded)
            if problem is None:
                self.finished.append(row)
                logger.info("finished workload expired", workload=f"{row.namespace}/{row.name}", id=row.id)
                return
            if succeeded:
                break  # a definite refusal: it is repeated when the row comes due again
            await asyncio.sleep(backoff.next())
        logger.warning("a finished workload was not deleted", id=row.id, error=plain(str(problem), 300))
