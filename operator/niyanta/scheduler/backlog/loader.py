"""Loads the backlog of the REST door: counts the stored classes in Postgres, and brings the first rows of each into
memory, where `state.backlog` finds room for them.

One round does a bounded part of each step, so that no backlog delays the rest of the leader's work.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from niyanta.aio import Timer, in_slices
from niyanta.containment import SharedFaultError
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.resources.compile.queue_base import spec_class
from niyanta.resources.compile.requirements import parse_spec
from niyanta.resources.models.base import InvalidManifestError
from niyanta.scheduler.backlog.row_changes import RowChanges
from niyanta.scheduler.backlog.row_reader import SLICE_ROWS, RowReader
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.periodic.horizon import HorizonGauge
from niyanta.scheduler.state import SchedulerState
from niyanta.store.queue_classes import ClassAssignment
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager

logger = log.get(__name__)

PASS_EVERY_SECONDS = 60.0
"""Time between two passes over all classes; between them, only classes that changed are counted."""

PASS_PAGE_CLASSES = 1_000
PASS_PAGES_PER_ROUND = 5

COUNT_EVERY_SECONDS = 1.0
COUNT_CLASSES = 500
"""Classes that changed are counted anew, so many at once."""

LOAD_CLASSES = 100
"""Most classes of one request for their first rows."""

LOAD_SECONDS = 0.25
"""Time after which a round loads no further classes."""

UNCLASSED_ROWS = 200
"""Rows that are given a queue class in one round."""

UNLOAD_EVERY_SECONDS = 5.0
UNLOAD_ROWS = 1_000
"""Rows of one customer that make room for its other classes, so many at once: as many classes as the engine retries
in the same time (`placing.cycle`)."""


class BacklogLoader:
    """Loads rows for one leadership."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        work_queue: WorkQueue,
        changes: RowChanges,
        reader: RowReader,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._work_queue = work_queue
        self._changes = changes
        self._reader = reader
        self._tick = tick
        self._horizon = HorizonGauge(store)
        self._pass = Timer(PASS_EVERY_SECONDS)
        self._after: tuple[str, str] | None = None
        """The class after which the pass goes on; None: no pass is under way."""
        self._count = Timer(COUNT_EVERY_SECONDS)
        self._unload = Timer(UNLOAD_EVERY_SECONDS)

    async def run(self) -> bool:
        """Run one round. Returns True if the queue may have changed."""
        # 1. Count: all classes now and then, the ones that changed each second.
        await self._count_all()
        if self._count.due():
            await self._count_changed()
        # 2. Give rows of earlier releases, and of reassigned workloads, a class.
        if self._changes.unclassed:
            await self._classify()
        # 3. Make room, and load the first rows of the classes that are due.
        if self._unload.due():
            self._make_room()
        loaded = False
        if self._after is None:  # within a pass, a better class may still be found
            loaded = await self._load()
        await self._reader.hold_unreadable()
        await self._horizon.measure()
        if self._after is not None or self._changes.unclassed:
            self._work_queue.wake()
        return loaded

    # --- counting ---

    async def _count_all(self) -> None:
        backlog = self._state.backlog
        if self._after is None:
            if not self._pass.due():
                return
            backlog.begin_pass()
            self._after = "", ""
        for _ in range(PASS_PAGES_PER_ROUND):
            page = await self._store.get_waiting_classes(self._after, PASS_PAGE_CLASSES)
            self._tick()
            backlog.counted(page)
            if len(page) < PASS_PAGE_CLASSES:
                self._after = None
                backlog.end_pass()
                return
            self._after = page[-1].customer, page[-1].queue_class

    async def _count_changed(self) -> None:
        names = self._state.backlog.take_uncounted(COUNT_CLASSES)
        if names:
            self._state.backlog.counted(await self._store.get_waiting_classes_of(names), names)

    # --- classes of rows that have none ---

    async def _classify(self) -> None:
        rows = await self._store.get_unclassed(UNCLASSED_ROWS)
        assignments: list[ClassAssignment] = []
        async for part in in_slices(rows, SLICE_ROWS, tick=self._tick):
            assignments += map(assignment, part)
        classes = await self._store.set_queue_classes(assignments, self._state.epoch)
        # Rows that were edited meanwhile stay without a class; the next read finds them.
        self._changes.unclassed = len(rows) == UNCLASSED_ROWS or len(classes) < len(rows)

    # --- loading ---

    async def _load(self) -> bool:
        backlog, started = self._state.backlog, time.monotonic()
        loaded = False
        while backlog.due and time.monotonic() - started < LOAD_SECONDS:
            requests = backlog.to_load(LOAD_CLASSES, self._state.workloads.has_room)
            if not requests:
                break
            ids: list[str] = []
            for heads in await self._store.get_class_heads(requests):
                ids += backlog.loaded(heads)
            loaded = await self._reader.load(ids) or loaded
            self._work_queue.wake()
        return loaded

    def _make_room(self) -> None:
        for id_ in self._state.backlog.to_unload(UNLOAD_ROWS, self._may_unload):
            self._state.workloads.drop(id_)

    def _may_unload(self, workload_id: str) -> bool:
        """True for a workload that waits and whose class is parked."""
        tracked = self._state.workloads.get(workload_id)
        found = self._state.workloads.queue.class_of(workload_id)
        return (
            tracked is not None
            and tracked.row.phase is Phase.PENDING
            and not tracked.applying
            and found is not None
            and found.park is not None
        )


def assignment(row: WorkloadRow) -> ClassAssignment:
    """The base of the class of a row that has none. A spec that can't be read is a class of its own."""
    place = {"namespace": row.namespace, "customer": row.customer}
    try:
        found = spec_class(parse_spec(row.spec))
    except InvalidManifestError:
        return ClassAssignment(row.id, row.generation, row.customer, row.id)
    except SharedFaultError:
        raise
    except Exception:
        return ClassAssignment(row.id, row.generation, row.customer, row.id)
    return ClassAssignment(row.id, row.generation, row.customer, found.base(**place), found.visible_keys(**place))
