"""Admission: applies users' changes of Workload objects to rows and memory.

The leader's loop passes the changes in; `transitions` commits the decisions. `reviews` follows changes of Customers,
namespaces and LimitRanges.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from niyanta.aio import gathered, in_slices, ticking
from niyanta.bounded_json import VIOLATION_KEY
from niyanta.containment import Boundary, SharedFaultError, contained, record
from niyanta.lifecycle import Event, Phase
from niyanta.observability import log
from niyanta.resources.ownership import HeldReason
from niyanta.scheduler.cluster_api import ClusterApi, MissingObjectsError
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.eligibility import EligibilityCheck
from niyanta.scheduler.intake.finished_intake import FinishedIntake
from niyanta.scheduler.intake.object_to_row import CompiledObject, Eligibility
from niyanta.scheduler.intake.refused_objects import parked_object, unreadable_object
from niyanta.scheduler.intake.reviews import Reviews
from niyanta.scheduler.intake.work_queue import DeletedObject
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.pods.rest_object import is_object_of, rest_id
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import BATCH_ROWS, TransitionRequest, Transitions
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager

logger = log.get(__name__)

COMPILE_SLICE_OBJECTS = 50
"""Objects compiled before other tasks of the event loop run (some 20 ms)."""

CONCURRENT_LOOKUPS = 48
"""Most concurrent fresh reads of objects that were reported deleted."""

Manifest = Mapping[str, Any]


class Admission:
    """Applies users' changes of objects. Every method may be repeated."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        reviews: Reviews,
        eligibility: EligibilityCheck,
        finished: FinishedIntake,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._reviews = reviews
        self._eligibility = eligibility
        self._finished = finished
        self._transitions = transitions
        self._tick = tick

    # --- objects ------------------------------------------------------------------------------------------------------

    async def take_in(self, objects: Sequence[Manifest]) -> None:
        """Turn new or edited Workload objects into rows, and edits of spec.suspend into events. An object that raises
        an unexpected error is parked. Raises SharedFaultError."""
        for start in range(0, len(objects), BATCH_ROWS):
            batch = objects[start : start + BATCH_ROWS]
            done = await in_isolation(batch, self._take_in, group=_namespace)
            for obj, error in done.culprits:
                await self._park_object(obj, error)

    async def _take_in(self, objects: Sequence[Manifest]) -> None:
        objects = await self._made_by_users(await self._finished.leave_out(objects))
        entries: list[CompiledObject] = []
        async for part in in_slices(objects, COMPILE_SLICE_OBJECTS, tick=self._tick):
            entries += [self._read(obj) for obj in part]
        rows = await self._store_rows(entries)
        requests: list[TransitionRequest] = []
        for obj, entry in zip(objects, entries, strict=True):
            row = rows.get(entry.intake.id)
            if row is None:
                continue
            try:
                requests += await self._follow_object(obj, entry, row)
            except SharedFaultError:
                raise
            except Exception as error:
                self._park_tracked(row.id, error)
        await self._transitions.commit(requests)
        # Reviews of Customers skip suspended workloads, so resumed ones are reviewed now.
        resumed = [request.tracked for request in requests if request.decision.event is Event.RESUME]
        await self._reviews.review([*resumed, *self._to_review(entries)])

    def _read(self, obj: Manifest) -> CompiledObject:
        """Convert an object to a row. An unexpected error is contained: the row is Held then."""
        try:
            if violation := obj.get(VIOLATION_KEY):
                return unreadable_object(obj, str(violation))
            entry = object_to_row.read_object(obj, self._cluster, self._state.settings)
        except SharedFaultError:
            raise
        except Exception as error:
            record(Boundary.OBJECT, _subject(obj), error)
            return parked_object(obj, error)
        if entry.intake.phase is not Phase.PENDING:
            return entry
        found = Eligibility(entry.intake.customer, entry.intake.tier_weight)
        found = self._eligibility.in_namespace(found, entry.intake.namespace)
        if not found.held:
            return entry
        return replace(
            entry, intake=replace(entry.intake, phase=Phase.HELD, reason=found.reason, message=found.message)
        )

    async def _store_rows(self, entries: Sequence[CompiledObject]) -> dict[str, WorkloadRow]:
        customers = {entry.intake.customer for entry in entries}
        limits = {name: self._cluster.customer_limits(name).queue_depth for name in customers}
        rows = await self._store.take_in(
            [entry.intake for entry in entries], epoch=self._state.epoch, queue_limits=limits
        )
        return {row.id: row for row in rows}

    async def _follow_object(self, obj: Manifest, entry: CompiledObject, row: WorkloadRow) -> list[TransitionRequest]:
        """Follow a row that was taken in; returns the event that the object's spec requires, if there is one."""
        tracked = self._track(obj, entry, row)
        self._finished.note(obj, row)
        if tracked is None:
            return []
        decision = suspension(tracked)
        if decision is not None:
            return [TransitionRequest(tracked, decision)]
        self._transitions.settle(tracked)
        await self._follow_edited_times(tracked)
        return []

    def _to_review(self, entries: Sequence[CompiledObject]) -> list[TrackedWorkload]:
        """Workloads to review now: Held although the present state of their object may be queued, because what held
        them is gone; Pending although an edit, of the priority, holds them; or without room in their customer's
        budget."""
        reasons = (
            RowReason.INTERNAL_ERROR.value,
            RowReason.OBJECT_MISMATCH.value,
            RowReason.CUSTOMER_BUDGET_EXCEEDED.value,
            HeldReason.PRIORITY_ABOVE_MAXIMUM.value,
        )
        found: list[TrackedWorkload] = []
        for entry in entries:
            tracked = self._state.workloads.get(entry.intake.id) if entry.requirements is not None else None
            if tracked is None:
                continue
            raised = tracked.row.phase is Phase.PENDING and entry.intake.phase is Phase.HELD
            released = tracked.row.phase is Phase.HELD and tracked.row.reason in reasons
            if tracked.unloaded or raised or released:
                found.append(tracked)
        return found

    async def _park_object(self, obj: Manifest, error: Exception) -> None:
        """Park an object whose row could not be written. If the row of its own kind can't be written either, the object
        is left alone until it changes."""
        subject = _subject(obj)
        record(Boundary.OBJECT, subject, error)
        with contained(Boundary.OBJECT, subject):
            uid = str(obj["metadata"]["uid"])
            if self._state.workloads.get(uid) is not None:
                self._park_tracked(uid, error)
                return
            entry = parked_object(obj, error)
            rows = await self._store_rows([entry])
            for row in rows.values():
                self._track(obj, entry, row)

    def _park_tracked(self, workload_id: str, error: Exception) -> None:
        tracked = self._state.workloads.get(workload_id)
        if tracked is None:
            record(Boundary.OBJECT, workload_id, error)
        else:
            self._state.parked.park(tracked, Boundary.OBJECT, error)

    async def _made_by_users(self, objects: Sequence[Manifest]) -> Sequence[Manifest]:
        """Leave out objects that were created for REST submissions, whose rows exist already."""
        marked = {id_ for obj in objects if _is_uuid(id_ := rest_id(obj))}
        if not marked:
            return objects
        workloads = self._state.workloads
        known = {i: tracked.row for i in marked if (tracked := workloads.get(i)) is not None}
        known |= {row.id: row for row in await self._store.get_workloads(marked - known.keys(), with_spec=False)}
        of_users = []
        for obj in objects:
            row = known.get(rest_id(obj))
            if row is not None and is_object_of(obj, row):
                self._finished.note(obj, row)
            else:
                of_users.append(obj)
        return of_users

    def _track(self, obj: Manifest, entry: CompiledObject, row: WorkloadRow) -> TrackedWorkload | None:
        """Put a taken-in row into memory, or update it there; None if it needs no tracking because it is finished or
        could not be read."""
        tracked = self._state.workloads.get(row.id)
        if tracked is None:
            if object_to_row.status_behind(row, obj.get("status")):
                self._cluster.write_status(row)
            if row.version <= 1:
                self._transitions.record_event(None, row)
            if entry.spec is None or row.phase.terminal:
                return None
            tracked = TrackedWorkload(row, entry.spec, entry.requirements, entry.subject)
            tracked.load_object(entry.intake, entry.spec)
            self._state.workloads.put(tracked)
            return tracked
        generation, seen = entry.intake.generation, tracked.watched
        if seen is not None and generation < seen.generation:
            pass  # an older state of the object
        elif entry.spec is not None and entry.requirements is not None:
            # The watched object is believed, not the spec and the labels in its row.
            tracked.load_object(entry.intake, entry.spec)
            tracked.requirements, tracked.subject = entry.requirements, entry.subject
            self._state.parked.unpark(tracked)
        elif seen is not None:
            tracked.watched = replace(seen, generation=generation)  # it goes on with its last spec
        changed = tracked.row.version != row.version
        tracked.row = row
        self._state.workloads.account(tracked)
        if changed:
            self._cluster.write_status(row)
        return tracked

    async def _follow_edited_times(self, tracked: TrackedWorkload) -> None:
        """Move the wake-up of a row after an edit: timeoutSeconds counts from the start of the run."""
        row, spec = tracked.row, tracked.spec
        since, limit = row.started_at, spec.timeout_seconds
        if row.phase is not Phase.RUNNING or since is None:
            return
        wanted = None if limit is None else since.timestamp() + limit
        known = None if row.wake_at is None else row.wake_at.timestamp()
        if wanted == known or (wanted is not None and known is not None and abs(wanted - known) < 1e-3):
            return
        left = None if wanted is None else max(0.0, wanted - self._state.clock.now() / 1e6)
        await self._transitions.set_wake([row.id], left)

    async def take_gone(self, gone: Iterable[DeletedObject]) -> None:
        """Cancel workloads whose object was deleted, after a fresh read has confirmed it. Finished ones stay as they
        are."""
        found: list[TrackedWorkload] = []
        for item in gone:
            self._state.finished_objects.forget(item.uid)
            if (tracked := self._state.workloads.of_object(item.uid)) is not None:
                found.append(tracked)
        live = [tracked for tracked in found if not tracked.row.phase.terminal]
        for start in range(0, len(live), CONCURRENT_LOOKUPS):
            self._tick()
            part = live[start : start + CONCURRENT_LOOKUPS]
            # The lease is ticked meanwhile: a slow API server isn't a stalled loop.
            answers = await ticking(self._tick, gathered(self._is_gone(tracked) for tracked in part))
            decision = LifecycleDecision(Event.CANCEL, RowReason.DELETED, "the Workload object was deleted")
            await self._transitions.commit(
                [TransitionRequest(t, decision) for t, is_gone in zip(part, answers, strict=True) if is_gone]
            )

    async def _is_gone(self, tracked: TrackedWorkload) -> bool:
        reference = tracked.row.object
        if reference is None:
            return False
        name, uid = reference
        try:
            obj = await self._cluster.get_workload(tracked.row.namespace, name)
        except MissingObjectsError:
            self._state.unjudged_deletions.add(tracked.id)
            return False
        if obj is None or obj["metadata"]["uid"] != uid or obj["metadata"].get("deletionTimestamp"):
            return True
        logger.warning("a Workload object was reported deleted but exists", workload=tracked.id)
        return False

    # --- changes that affect many workloads ---------------------------------------------------------------------------

    async def review_customers(self) -> None:
        """Review all waiting workloads at once, after a time without a leader."""
        self._reviews.request_all()
        await self._reviews.finish()


def suspension(tracked: TrackedWorkload) -> LifecycleDecision | None:
    """The event that spec.suspend requires in the row's phase; None if the row agrees with it."""
    phase = tracked.row.phase
    if tracked.spec.suspend and not phase.terminal and phase is not Phase.SUSPENDED:
        return LifecycleDecision(Event.SUSPEND, RowReason.SUSPENDED, "spec.suspend is true")
    if not tracked.spec.suspend and phase is Phase.SUSPENDED:
        return LifecycleDecision(Event.RESUME, RowReason.RESUMED, "")
    return None


def _is_uuid(text: str) -> bool:
    """True for a UUID as Postgres writes it; a user's label may hold anything."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _namespace(obj: Manifest) -> str:
    return str((obj.get("metadata") or {}).get("namespace", ""))


def _subject(obj: Manifest) -> str:
    return f"{_namespace(obj)}/{(obj.get('metadata') or {}).get('name', '')}"
