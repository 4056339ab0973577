"""Workloads without room in the budget of memory: loaded again when there is room.

The leader's loop runs it. Objects are read afresh in tasks beside the loop, which no slow or failing read delays, and
go through admission again in a later round, as if they had changed. Customers' namespaces take turns. Rows of the REST
door stay in Postgres, from where `backlog.loader` reads them again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

from niyanta.aio import Timer
from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.intake.admission import Admission, Manifest
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.state import SchedulerState

logger = log.get(__name__)

LOAD_EVERY_SECONDS = 2.0
MOST_UNDER_WAY = 20
"""Most objects that are being read, or were read and wait for admission."""

MOST_UNDER_WAY_IN_NAMESPACE = 10
_Account = tuple[str, str]


class UnloadedWorkloads:
    """Loads the oldest unloaded workloads of each customer and namespace that has room."""

    def __init__(self, state: SchedulerState, *, cluster: ClusterApi, admission: Admission) -> None:
        self._state = state
        self._cluster = cluster
        self._admission = admission
        self._timer = Timer(LOAD_EVERY_SECONDS)
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._read: dict[str, Manifest] = {}
        """Objects for admission, by the id of their workload."""
        self._turns: dict[_Account, int] = {}
        """Account with unloaded workloads -> number of its last turn."""
        self._turn = 0

    async def run(self) -> None:
        """Admit the objects that were read since the last call, and start to read others, if it is time."""
        await self._admit()
        if not self._state.workloads.unloaded or not self._timer.due():
            return
        for tracked in self._choose():
            self._reading[tracked.id] = asyncio.create_task(self._load(tracked), name=f"load {tracked.id}")

    async def close(self) -> None:
        """Cancel the reads: leadership is over."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _admit(self) -> None:
        """One by one, because each may use up the room. Those that are left after an error are admitted next time."""
        for id_, obj in list(self._read.items()):
            if id_ in self._state.workloads.unloaded:
                await self._admission.take_in([obj])
            del self._read[id_]

    def _choose(self) -> list[TrackedWorkload]:
        """The workloads to read now. Accounts take turns, those first whose last turn was longest ago."""
        workloads = self._state.workloads
        under_way = {*self._reading, *self._read}
        busy: Counter[_Account] = Counter()
        found: defaultdict[_Account, list[TrackedWorkload]] = defaultdict(list)
        roomy: dict[_Account, bool] = {}
        for id_ in workloads.unloaded:
            tracked = workloads.get(id_)
            if tracked is None:
                continue
            account = tracked.row.customer, tracked.row.namespace
            if id_ in under_way:
                busy[account] += 1
            elif len(found[account]) < MOST_UNDER_WAY_IN_NAMESPACE:
                if account not in roomy:
                    roomy[account] = workloads.has_room(*account)
                if roomy[account]:
                    found[account].append(tracked)
        self._turns = {account: self._turns.get(account, 0) for account in found}
        order = sorted(found, key=self._turns.__getitem__)
        chosen: list[TrackedWorkload] = []
        for place in range(MOST_UNDER_WAY_IN_NAMESPACE):
            for account in order:
                if len(chosen) >= MOST_UNDER_WAY - len(under_way):
                    return chosen
                if place < len(found[account]) and busy[account] < MOST_UNDER_WAY_IN_NAMESPACE:
                    chosen.append(found[account][place])
                    busy[account] += 1
                    self._turn += 1
                    self._turns[account] = self._turn
        return chosen

    async def _load(self, tracked: TrackedWorkload) -> None:
        """Read the object of a workload. One that can't be read goes behind the others."""
        name, uid = tracked.row.object or ("", "")
        try:
            obj = await self._cluster.get_workload(tracked.row.namespace, name)
        except SharedFaultError as error:
            logger.warning("an object was not read", workload=tracked.id, error=str(error))
        except Exception as error:
            record(Boundary.OBJECT, tracked.id, error)
        else:
            if obj is not None and obj["metadata"]["uid"] == uid:
                self._read[tracked.id] = obj
                return
        finally:
            del self._reading[tracked.id]
        unloaded = self._state.workloads.unloaded
        if tracked.id in unloaded:
            del unloaded[tracked.id]
            unloaded[tracked.id] = None
