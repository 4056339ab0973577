"""Reads pending rows of the REST door from Postgres into memory. A row that can't be read is Held, alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.rows import RowChange, WorkloadRow
from niyanta.store.state import StateManager

SLICE_ROWS = 50
"""Rows handled before other tasks of the event loop run."""

MOST_UNREADABLE_ROWS = 1_000
"""Unreadable rows remembered, so that they are not read again each time."""


class UnreadableRowError(Exception):
    """A stored row can't be used: it was written by another release, or by a broken process."""


class RowReader:
    """Compiles rows and puts them into memory."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterReads,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._transitions = transitions
        self._tick = tick
        self._unreadable: dict[str, int] = {}
        """Row that could not be read -> its version."""
        self._unheld: list[tuple[WorkloadRow, Exception]] = []
        """Unreadable rows that are not Held yet."""

    async def load(self, ids: Sequence[str]) -> bool:
        """Put those of the rows that are pending and not in memory into it, in this order. True if there were any."""
        wanted = [id_ for id_ in ids if self._state.workloads.get(id_) is None and id_ not in self._unreadable]
        if not wanted:
            return False
        rows = {row.id: row for row in await self._store.get_workloads(wanted, with_spec=False)}
        ordered = [row for id_ in wanted if (row := rows.get(id_)) is not None and row.phase is Phase.PENDING]
        backlog = self._state.backlog
        loaded, place = False, 0
        backlog.loading(wanted)
        try:
            async for row in self._store.with_specs(ordered):
                if place % SLICE_ROWS == 0:
                    self._tick()
                    await asyncio.sleep(0)
                place += 1
                if row.phase is Phase.PENDING and self._state.workloads.get(row.id) is None:
                    loaded = self.contained(row, self._track) or loaded
        finally:
            backlog.loading(())
        return loaded

    def contained(self, row: WorkloadRow, handle: Callable[[WorkloadRow], bool]) -> bool:
        """Handle one row; a row on which the code raises is left out, and Held by `hold_unreadable`."""
        try:
            return handle(row)
        except SharedFaultError:
            raise
        except Exception as error:
            if self._unreadable.get(row.id) == row.version:
                return False
            record(Boundary.ROW, row.id, error)
            while len(self._unreadable) >= MOST_UNREADABLE_ROWS:
                del self._unreadable[next(iter(self._unreadable))]
            self._unreadable[row.id] = row.version
            if row.phase is Phase.PENDING and self._state.workloads.get(row.id) is None:
                self._unheld.append((row, error))
            return False

    def _track(self, row: WorkloadRow) -> bool:
        spec, requirements, subject = object_to_row.read_row(row, self._cluster)
        if requirements is None:
            raise UnreadableRowError("the requirements of the row don't compile")
        tracked = TrackedWorkload(row, spec, requirements, subject)
        self._state.workloads.put(tracked)
        self._transitions.settle(tracked)
        return True

    async def hold_unreadable(self) -> None:
        """Hold rows that could not be read, so that their owners see it. The next leader looks at them again."""
        if not self._unheld:
            return
        unheld, self._unheld = self._unheld, []
        changes = [
            RowChange(row.id, row.version, Event.HOLD, RowReason.INTERNAL_ERROR, _message(error))
            for row, error in unheld
        ]
        result = await self._store.update_workload_status_batch(changes, epoch=self._state.epoch)
        for row in result.applied:
            self._unreadable[row.id] = row.version


def _message(error: Exception) -> str:
    """Message for the row's owner; the error's own text is in the operator's log."""
    return f"the operator can't read this workload ({type(error).__name__}); its next start looks at it again"
