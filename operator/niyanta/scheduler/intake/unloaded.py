"""Workloads without room in their customer's budget of memory: loaded again when there is room.

The leader's loop runs it. The object is read afresh and goes through admission again, as if it had changed. Rows of the
REST door stay in Postgres, from where `refill` reads them again.
"""

from __future__ import annotations

from collections.abc import Callable

from niyanta.aio import Timer, gathered, ticking
from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.intake.admission import Admission, Manifest
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.workload_cache import TrackedWorkload

LOAD_EVERY_SECONDS = 2.0
LOADED_AT_ONCE = 20
ROOM_SHARE = 0.1
"""Share of the budget that must be free, so that a workload isn't loaded in vain again and again."""


class UnloadedWorkloads:
    """Loads the oldest unloaded workloads whose customer has room."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        cluster: ClusterApi,
        admission: Admission,
        on_room: Callable[[], None],
        tick: Callable[[], None],
    ) -> None:
        """`on_room` is called when REST rows that were left in Postgres may have room."""
        self._state = state
        self._cluster = cluster
        self._admission = admission
        self._on_room = on_room
        self._tick = tick
        self._timer = Timer(LOAD_EVERY_SECONDS)

    async def run(self) -> None:
        """Load some, if it is time."""
        workloads, waiting = self._state.workloads, self._state.without_room
        if not (workloads.unloaded or waiting) or not self._timer.due():
            return
        roomy = {account for account in waiting if self._has_room(*account)}
        if roomy:
            waiting -= roomy
            self._on_room()
        chosen: list[TrackedWorkload] = []
        for id_ in list(workloads.unloaded):
            tracked = workloads.get(id_)
            if tracked is None or not self._has_room(tracked.row.customer, tracked.row.namespace):
                continue
            chosen.append(tracked)
            if len(chosen) == LOADED_AT_ONCE:
                break
        objects = await ticking(self._tick, gathered(self._read(tracked) for tracked in chosen))
        for obj in objects:  # one by one, because each may use up the room
            if obj is not None:
                await self._admission.take_in([obj])

    def _has_room(self, customer: str, namespace: str) -> bool:
        spare = int(ROOM_SHARE * self._state.settings.customer_memory_budget)
        return self._state.workloads.memory.has_room((customer, namespace), spare)

    async def _read(self, tracked: TrackedWorkload) -> Manifest | None:
        """The object of a workload; None if it can't be loaded now."""
        name, uid = tracked.row.object or ("", "")
        try:
            obj = await self._cluster.get_workload(tracked.row.namespace, name)
        except SharedFaultError:
            raise
        except Exception as error:
            record(Boundary.OBJECT, tracked.id, error)
            return None
        return obj if obj is not None and obj["metadata"]["uid"] == uid else None
