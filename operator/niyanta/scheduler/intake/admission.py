"""Admission: applies users' changes of Workload objects, Customers and LimitRanges to rows and memory.

The leader's loop passes the changes in; `transitions` commits the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from niyanta.aio import gathered, in_slices, ticking
from niyanta.lifecycle import Event, Phase
from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.work_queue import DeletedObject
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.pods.rest_object import is_object_of, rest_id
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import BATCH_ROWS, TransitionRequest, Transitions
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager
from niyanta.store.workloads.limits import QUEUE_FULL

logger = log.get(__name__)

COMPILE_SLICE_OBJECTS = 50
"""Objects compiled before other tasks of the event loop run (some 20 ms)."""

CONCURRENT_LOOKUPS = 48
"""Most concurrent fresh reads of objects that were reported deleted."""

Manifest = Mapping[str, Any]


class Admission:
    """Applies users' changes. Every method may be repeated."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        reasons: PendingReasons,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._reasons = reasons
        self._transitions = transitions
        self._tick = tick

    # --- objects ------------------------------------------------------------------------------------------------------

    async def take_in(self, objects: Sequence[Manifest]) -> None:
        """Turn new or edited Workload objects into rows, and edits of spec.suspend into events."""
        for start in range(0, len(objects), BATCH_ROWS):
            await self._take_in(objects[start : start + BATCH_ROWS])

    async def _take_in(self, objects: Sequence[Manifest]) -> None:
        objects = await self._made_by_users(objects)
        entries: list[object_to_row.CompiledObject] = []
        async for part in in_slices(objects, COMPILE_SLICE_OBJECTS, tick=self._tick):
            entries += [object_to_row.read_object(obj, self._cluster, self._state.settings) for obj in part]
        customers = {entry.intake.customer for entry in entries}
        limits = {name: self._cluster.customer_limits(name).queue_depth for name in customers}
        rows = await self._store.take_in(
            [entry.intake for entry in entries], epoch=self._state.epoch, queue_limits=limits
        )
        by_id = {row.id: row for row in rows}
        requests = []
        for obj, entry in zip(objects, entries, strict=True):
            row = by_id.get(entry.intake.id)
            tracked = None if row is None else self._track(obj, entry, row)
            if tracked is None:
                continue
            decision = suspension(tracked)
            if decision is not None:
                requests.append(TransitionRequest(tracked, decision))
            else:
                self._transitions.settle(tracked)
                await self._follow_edited_times(tracked)
        await self._transitions.commit(requests)
        # Reviews of Customers skip suspended workloads, so resumed ones are reviewed now.
        await self._review([o.tracked for o in requests if o.decision.event is Event.RESUME])

    async def _made_by_users(self, objects: Sequence[Manifest]) -> Sequence[Manifest]:
        """Leave out objects that were created for REST submissions, whose rows exist already."""
        marked = {rest_id(obj) for obj in objects} - {""}
        if not marked:
            return objects
        workloads = self._state.workloads
        known = {i: tracked.row for i in marked if (tracked := workloads.get(i)) is not None}
        known |= {row.id: row for row in await self._store.get_workloads(marked - known.keys())}
        return [obj for obj in objects if (row := known.get(rest_id(obj))) is None or not is_object_of(obj, row)]

    def _track(self, obj: Manifest, entry: object_to_row.CompiledObject, row: WorkloadRow) -> TrackedWorkload | None:
        """Put a taken-in row into memory, or update it there; None if it needs no tracking because it is finished."""
        tracked = self._state.workloads.get(row.id)
        if tracked is None:
            if object_to_row.status_behind(row, obj.get("status")):
                self._cluster.write_status(row)
            if row.version <= 1:
                self._transitions.record_event(None, row)
            if entry.spec is None or (row.phase.terminal and row.wake_at is None):
                return None
            tracked = TrackedWorkload(row, entry.spec, entry.requirements, entry.subject)
            self._state.workloads.put(tracked)
            return tracked
        if entry.spec is not None and row.generation == entry.intake.generation:
            tracked.spec = entry.spec
        changed = tracked.row.version != row.version
        tracked.row = row
        if changed:
            self._cluster.write_status(row)
        return tracked

    async def _follow_edited_times(self, tracked: TrackedWorkload) -> None:
        """Move the wake-up of a row after an edit: timeoutSeconds counts from the start of the run,
        ttlSecondsAfterFinished from its end."""
        row, spec = tracked.row, tracked.spec
        limit: int | None
        if row.phase is Phase.RUNNING:
            since, limit = row.started_at, spec.timeout_seconds
        elif row.phase in (Phase.SUCCEEDED, Phase.FAILED) and row.wake_at is not None:
            since, limit = row.finished_at, spec.ttl_seconds_after_finished
        else:
            return
        if since is None:
            return
        wanted = None if limit is None else since.timestamp() + limit
        known = None if row.wake_at is None else row.wake_at.timestamp()
        if wanted == known or (wanted is not None and known is not None and abs(wanted - known) < 1e-3):
            return
        left = None if wanted is None else max(0.0, wanted - self._state.clock.now() / 1e6)
        await self._transitions.set_wake([row.id], left)

    async def take_gone(self, gone: Iterable[DeletedObject]) -> None:
        """Cancel workloads whose object was deleted, after a fresh read has confirmed it."""
        found = [tracked for item in gone if (tracked := self._state.workloads.of_object(item.uid)) is not None]
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
        obj = await self._cluster.get_workload(tracked.row.namespace, name)
        if obj is None or obj["metadata"]["uid"] != uid or obj["metadata"].get("deletionTimestamp"):
            return True
        logger.warning("a Workload object was reported deleted but exists", workload=tracked.id)
        return False

    # --- changes that affect many workloads ---------------------------------------------------------------------------

    async def review_customers(self) -> None:
        """Customers changed: hold workloads that may no longer be queued, release those that may, and follow tiers."""
        await self._review(self._state.workloads.select((Phase.PENDING, Phase.HELD)))

    async def _review(self, workloads: Sequence[TrackedWorkload]) -> None:
        requests = []
        for tracked in workloads:
            self._tick()
            if tracked.row.reason == QUEUE_FULL and tracked.row.phase is Phase.HELD:
                continue  # `maintenance` releases these in queue order
            eligible = object_to_row.eligibility(
                tracked.row.namespace, tracked.spec, self._cluster, self._state.settings
            )
            if eligible.held:
                if tracked.row.phase is Phase.PENDING:
                    requests.append(
                        TransitionRequest(tracked, LifecycleDecision(Event.HOLD, eligible.reason, eligible.message))
                    )
                elif eligible.message != tracked.row.message:
                    self._reasons.add(tracked.id, eligible.reason, eligible.message)
                continue
            await self._follow_owner(tracked, eligible)
            if tracked.row.phase is not Phase.HELD:
                continue
            if self._cluster.customer_limits(eligible.customer).queue_depth is None:
                requests.append(TransitionRequest(tracked, LifecycleDecision(Event.RELEASE, RowReason.RELEASED, "")))
            else:
                self._reasons.add(tracked.id, QUEUE_FULL, "waits for room below its customer's maxQueueDepth")
        await self._transitions.commit(requests)

    async def _follow_owner(self, tracked: TrackedWorkload, eligible: object_to_row.Eligibility) -> None:
        """Update the row's customer and tier weight if they have changed."""
        if tracked.row.customer == eligible.customer and tracked.row.tier_weight != eligible.tier_weight:
            # All rows of the customer in one statement: one by one, 300 rows would take a second.
            for row in await self._store.retier(eligible.customer, eligible.tier_weight, epoch=self._state.epoch):
                other = self._state.workloads.get(row.id)
                if other is not None:
                    other.row = row
                    self._transitions.settle(other)
        if (eligible.customer, eligible.tier_weight) == (tracked.row.customer, tracked.row.tier_weight):
            return
        tracked.row = await self._store.reassign(
            tracked.id, customer=eligible.customer, tier_weight=eligible.tier_weight, epoch=self._state.epoch
        )
        self._recompile(tracked)

    async def review_defaults(self, namespaces: Collection[str]) -> None:
        """LimitRanges of these namespaces changed ("": a change for all namespaces): compile the workloads that wait
        there again, because their requests may differ."""
        for tracked in self._state.workloads.select((Phase.PENDING, Phase.HELD, Phase.SUSPENDED)):
            if "" in namespaces or tracked.row.namespace in namespaces:
                self._tick()
                self._recompile(tracked)

    def _recompile(self, tracked: TrackedWorkload) -> None:
        _, requirements, tracked.subject = object_to_row.read_row(tracked.row, self._cluster)
        if requirements is not None:
            tracked.requirements = requirements
        self._transitions.settle(tracked)


def suspension(tracked: TrackedWorkload) -> LifecycleDecision | None:
    """The event that spec.suspend requires in the row's phase; None if the row agrees with it."""
    phase = tracked.row.phase
    if tracked.spec.suspend and not phase.terminal and phase is not Phase.SUSPENDED:
        return LifecycleDecision(Event.SUSPEND, RowReason.SUSPENDED, "spec.suspend is true")
    if not tracked.spec.suspend and phase is Phase.SUSPENDED:
        return LifecycleDecision(Event.RESUME, RowReason.RESUMED, "")
    return None
