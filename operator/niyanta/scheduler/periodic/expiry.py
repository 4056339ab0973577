"""Expiry: deletes the finished objects that `finished_objects` has chosen, in tasks beside the leader's loop.

Namespaces take turns, and one whose deletions fail (a webhook that refuses, or doesn't answer) pauses alone, so that it
delays neither the loop nor the deletions in others. Objects are deleted by UID; their rows stay as history.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import prometheus_client

from niyanta.aio import Backoff
from niyanta.containment import Boundary, record
from niyanta.observability import log
from niyanta.observability.gauges import LeaderGauge
from niyanta.plain_text import plain
from niyanta.scheduler.cluster_api import ClusterWrites, LeaseLostError, PodWriteError, WriteProblem
from niyanta.scheduler.periodic.finished_objects import ChosenObject, DeletionCause
from niyanta.scheduler.pods.namespace_gate import NamespaceGates
from niyanta.scheduler.state import SchedulerState

logger = log.get(__name__)

CONCURRENCY = 8
"""Most concurrent deletions. Expiry isn't urgent, and connections must be left for pods."""

MOST_UNDER_WAY = 4_000
MOST_UNDER_WAY_IN_NAMESPACE = 100
"""Most deletions that have begun or wait for their turn."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
"""Range of the time for which no deletion begins in a namespace after one has failed, without jitter."""

KEPT = LeaderGauge("niyanta_finished_objects", "Finished Workload objects in the cluster")
DELAY = LeaderGauge(
    "niyanta_finished_object_deletion_delay_seconds",
    "Time for which the oldest deletion of a finished Workload object has been due; 0 when none is",
)
DELETED = prometheus_client.Counter(
    "niyanta_finished_objects_deleted_total",
    "Finished Workload objects that were deleted: their time to live was over, or they exceeded the limit of a "
    "namespace or of all",
    ["cause"],
)
for _cause in DeletionCause:
    DELETED.labels(_cause.value)


@dataclass(slots=True)
class _Pause:
    """A namespace whose last deletion has failed. `until`: monotonic seconds."""

    until: float = 0.0
    backoff: Backoff = field(
        default_factory=lambda: Backoff(first_seconds=FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS)
    )


class ObjectExpiry:
    """The deletions of one leadership; each object has at most one at a time."""

    def __init__(self, state: SchedulerState, cluster: ClusterWrites, *, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called when a request finds leadership lost."""
        self._state = state
        self._cluster = cluster
        self._on_lost = on_lost
        self._gates = NamespaceGates(CONCURRENCY)
        self._rate = state.settings.finished_object_deletions_per_second
        self.allowed = 0.0
        """Deletions that may begin now."""
        self._allowed_at = time.monotonic()
        self._pauses: dict[str, _Pause] = {}
        self._under_way: dict[asyncio.Task[None], None] = {}
        self._in_namespace: Counter[str] = Counter()

    @property
    def under_way(self) -> int:
        """Number of deletions that have begun or wait for their turn."""
        return len(self._under_way)

    def run(self) -> None:
        """Choose objects and begin deletions, as many as the rate allows. Called in the leader's loop."""
        now_us, finished = self._state.clock.now(), self._state.finished_objects
        finished.choose(now_us)
        now = time.monotonic()
        # No more than a second's deletions at once, however long nothing was to be deleted.
        earned = (now - self._allowed_at) * self._rate
        self.allowed, self._allowed_at = min(max(1.0, self._rate), self.allowed + earned), now
        waiting = finished.namespaces_waiting()
        # The pause of a namespace whose only chosen object is under way stays: its failure is to double it.
        needed = self._in_namespace.keys() | waiting
        self._pauses = {name: pause for name, pause in self._pauses.items() if name in needed}
        open_ = [name for name in waiting if self._may_begin(name, now)]
        while open_ and self.allowed >= 1.0 and self.under_way < MOST_UNDER_WAY:
            still_open = []
            for namespace in open_:
                if self.allowed < 1.0 or not self._may_begin(namespace, now):
                    continue
                chosen = finished.take(namespace)
                if chosen is not None:
                    self.allowed -= 1.0
                    self._begin(chosen)
                    still_open.append(namespace)
            open_ = still_open
        KEPT.set(len(finished))
        DELAY.set(finished.delay_us(now_us) / 1e6)

    async def close(self) -> None:
        """Cancel all deletions; the next leader chooses again."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        KEPT.clear()
        DELAY.clear()

    def _may_begin(self, namespace: str, now: float) -> bool:
        pause = self._pauses.get(namespace)
        if pause is not None and (now < pause.until or self._in_namespace[namespace]):
            return False  # after a failure one deletion at a time, until one succeeds
        return self._in_namespace[namespace] < MOST_UNDER_WAY_IN_NAMESPACE

    def _begin(self, chosen: ChosenObject) -> None:
        namespace = chosen.obj.namespace
        task = asyncio.create_task(self._run(chosen), name=f"expire {chosen.obj.uid}")
        self._under_way[task] = None
        self._in_namespace[namespace] += 1

        def ended(task: asyncio.Task[None]) -> None:
            del self._under_way[task]
            self._in_namespace[namespace] -= 1
            if not self._in_namespace[namespace]:
                del self._in_namespace[namespace]

        task.add_done_callback(ended)

    async def _run(self, chosen: ChosenObject) -> None:
        obj = chosen.obj
        problem = ""
        gate = self._gates.of(obj.namespace, obj.customer)
        if not await gate.enter():
            self._failed(chosen, "deletions in its namespace fail")
            return
        answered = False
        try:
            await self._cluster.delete_workload(obj.namespace, obj.name, obj.uid)
            answered = True
        except LeaseLostError:
            self._on_lost()
            return
        except PodWriteError as error:
            answered = error.problem is not WriteProblem.UNAVAILABLE
            problem = str(error)
        except Exception as error:
            record(Boundary.OBJECT_WRITE, obj.uid, error)
            problem = type(error).__name__
        finally:
            gate.leave(answered)
        if problem:
            self._failed(chosen, problem)
            return
        self._pauses.pop(obj.namespace, None)
        self._state.finished_objects.forget(obj.uid)
        DELETED.labels(chosen.cause.value).inc()
        logger.info(
            "a finished workload's object was deleted",
            workload=f"{obj.namespace}/{obj.name}",
            uid=obj.uid,
            cause=chosen.cause.value,
        )

    def _failed(self, chosen: ChosenObject, problem: str) -> None:
        """The object waits for another turn, and its namespace pauses."""
        obj = chosen.obj
        self._state.finished_objects.give_back(chosen)
        now = time.monotonic()
        pause = self._pauses.setdefault(obj.namespace, _Pause())
        if now >= pause.until:  # deletions that began together count as one failure
            pause.until = now + pause.backoff.next()
        logger.warning(
            "a finished workload's object was not deleted",
            workload=f"{obj.namespace}/{obj.name}",
            uid=obj.uid,
            error=plain(problem, 300),
        )
