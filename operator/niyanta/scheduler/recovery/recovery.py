"""Recovery: a new leader brings memory, objects, rows and pods into agreement before it places anything.

It runs after the fence was raised and the old leader's last requests have ended. Missing pods of committed placements
are created under the same attempt (pod names are deterministic, so no pod runs twice); pods that no attempt needs are
removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from niyanta.aio import in_slices, ticking
from niyanta.containment import Boundary, SharedFaultError, contained, describe, record
from niyanta.lifecycle import Door
from niyanta.observability import log
from niyanta.resources.models.base import InvalidManifestError
from niyanta.scheduler.backlog.row_changes import RowChanges
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.admission import Admission
from niyanta.scheduler.intake.finished_intake import FinishedIntake
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.pods.observer import PodObserver
from niyanta.scheduler.pods.pod_creator import PodCreator
from niyanta.scheduler.recovery.adoption import Adoption
from niyanta.scheduler.recovery.missing_objects import MissingObjects, create_missing_pods, list_objects
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import BATCH_ROWS
from niyanta.store.state import StateManager

logger = log.get(__name__)

OBJECT_BYTES_AT_ONCE = 2 * 1024 * 1024
"""Most bytes of objects, as text, that are compiled at once; decoded, they take up to 20 times as much memory."""


class Recovery:
    """One recovery pass; it may be repeated after it was interrupted."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        admission: Admission,
        row_changes: RowChanges,
        observer: PodObserver,
        creator: PodCreator,
        adoption: Adoption,
        missing_objects: MissingObjects,
        finished: FinishedIntake,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._admission = admission
        self._row_changes = row_changes
        self._observer = observer
        self._creator = creator
        self._adoption = adoption
        self._missing_objects = missing_objects
        self._finished = finished
        self._tick = tick

    async def run(self) -> None:
        """Load the rows, list the objects and reconcile."""
        await self._state.clock.refresh()
        await self._row_changes.begin()
        await self._load()
        listed = await ticking(self._tick, list_objects(self._cluster))
        objects = [obj for obj in listed.items if not obj["metadata"].get("deletionTimestamp")]
        adopting = self._state.adopting
        if adopting:
            objects = list(await self._adoption.rebuild(await self._finished.leave_out(objects)))
        for some in _parts(objects):
            await self._admission.take_in(some)
        if adopting:
            await self._adoption.follow_pods()
            self._state.adopting = False
        await self._missing_objects.judge(listed)
        await self._admission.review_customers()  # they may have changed while no leader ran
        for tracked in self._state.workloads:
            with contained(Boundary.ROW, tracked.id):
                create_missing_pods(tracked, cluster=self._cluster, creator=self._creator)
        known = {tracked.id for tracked in self._state.workloads}
        seen = [*known, *(i for i in self._cluster.workload_ids_with_pods() if i not in known)]
        async for part in in_slices(seen, BATCH_ROWS, tick=self._tick):
            done = await in_isolation(part, self._observer.observe, group=str)
            for workload_id, error in done.culprits:
                record(Boundary.POD, workload_id, error)
        self._write_statuses(listed.items)
        logger.info(
            "recovery is done",
            epoch=self._state.epoch,
            live=len(known),
            objects=len(listed.items),
            adopted=adopting,
        )

    async def _load(self) -> None:
        """Load every live row into memory and claim its workers' capacity."""
        async for row in self._store.get_active(pending_doors=(Door.KUBERNETES,)):
            if self._state.workloads.get(row.id) is not None:
                continue
            try:
                spec, requirements, subject = object_to_row.read_row(row, self._cluster)
            except InvalidManifestError as refused:  # written by another release; its pods are left alone
                logger.error("a row can't be parsed; it is left unchanged", id=row.id, error=describe(refused))
                continue
            except SharedFaultError:
                raise
            except Exception as error:
                record(Boundary.ROW, row.id, error)
                continue
            tracked = TrackedWorkload(row, spec, requirements, subject)
            self._state.workloads.put(tracked)
            self._tick()
            if row.phase.bound and requirements is not None:
                with contained(Boundary.ROW, row.id):
                    self._cluster.claim(row.id, row.attempt, row.workers, requirements, subject)

    def _write_statuses(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Write the statuses that the last leader didn't write. Only these: a failover must not rewrite all objects."""
        listed = {obj["metadata"]["uid"]: obj for obj in objects}
        for tracked in self._state.workloads:
            _, uid = tracked.row.object or ("", "")
            with contained(Boundary.STATUS, tracked.id):
                if uid in listed and object_to_row.status_behind(tracked.row, listed[uid].get("status")):
                    self._cluster.write_status(tracked.row)


def _parts(objects: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """The objects in parts of at most BATCH_ROWS objects and OBJECT_BYTES_AT_ONCE bytes. A listed object knows its
    `size` (`ClusterReads.list_workloads`)."""
    part: list[Mapping[str, Any]] = []
    size = 0
    for obj in objects:
        bytes_ = getattr(obj, "size", 0)
        if part and (len(part) == BATCH_ROWS or size + bytes_ > OBJECT_BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(obj)
        size += bytes_
    if part:
        yield part
