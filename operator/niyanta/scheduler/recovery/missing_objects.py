"""Workloads whose objects are missing. A deleted object cancels its workload, but objects that go missing in great
number are not believed to be deleted on purpose.

`recovery` judges the objects that it lists. The loss is judged for each Customer (for each namespace where a Customer
lists `*`): beyond a number and a share of the live workloads, only the rows of that Customer are held. A held row keeps
its phase; it isn't placed, and its pods are left alone, until its object is back or an administrator confirms the
deletions by an annotation of the Customer. Everything else goes on.

A namespace that is gone, or is being deleted, proves the deletions of its objects: its rows are cancelled, whatever
their number, and the finalizers of its pods are released. A Customer that is gone can't be annotated: after an hour its
absence confirms the deletions of its objects.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from niyanta.aio import Backoff
from niyanta.containment import Boundary, contained
from niyanta.lifecycle import Phase
from niyanta.observability import log
from niyanta.observability.gauges import LabelLimit, LeaderGauge
from niyanta.resources.ownership import Resolved
from niyanta.scheduler.cluster_api import ClusterApi, ClusterAwayError, MissingObjectsError, pods_of
from niyanta.scheduler.intake.admission import Admission
from niyanta.scheduler.intake.work_queue import DeletedObject, WorkQueue
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.pod_creator import PodCreator
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions

logger = log.get(__name__)

FEW_OBJECTS = 10
"""Most missing objects of a group that are believed to be deleted, however few live workloads the group has."""

FIRST_LIST_SECONDS = 5.0
LONGEST_LIST_SECONDS = 60.0
"""Range of the time between two lists of all objects while rows are held."""

CONFIRM = "niyanta.io/confirm-deletions"
"""Annotation of a Customer: the time at which an administrator confirmed the deletions, RFC 3339."""

CUSTOMER_GONE_SECONDS = 3600.0
"""Time after which the absence of a held row's Customer confirms the deletion of its object."""

CONFIRMATION_SECONDS = 600.0
"""Time for which a confirmation holds, so that it survives a change of leaders but confirms no later loss."""

HELD_MISSING = LeaderGauge(
    "niyanta_held_missing_objects",
    "Workloads that are neither placed nor cancelled because too many objects of their customer are missing",
    ["customer"],
)

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ListedObjects:
    """All Workload objects. `kind_gone`: the CustomResourceDefinition doesn't exist, so none can be listed."""

    items: Sequence[Manifest]
    kind_gone: bool = False

    def present(self) -> dict[str, tuple[str, str]]:
        """UID -> (namespace, name) of the objects that aren't being deleted."""
        metas = (obj["metadata"] for obj in self.items)
        return {m["uid"]: (m["namespace"], m["name"]) for m in metas if not m.get("deletionTimestamp")}


async def list_objects(cluster: ClusterApi) -> ListedObjects:
    """List the Workload objects; a kind that is gone is an answer. Raises ClusterAwayError."""
    try:
        return ListedObjects(await cluster.list_workloads())
    except MissingObjectsError:
        return ListedObjects((), kind_gone=True)


class MissingObjects:
    """Holds, releases and cancels workloads whose objects are missing. Runs in the leader's loop."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        cluster: ClusterApi,
        admission: Admission,
        reasons: PendingReasons,
        creator: PodCreator,
        transitions: Transitions,
        work_queue: WorkQueue,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._cluster = cluster
        self._admission = admission
        self._reasons = reasons
        self._creator = creator
        self._transitions = transitions
        self._work_queue = work_queue
        self._tick = tick
        self._held: dict[str, int] = {}
        """Held row -> time since which it is held, microseconds."""
        self._labels = LabelLimit(state.settings.metrics_max_customers)
        self._listing: asyncio.Task[ListedObjects] | None = None
        self._list_at = 0.0
        self._kind_gone = False
        """No object can be read, so that no deletion can be confirmed."""
        self._backoff = Backoff(first_seconds=FIRST_LIST_SECONDS, longest_seconds=LONGEST_LIST_SECONDS)

    # --- judging -----------------------------------------------------------------------------------------------------

    async def judge(self, objects: ListedObjects) -> None:
        """Cancel the workloads whose objects were deleted, and hold those of a loss that is too great."""
        self._kind_gone = objects.kind_gone
        present = objects.present()
        names = set(present.values())
        groups: defaultdict[tuple[str, str], list[TrackedWorkload]] = defaultdict(list)
        live: Counter[tuple[str, str]] = Counter()
        deleted: list[TrackedWorkload] = []
        for tracked in self._state.workloads:
            reference = tracked.row.object
            if reference is None or tracked.row.phase.terminal:
                continue
            name, uid = reference
            with contained(Boundary.ROW, tracked.id):
                group = self._group(tracked)
                live[group] += 1
                if uid in present or tracked.object_missing:
                    continue
                if (tracked.row.namespace, name) in names or self._is_namespace_gone(tracked):
                    deleted.append(tracked)  # for certain: another object has its name, or its namespace was deleted
                else:
                    groups[group].append(tracked)
        lost = sum(map(len, groups.values()))
        everything = objects.kind_gone or (not present and lost > FEW_OBJECTS)
        for group, missing in groups.items():
            if everything or len(missing) > max(FEW_OBJECTS, self._state.settings.orphan_stop_ratio * live[group]):
                self._hold(missing, live=live[group])
            else:
                deleted += missing
        await self._cancel(deleted)

    def _group(self, tracked: TrackedWorkload) -> tuple[str, str]:
        """Customer, and the namespace for a Customer of every namespace, which different tenants may share."""
        row = tracked.row
        found = self._cluster.resolve_customer(row.namespace, row.customer)
        by_name = isinstance(found, Resolved) and not found.wildcard
        return row.customer, "" if by_name else row.namespace

    def _is_namespace_gone(self, tracked: TrackedWorkload) -> bool:
        return not self._kind_gone and self._cluster.namespace_gone(tracked.row.namespace)

    async def _cancel(self, deleted: Sequence[TrackedWorkload]) -> None:
        await self._admission.take_gone([DeletedObject(uid) for t in deleted if (uid := _uid(t))])
        self._hold_unjudged()

    def _hold(self, missing: Sequence[TrackedWorkload], *, live: int) -> None:
        now = self._state.clock.now()
        for tracked in missing:
            self._tick()
            tracked.object_missing = True
            self._held[tracked.id] = now
            self._state.workloads.dequeue(tracked.id)
            if tracked.row.phase.bound:  # pods that still run stay charged; those that were deleted leave their room
                self._cluster.unclaim(tracked.id, tracked.row.attempt)
            self._reasons.add(tracked.id, RowReason.OBJECT_MISSING, message(tracked.row.customer))
        for customer, count in Counter(tracked.row.customer for tracked in missing).items():
            logger.error(
                "objects are missing; their workloads are held until they are back or the deletions are confirmed",
                customer=customer,
                missing=count,
                live=live,
                command=command(customer),
            )
        self._show()

    # --- while rows are held -----------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Release workloads whose objects are back, and cancel those whose deletion is confirmed. Returns at once."""
        self._hold_unjudged()
        if not self._held:
            return
        if not self._kind_gone:
            await self._cancel_confirmed()
        await self._follow_list()

    def _hold_unjudged(self) -> None:
        """Hold the workloads that admission couldn't judge because the kind itself is gone."""
        unjudged = [t for i in self._state.unjudged_deletions if (t := self._state.workloads.get(i)) is not None]
        self._state.unjudged_deletions.clear()
        missing = [t for t in unjudged if not t.object_missing and not t.row.phase.terminal]
        if missing:
            self._kind_gone = True
            self._hold(missing, live=len(missing))

    async def _cancel_confirmed(self) -> None:
        held = self._held_workloads()
        pairs = {(tracked.row.namespace, tracked.row.customer) for tracked in held}
        times = {pair: confirmed_at(self._cluster.resolve_customer(*pair)) for pair in pairs}
        since = {i: at / 1e6 - CONFIRMATION_SECONDS for i, at in self._held.items()}
        confirmed = [
            tracked
            for tracked in held
            if ((at := times[tracked.row.namespace, tracked.row.customer]) is not None and at >= since[tracked.id])
            or self._is_namespace_gone(tracked)
            or self._outlived_customer(tracked)
        ]
        if not confirmed:
            return
        logger.warning("deletions of objects were confirmed", workloads=len(confirmed))
        self._forget(confirmed)
        await self._cancel(confirmed)
        self._resume([tracked for tracked in confirmed if not tracked.object_missing])

    def _outlived_customer(self, tracked: TrackedWorkload) -> bool:
        """True if the Customer is gone, and the row has been held for a time in which it could have been restored."""
        held_seconds = (self._state.clock.now() - self._held[tracked.id]) / 1e6
        return held_seconds >= CUSTOMER_GONE_SECONDS and self._cluster.customer_tier(tracked.row.customer) == "unknown"

    async def _follow_list(self) -> None:
        """List all objects from time to time, in a task of its own; release the workloads whose objects are back."""
        if self._listing is None:
            if time.monotonic() >= self._list_at:
                self._listing = asyncio.create_task(list_objects(self._cluster), name="list of held objects")
            return
        if not self._listing.done():
            return
        listing, self._listing = self._listing, None
        self._list_at = time.monotonic() + self._backoff.next()
        try:
            listed = listing.result()
        except ClusterAwayError as error:
            logger.warning("objects of held workloads were not listed", error=str(error))
            return
        self._kind_gone = listed.kind_gone
        present = listed.present()
        back = [tracked for tracked in self._held_workloads() if _uid(tracked) in present]
        if back:
            self._backoff.reset()
            unread = {tracked.id for tracked in back if tracked.watched is None}  # rows must agree with their objects
            await self._admission.take_in([obj for obj in listed.items if obj["metadata"]["uid"] in unread])
            logger.info("missing objects are back", workloads=len(back))
            self._forget(back)
            self._resume(back)

    def _held_workloads(self) -> list[TrackedWorkload]:
        found = [tracked for i in self._held if (tracked := self._state.workloads.get(i)) is not None]
        if len(found) < len(self._held) or any(tracked.row.phase.terminal for tracked in found):
            found = [tracked for tracked in found if not tracked.row.phase.terminal]
            kept = {tracked.id for tracked in found}
            self._held = {i: at for i, at in self._held.items() if i in kept}
            self._show()
        return found

    def _forget(self, workloads: Collection[TrackedWorkload]) -> None:
        for tracked in workloads:
            tracked.object_missing = False
            self._held.pop(tracked.id, None)
        self._show()

    def _resume(self, workloads: Sequence[TrackedWorkload]) -> None:
        for tracked in workloads:
            if tracked.row.phase.terminal:
                continue
            self._transitions.settle(tracked)
            self._reasons.add(tracked.id, RowReason.OBJECT_RETURNED, "its Workload object is back")
            row = tracked.row
            if row.phase.bound and tracked.requirements is not None:
                self._cluster.claim(row.id, row.attempt, row.workers, tracked.requirements, tracked.subject)
            create_missing_pods(tracked, cluster=self._cluster, creator=self._creator)
        self._work_queue.put_workloads(tracked.id for tracked in workloads)

    def _show(self) -> None:
        workloads = (self._state.workloads.get(i) for i in self._held)
        counts = Counter(tracked.row.customer for tracked in workloads if tracked is not None)
        labels = self._labels.assign(counts)
        shown: Counter[tuple[str, ...]] = Counter()
        for customer, count in counts.items():
            shown[labels[customer],] += count
        HELD_MISSING.show(shown)

    def close(self) -> None:
        """Stop listing: leadership is over."""
        if self._listing is not None:
            self._listing.cancel()
        HELD_MISSING.clear()


def create_missing_pods(tracked: TrackedWorkload, *, cluster: ClusterApi, creator: PodCreator) -> None:
    """Create the missing pods of a placement. A Running row had all its pods, so a missing one is lost and isn't
    created again."""
    row = tracked.row
    if not row.phase.bound or tracked.object_missing:
        return
    seen = {pod.index for pod in pods_of(cluster, row) if pod.attempt == row.attempt}
    tracked.known |= seen
    if row.phase is Phase.RUNNING:
        tracked.known = set(range(len(row.workers)))
    elif len(seen) < len(row.workers) and not tracked.applying:
        creator.submit(tracked)


def command(customer: str) -> str:
    """The command that confirms the deletions of a Customer's objects."""
    return f'kubectl annotate customers.niyanta.io {customer} --overwrite {CONFIRM}="$(date -u +%Y-%m-%dT%H:%M:%SZ)"'


def message(customer: str) -> str:
    """The reason of a held row."""
    return (
        "its Workload object is missing together with many others of its customer; an administrator restores the "
        f"objects or confirms the deletions: {command(customer)}"
    )


def confirmed_at(found: object) -> float | None:
    """Time at which the deletions of a resolved Customer's objects were confirmed, seconds since 1970; None: never."""
    if not isinstance(found, Resolved):
        return None
    annotations = (found.customer.metadata.model_extra or {}).get("annotations")
    text = annotations.get(CONFIRM) if isinstance(annotations, Mapping) else None
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at.timestamp() if at is not None and at.tzinfo is not None else None


def _uid(tracked: TrackedWorkload) -> str:
    return tracked.row.object[1] if tracked.row.object is not None else ""
