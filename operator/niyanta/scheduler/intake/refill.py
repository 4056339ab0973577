"""Refill: reads rows that other processes changed, and refills the queue from a large REST backlog in Postgres.

Pending REST rows in memory are bounded (`refill_room`): the first of the queue, the first of each requirements class
and of each customer in turn (so that many workloads that fit nowhere, or one customer's backlog, don't hide the
others), and the oldest. The rest stays in Postgres. The work of one round is bounded, and the refill also runs while
changes lag behind.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from niyanta.aio import in_slices
from niyanta.containment import Boundary, SharedFaultError, record
from niyanta.lifecycle import Door, Event, Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.refill_room import Claim, RefillRoom
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.periodic.horizon import HorizonGauge
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.refill import RefillRequest
from niyanta.store.rows import Cursor, RowChange, WorkloadRow
from niyanta.store.state import StateManager

logger = log.get(__name__)

WINDOW_ROWS = 20_000
"""Most pending REST rows in memory, without the reserve."""

RESERVE_ROWS = 5_000
"""Further rows: the first of the queue, and those of customers with few rows in memory."""

CUSTOMER_ROWS = 5_000
"""Most rows of one customer in memory, apart from the first of the queue and of the classes."""

REFILL_BELOW_ROWS = 5_000
"""With fewer pending REST rows in memory, a refill looks deep into the queue."""

FIRST_ROWS = 1_000
"""Rows at the front of the queue that a refill looks at in any case."""

FOLLOW_EVERY_SECONDS = 1.0
"""Time between two reads of changes without a hint (NOTIFY)."""

FOLLOW_AT_LEAST_SECONDS = 0.05
"""Least time between two reads of changes."""

REFILL_EVERY_SECONDS = 1.0
"""Least time between two refills, so that refills without new rows don't become a busy loop."""

REFILL_ROWS_PER_CLASS = 50
REFILL_CLASSES = 200
REFILL_ROWS_PER_CUSTOMER = 200
REFILL_CUSTOMERS = 20
REFILL_OLDEST_ROWS = 500
CHANGES_PAGE_ROWS = 1000
PAGES_PER_ROUND = 4
"""Pages of changes, and pages of rows of a refill, in one round of the leader."""

LOAD_PAGE_ROWS = 500
SLICE_ROWS = 50
"""Rows handled before other tasks of the event loop run."""

MOST_UNREADABLE_ROWS = 1_000
"""Unreadable rows remembered, so that they are not read again by each refill."""


class Refill:
    """Brings pending rows from Postgres into the leader's memory."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterReads,
        work_queue: WorkQueue,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._work_queue = work_queue
        self._transitions = transitions
        self._tick = tick
        self.more = True
        """Postgres may hold pending rows that aren't in memory."""
        self._cursor = Cursor()
        self._followed_at = 0.0
        self._refilled_at = 0.0
        self._horizon = HorizonGauge(store)
        self._after_class = ""
        """The requirements class after which the next refill looks at classes; "": at the first."""
        self._after_customer = ""
        self._chosen: deque[tuple[str, str]] = deque()
        """Id and customer of rows that the last refill chose and that are not loaded yet."""
        self._arrived: list[str] = []
        """Ids of new rows among the changes, which carry no specs."""
        self._unreadable: dict[str, int] = {}
        """Row that could not be read -> its version."""
        self._unheld: list[tuple[WorkloadRow, Exception]] = []
        """Unreadable rows that are not Held yet."""

    def is_deep(self) -> bool:
        """True if Postgres may hold pending rows that aren't in memory, and memory holds many."""
        return self.more and self._state.workloads.waiting_rest() >= REFILL_BELOW_ROWS

    def expect_more(self) -> None:
        """Postgres has pending rows that aren't in memory."""
        self.more = True

    async def begin(self) -> None:
        """Start reading changes from now on; called before the rows are loaded."""
        self._cursor = await self._store.cursor()

    async def follow(self) -> bool:
        """Apply rows that other processes changed, and refill. Returns True if the queue may have changed."""
        since = time.monotonic() - self._followed_at
        is_behind = self._cursor.more or bool(self._chosen)
        if since < FOLLOW_AT_LEAST_SECONDS or (
            since < FOLLOW_EVERY_SECONDS and not is_behind and not self._work_queue.take_hint()
        ):
            return False
        self._followed_at = time.monotonic()
        room = self._room()
        news = await self._apply_changes(room)
        news = await self._refill(room) or news
        await self._hold_unreadable()
        await self._horizon.measure()
        if self._cursor.more or self._chosen:
            self._work_queue.wake()
        return news

    async def _apply_changes(self, room: RefillRoom) -> bool:
        news = False
        for _ in range(PAGES_PER_ROUND):
            rows, self._cursor = await self._store.changes_since(
                self._cursor, limit=CHANGES_PAGE_ROWS, not_by=self._state.epoch
            )
            async for part in in_slices(rows, SLICE_ROWS, tick=self._tick):
                for row in part:
                    news = self._contained(row, lambda row: self._changed(row, room)) or news
            news = await self._load_arrived() or news
            if not self._cursor.more:
                return news
        # Rows may wait behind the changes that were not read yet.
        self.more = True
        return news

    async def _load_arrived(self) -> bool:
        arrived, self._arrived = self._arrived, []
        try:
            return await self._load(arrived)
        except SharedFaultError:
            self.more = True  # they are found again in Postgres
            raise

    def _contained(self, row: WorkloadRow, handle: Callable[[WorkloadRow], bool]) -> bool:
        """Handle one row; a row on which the code raises is left out, and Held later in the round."""
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

    def _changed(self, row: WorkloadRow, room: RefillRoom) -> bool:
        tracked = self._state.workloads.get(row.id)
        if tracked is not None:
            if tracked.row.version >= row.version:
                return False
            replaced = row.door is Door.REST and row.generation != tracked.row.generation
            self._transitions.follow(tracked, row)
            if replaced and row.phase is Phase.PENDING and not tracked.applying:
                self._state.workloads.drop(row.id)  # its spec is read, compiled and checked anew
                self._arrived.append(row.id)
            return True
        if row.phase is Phase.CANCELLED and row.object_uid not in self._state.finished_objects:
            # By REST, while it was suspended after a placement. Its own time to live, which wasn't read, counts from
            # the next leader on.
            self._state.finished_objects.note_row(row, None)
        if row.phase is not Phase.PENDING or row.door is not Door.REST:
            return False
        if not room.admit(row.customer, Claim.ANY):
            self.more = True
            return False
        self._arrived.append(row.id)
        return False

    def _track(self, row: WorkloadRow) -> bool:
        spec, requirements, subject = object_to_row.read_row(row, self._cluster)
        if requirements is None:
            raise UnreadableRowError("the requirements of the row don't compile")
        tracked = TrackedWorkload(row, spec, requirements, subject)
        self._state.workloads.put(tracked)
        self._transitions.settle(tracked)
        return True

    # --- The backlog -------------------------------------------------------------------------------------------------

    def _room(self) -> RefillRoom:
        waiting = Counter(self._state.workloads.waiting_rest_by_customer())
        waiting.update(customer for _, customer in self._chosen)
        return RefillRoom(
            waiting,
            window=WINDOW_ROWS,
            reserve=RESERVE_ROWS,
            per_customer=CUSTOMER_ROWS,
            assured=REFILL_ROWS_PER_CUSTOMER,
        )

    async def _refill(self, room: RefillRoom) -> bool:
        now = time.monotonic()
        if not self._chosen and self.more and now - self._refilled_at >= REFILL_EVERY_SECONDS:
            self._refilled_at = now
            await self._choose(room)
        loaded = False
        for _ in range(PAGES_PER_ROUND):
            page = [self._chosen[place][0] for place in range(min(LOAD_PAGE_ROWS, len(self._chosen)))]
            if not page:
                break
            loaded = await self._load(page) or loaded
            for _ in page:
                self._chosen.popleft()
        return loaded

    async def _choose(self, room: RefillRoom) -> None:
        """Choose the rows to load: of those that Postgres proposes, the ones that memory lacks and has room for."""
        is_low = self._state.workloads.waiting_rest() < REFILL_BELOW_ROWS
        wanted = RefillRequest(
            top=WINDOW_ROWS // 2 if is_low else FIRST_ROWS,
            oldest=REFILL_OLDEST_ROWS,
            per_class=REFILL_ROWS_PER_CLASS,
            classes=REFILL_CLASSES if is_low else REFILL_CLASSES // 4,
            after_class=self._after_class,
            per_customer=REFILL_ROWS_PER_CUSTOMER,
            customers=REFILL_CUSTOMERS,
            after_customer=self._after_customer,
        )
        found = await self._store.get_refill(wanted, door=Door.REST)
        self._after_class, self._after_customer = found.next_class, found.next_customer
        first = frozenset(found.top[:FIRST_ROWS]) | found.oldest
        refused = 0
        for id_, customer in found.customers.items():
            if self._state.workloads.get(id_) is not None or id_ in self._unreadable:
                continue
            claim = Claim.FIRST if id_ in first else Claim.CLASS if id_ in found.of_classes else Claim.ANY
            if room.admit(customer, claim):
                self._chosen.append((id_, customer))
            else:
                refused += 1
        self.more = refused > 0 or not found.is_complete
        if self._chosen:
            logger.info("queue refilled", rows=len(self._chosen), more=self.more)

    async def _load(self, ids: Sequence[str]) -> bool:
        if not ids:
            return False
        rows = {row.id: row for row in await self._store.get_workloads(ids, with_spec=False)}
        ordered = [row for id_ in ids if (row := rows.get(id_)) is not None and row.phase is Phase.PENDING]
        loaded, place = False, 0
        async for row in self._store.with_specs(ordered):
            if place % SLICE_ROWS == 0:
                self._tick()
                await asyncio.sleep(0)
            place += 1
            if row.phase is Phase.PENDING and self._state.workloads.get(row.id) is None:
                loaded = self._contained(row, self._track) or loaded
        return loaded

    # --- Unreadable rows ---------------------------------------------------------------------------------------------

    async def _hold_unreadable(self) -> None:
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


class UnreadableRowError(Exception):
    """A stored row can't be used: it was written by another release, or by a broken process."""


def _message(error: Exception) -> str:
    """Message for the row's owner; the error's own text is in the operator's log."""
    return f"the operator can't read this workload ({type(error).__name__}); its next start looks at it again"
