"""What users changed: Workload objects made, edited and deleted, Customers and LimitRanges edited.

`leader` hands the mail in, `session` commits what follows from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from niyanta.lifecycle import Event, Phase
from niyanta.observability import log
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.work_queue import DeletedObject
from niyanta.scheduler.lease import alive_while, gathered
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.pods.rest_object import is_object_of, rest_id
from niyanta.scheduler.session import BATCH, Session, TransitionRequest
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.rows import WorkloadRow
from niyanta.store.workloads.limits import QUEUE_FULL

logger = log.get(__name__)

SLICE = 50
"""Objects compiled before other tasks of the loop get their turn (some 20 ms)."""

LOOKUPS = 48
"""Fresh reads under way at once where objects are gone."""

Manifest = Mapping[str, Any]


class Admission:
    """Brings rows and memory in line with what users say. Everything here may be repeated."""

    def __init__(self, session: Session) -> None:
        self.session = session

    # --- objects -----------------------------------------------------------------------------------------------------

    async def take_in(self, objects: Sequence[Manifest]) -> None:
        """Workload objects (new or edited) become rows; edits of suspend become events."""
        for start in range(0, len(objects), BATCH):
            await self._take_in(objects[start : start + BATCH])

    async def _take_in(self, objects: Sequence[Manifest]) -> None:
        session = self.session
        objects = await self._made_by_users(objects)
        entries = []
        for count, obj in enumerate(objects):
            if count % SLICE == 0:
                session.tick()
                await asyncio.sleep(0)
            entries.append(object_to_row.read_object(obj, session.cluster, session.settings))
        customers = {entry.intake.customer for entry in entries}
        limits = {name: session.cluster.limits_of(name).queue_depth for name in customers}
        rows = await session.state.take_in(
            [entry.intake for entry in entries], epoch=session.epoch, queue_limits=limits
        )
        by_id = {row.id: row for row in rows}
        outcomes = []
        for obj, entry in zip(objects, entries, strict=True):
            row = by_id.get(entry.intake.id)
            tracked = None if row is None else self._took(obj, entry, row)
            if tracked is None:
                continue
            verdict = suspension(tracked)
            if verdict is not None:
                outcomes.append(TransitionRequest(tracked, verdict))
            else:
                session.settle(tracked)
                await self._follow_limits(tracked)
        await session.commit(outcomes)
        # A customer's word counts when work may be queued, and what was suspended wasn't looked at meanwhile.
        await self._review([o.tracked for o in outcomes if o.verdict.event is Event.RESUME])

    async def _made_by_users(self, objects: Sequence[Manifest]) -> Sequence[Manifest]:
        """Without those that were dispatched from REST submissions: their rows exist already."""
        marked = {rest_id(obj) for obj in objects} - {""}
        if not marked:
            return objects
        mirror = self.session.mirror
        known = {i: tracked.row for i in marked if (tracked := mirror.get(i)) is not None}
        known |= {row.id: row for row in await self.session.state.get_workloads(marked - known.keys())}
        return [obj for obj in objects if (row := known.get(rest_id(obj))) is None or not is_object_of(obj, row)]

    def _took(self, obj: Manifest, entry: object_to_row.CompiledObject, row: WorkloadRow) -> TrackedWorkload | None:
        """Follow a taken-in row in memory; None when it is dead already."""
        session = self.session
        tracked = session.mirror.get(row.id)
        if tracked is None:
            if object_to_row.status_behind(row, obj.get("status")):
                session.cluster.project(row)
            if row.version <= 1:
                session.tell(None, row)
            if entry.spec is None or (row.phase.terminal and row.wake_at is None):
                return None
            tracked = TrackedWorkload(row, entry.spec, entry.requirements, entry.subject)
            session.mirror.put(tracked)
            return tracked
        if entry.spec is not None and row.generation == entry.intake.generation:
            tracked.spec = entry.spec
        changed = tracked.row.version != row.version
        tracked.row = row
        if changed:
            session.cluster.project(row)
        return tracked

    async def _follow_limits(self, tracked: TrackedWorkload) -> None:
        """An edit of timeoutSeconds counts from the start of the run, one of the time to live from its end."""
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
        left = None if wanted is None else max(0.0, wanted - self.session.clock.now() / 1e6)
        await self.session.state.set_wake([row.id], left, epoch=self.session.epoch)

    async def take_gone(self, gone: Iterable[DeletedObject]) -> None:
        """Cancel workloads whose object is gone, after a fresh read says so."""
        session = self.session
        found = [tracked for item in gone if (tracked := session.mirror.of_object(item.uid)) is not None]
        live = [tracked for tracked in found if not tracked.row.phase.terminal]
        for start in range(0, len(live), LOOKUPS):
            session.tick()
            part = live[start : start + LOOKUPS]
            # An API server that hangs must not look like a loop that does.
            answers = await alive_while(session.tick, gathered(self._is_gone(tracked) for tracked in part))
            verdict = LifecycleDecision(Event.CANCEL, "Deleted", "the Workload object was deleted")
            await session.commit(
                [TransitionRequest(t, verdict) for t, is_gone in zip(part, answers, strict=True) if is_gone]
            )

    async def _is_gone(self, tracked: TrackedWorkload) -> bool:
        reference = tracked.row.object
        if reference is None:
            return False
        name, uid = reference
        obj = await self.session.cluster.get_workload(tracked.row.namespace, name)
        if obj is None or obj["metadata"]["uid"] != uid or obj["metadata"].get("deletionTimestamp"):
            return True
        logger.warning("a workload was reported gone but exists", workload=tracked.id)
        return False

    # --- what decides about many -------------------------------------------------------------------------------------

    async def review_customers(self) -> None:
        """Customers changed: hold what may not wait any longer, release what may, and follow tier changes."""
        await self._review(self.session.mirror.select((Phase.PENDING, Phase.HELD)))

    async def _review(self, workloads: Sequence[TrackedWorkload]) -> None:
        session = self.session
        outcomes = []
        for tracked in workloads:
            session.tick()
            if tracked.row.reason == QUEUE_FULL and tracked.row.phase is Phase.HELD:
                continue  # `duties` releases these in queue order
            stand = object_to_row.eligibility(tracked.row.namespace, tracked.spec, session.cluster, session.settings)
            if stand.held:
                if tracked.row.phase is Phase.PENDING:
                    outcomes.append(
                        TransitionRequest(tracked, LifecycleDecision(Event.HOLD, stand.reason, stand.message))
                    )
                elif stand.message != tracked.row.message:
                    session.inbox.note(tracked.id, stand.reason, stand.message)
                continue
            await self._belong(tracked, stand)
            if tracked.row.phase is not Phase.HELD:
                continue
            if session.cluster.limits_of(stand.customer).queue_depth is None:
                outcomes.append(TransitionRequest(tracked, LifecycleDecision(Event.RELEASE, "Released", "")))
            else:
                session.inbox.note(tracked.id, QUEUE_FULL, "waits for room below its customer's maxQueueDepth")
        await session.commit(outcomes)

    async def _belong(self, tracked: TrackedWorkload, stand: object_to_row.Eligibility) -> None:
        """Give the row the customer and the weight it should have."""
        session = self.session
        if tracked.row.customer == stand.customer and tracked.row.tier_weight != stand.tier_weight:
            # Of the whole customer at once: one by one would take a second for 300.
            for row in await session.state.retier(stand.customer, stand.tier_weight, epoch=session.epoch):
                other = session.mirror.get(row.id)
                if other is not None:
                    other.row = row
                    session.settle(other)
        if (stand.customer, stand.tier_weight) == (tracked.row.customer, tracked.row.tier_weight):
            return
        tracked.row = await session.state.reassign(
            tracked.id, customer=stand.customer, tier_weight=stand.tier_weight, epoch=session.epoch
        )
        self._recompile(tracked)

    async def review_defaults(self, namespaces: Collection[str]) -> None:
        """LimitRanges of these namespaces changed ("": something for all): what waits there asks for other amounts."""
        for tracked in self.session.mirror.select((Phase.PENDING, Phase.HELD, Phase.SUSPENDED)):
            if "" in namespaces or tracked.row.namespace in namespaces:
                self.session.tick()
                self._recompile(tracked)

    def _recompile(self, tracked: TrackedWorkload) -> None:
        _, requirements, tracked.subject = object_to_row.read_row(tracked.row, self.session.cluster)
        if requirements is not None:
            tracked.requirements = requirements
        self.session.settle(tracked)


def suspension(tracked: TrackedWorkload) -> LifecycleDecision | None:
    """The event that brings a row in line with spec.suspend."""
    phase = tracked.row.phase
    if tracked.spec.suspend and not phase.terminal and phase is not Phase.SUSPENDED:
        return LifecycleDecision(Event.SUSPEND, "Suspended", "spec.suspend is true")
    if not tracked.spec.suspend and phase is Phase.SUSPENDED:
        return LifecycleDecision(Event.RESUME, "Resumed", "")
    return None
