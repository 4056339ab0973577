"""The leader's cache of workloads: live rows with their compiled requirements, and the queue of placeable workloads.
Postgres is authoritative: the cache is loaded from it when leadership begins and updated with every commit of the
leader. Specs are kept as compressed text until dispatch, and all workloads share a budget of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from niyanta.engine.queue.order import QueueSettings
from niyanta.engine.queue.queue import Queue
from niyanta.engine.types import PendingWorkload, Requirements, Subject
from niyanta.lifecycle import Door, Phase
from niyanta.scheduler.backlog.backlog import Backlog
from niyanta.scheduler.memory.memory_budget import Account, MemoryBudget
from niyanta.scheduler.memory.queue_classes import QueueClasses
from niyanta.scheduler.memory.tally import Tally
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.waiting_changes import WaitingChanges
from niyanta.store.rows import WorkloadRow

ROOM_SHARE = 0.1
"""Share of the budget that must be free before more is loaded, so that no workload is loaded in vain again and again.
"""


def _account(row: WorkloadRow) -> Account:
    return row.customer, row.namespace


def _waits(tracked: TrackedWorkload) -> bool:
    return not tracked.row.phase.bound and not tracked.row.phase.terminal


class WorkloadCache:
    """Live workloads by id, and the queue of the workloads that may be placed."""

    def __init__(self, queue_settings: QueueSettings, *, budget_bytes: int) -> None:
        """`budget_bytes`: most bytes of one customer in one namespace (`MemoryBudget`)."""
        self.memory = MemoryBudget(budget_bytes)
        self.unloaded: dict[str, None] = {}
        """Workloads without their spec, oldest first."""
        self._tracked: dict[str, TrackedWorkload] = {}
        self._by_object: dict[str, str] = {}
        self._bound: dict[str, set[str]] = {}
        self.queue = Queue(queue_settings)
        self.classes = QueueClasses()
        self.backlog = Backlog()
        self.tally = Tally()
        self.changes = WaitingChanges()
        self.away: dict[str, None] = {}
        """Pending workloads that aren't in the queue: in backoff, or with pods that still stop."""
        self._spare_bytes = int(ROOM_SHARE * budget_bytes)

    def __len__(self) -> int:
        return len(self._tracked)

    def __contains__(self, workload_id: object) -> bool:
        return workload_id in self._tracked

    def __iter__(self) -> Iterator[TrackedWorkload]:
        return iter(list(self._tracked.values()))

    def get(self, workload_id: str) -> TrackedWorkload | None:
        """The workload with this id; None if it isn't in memory."""
        return self._tracked.get(workload_id)

    def put(self, tracked: TrackedWorkload) -> None:
        """Keep a workload in memory."""
        if tracked.requirements is not None:
            self.classes.note_terms(tracked.requirements, tracked.subject)
        self._tracked[tracked.id] = tracked
        self.account(tracked)
        self._note_bound(tracked.row)
        self.index_object(tracked)

    def account(self, tracked: TrackedWorkload) -> None:
        """Count the size of a workload. One that waits beyond the budget is unloaded, and a finished one keeps no
        spec."""
        self._forget_size(tracked.id)
        account = _account(tracked.row)
        if tracked.row.phase.terminal:
            tracked.drop_spec()
        elif _waits(tracked) and not tracked.unloaded and not self.memory.has_room(account, tracked.size()):
            tracked.unload()
            self.dequeue(tracked.id)
        if tracked.unloaded and _waits(tracked):
            self.unloaded[tracked.id] = None
        self.memory.count(tracked.id, account, tracked.size())
        self._note(tracked)

    def _forget_size(self, workload_id: str) -> None:
        self.unloaded.pop(workload_id, None)
        self.memory.forget(workload_id)

    def used_bytes(self, customer: str, namespace: str) -> int:
        """Bytes of the customer's workloads in the namespace."""
        return self.memory.used(customer, namespace)

    def index_object(self, tracked: TrackedWorkload) -> None:
        """Index the row of a REST submission by the UID of its object."""
        if tracked.row.object_uid is not None:
            self._by_object[tracked.row.object_uid] = tracked.id

    def of_object(self, uid: str) -> TrackedWorkload | None:
        """The workload that belongs to the Workload object with this UID."""
        return self._tracked.get(self._by_object.get(uid, uid))

    def has_room(self, customer: str, namespace: str) -> bool:
        """True if the customer's budget of bytes in the namespace has room for more workloads."""
        return self.memory.has_room((customer, namespace), self._spare_bytes)

    def bound_by_customer(self) -> dict[str, int]:
        """Number of placed and running workloads by customer."""
        return {customer: len(bound) for customer, bound in self._bound.items()}

    def drop(self, workload_id: str) -> None:
        """Remove a workload from memory."""
        tracked = self._tracked.pop(workload_id, None)
        self._forget_size(workload_id)
        if tracked is not None:
            self._bound[tracked.row.customer].discard(workload_id)
        if tracked is not None and tracked.row.object_uid is not None:
            self._by_object.pop(tracked.row.object_uid, None)
        self.backlog.unload(workload_id)
        self._leave_queue(workload_id)
        self.tally.forget(workload_id)
        self._come_back(workload_id)

    def select(self, phases: Iterable[Phase]) -> list[TrackedWorkload]:
        """All tracked workloads in one of `phases`."""
        wanted = frozenset(phases)
        return [tracked for tracked in self._tracked.values() if tracked.row.phase in wanted]

    def enqueue(self, tracked: TrackedWorkload, *, now: int) -> None:
        """Put a workload into the queue; `now` (microseconds) decides which worker exclusions still apply."""
        if tracked.requirements is None or tracked.parked or tracked.object_missing:
            return
        self.classes.note_terms(tracked.requirements, tracked.subject)
        before = self.queue.class_of(tracked.id)
        if before is not None:
            self.changes.in_class(before.name)
        name = self.name_class(tracked)
        self.changes.in_class(name)
        self.queue.update(pending(tracked.row, tracked.requirements, tracked.subject, now=now, queue_class=name))
        self._come_back(tracked.id)

    def name_class(self, tracked: TrackedWorkload) -> str:
        """The class of the queue that a workload with requirements belongs to, whether it is in the queue or not."""
        assert tracked.requirements is not None
        tracked.requirements, number = self.classes.share(tracked.requirements)
        tracked.class_name = self.classes.name(number, tracked.subject, tracked.row.replicas)
        return tracked.class_name

    def reclass(self) -> Iterator[None]:
        """Move queued workloads to other classes where label keys became visible; to be exhausted before a cycle, in
        slices."""
        for workload in self.classes.take_outdated(self.queue):
            number = self.classes.share(workload.requirements)[1]
            name = self.classes.name(number, workload.subject, workload.replicas)
            if name != workload.queue_class and self.queue.get(workload.id) is workload:
                self.queue.update(replace(workload, queue_class=name))
                self._tracked[workload.id].class_name = name
                self.changes.in_class(workload.queue_class)
                self.changes.in_class(name)
            yield

    def note_phase(self, tracked: TrackedWorkload) -> None:
        """Update the backlog, and the counts of customers' bound rows and of their bytes."""
        if tracked.id not in self._tracked:
            return
        if tracked.row.phase.terminal and tracked.packed:
            self.account(tracked)
        elif self.memory.account(tracked.id) != (account := _account(tracked.row)):
            self.memory.count(tracked.id, account, tracked.size())
        self._note_bound(tracked.row)
        self._note(tracked)
        if tracked.row.door is Door.REST and tracked.row.phase is Phase.PENDING:
            self.backlog.enter(tracked.row)
        else:
            self.backlog.leave(tracked.id, placed=tracked.row.phase.bound)

    def _note(self, tracked: TrackedWorkload) -> None:
        self.tally.note(tracked.row)
        if tracked.row.phase is Phase.PENDING and tracked.id not in self.queue:
            self.away[tracked.id] = None
            self.changes.away(tracked.id)
        else:
            self._come_back(tracked.id)

    def _come_back(self, workload_id: str) -> None:
        if workload_id in self.away:
            del self.away[workload_id]
            self.changes.away(workload_id)

    def _leave_queue(self, workload_id: str) -> None:
        found = self.queue.class_of(workload_id)
        if found is not None:
            self.changes.in_class(found.name)
            self.queue.remove(workload_id)

    def _note_bound(self, row: WorkloadRow) -> None:
        bound = self._bound.setdefault(row.customer, set())
        if row.phase.bound:
            bound.add(row.id)
        else:
            bound.discard(row.id)

    def dequeue(self, workload_id: str) -> None:
        """Take a workload out of the queue; it stays in memory."""
        self._leave_queue(workload_id)
        tracked = self._tracked.get(workload_id)
        if tracked is not None:
            self._note(tracked)


def pending(
    row: WorkloadRow, requirements: Requirements, subject: Subject, *, now: int, queue_class: str = ""
) -> PendingWorkload:
    """The engine's view of a pending row."""
    return PendingWorkload(
        id=row.id,
        version=row.version,
        attempt=row.attempt + 1,
        subject=subject,
        requirements=requirements,
        replicas=row.replicas,
        priority=row.priority,
        tier_weight=row.tier_weight,
        queued_at=row.queued_at_us,
        excluded=frozenset(w for w, until in row.excluded.items() if until.timestamp() * 1e6 > now),
        queue_class=queue_class,
    )
