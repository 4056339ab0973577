"""Recovery: a new leader brings memory, objects, rows and pods into agreement before it places anything.

It runs after the fence was raised and the old leader's last requests have ended. Missing pods of committed placements
are created under the same attempt (pod names are deterministic, so no pod runs twice); pods that no attempt needs are
removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from niyanta.aio import in_slices, ticking
from niyanta.lifecycle import Door, Event, Phase
from niyanta.observability import log
from niyanta.resources.models.base import InvalidManifestError
from niyanta.scheduler.cluster_api import ClusterApi, MissingObjectsError, PodPhase
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.admission import Admission
from niyanta.scheduler.intake.refill import Refill
from niyanta.scheduler.intake.work_queue import DeletedObject
from niyanta.scheduler.pods.observer import PodObserver
from niyanta.scheduler.pods.pod_creator import PodCreator
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import BATCH_ROWS, Transitions
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.rows import RowChange
from niyanta.store.state import StateManager

logger = log.get(__name__)


class Recovery:
    """One recovery pass; it may be repeated after it was interrupted."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        admission: Admission,
        refill: Refill,
        observer: PodObserver,
        creator: PodCreator,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._admission = admission
        self._refill = refill
        self._observer = observer
        self._creator = creator
        self._transitions = transitions
        self._tick = tick

    async def run(self) -> None:
        """Load the rows, list the objects and reconcile. Raises MissingObjectsError if too many objects are missing."""
        await self._state.clock.refresh()
        await self._refill.begin()
        await self._load()
        objects = await ticking(self._tick, self._cluster.list_workloads())
        await self._admission.take_in([obj for obj in objects if not obj["metadata"].get("deletionTimestamp")])
        adopting = self._state.adopting
        if adopting:
            await self._adopt()
            self._state.adopting = False
        await self._cancel_missing(objects)
        await self._admission.review_customers()  # they may have changed while no leader ran
        for tracked in self._state.workloads:
            if tracked.row.phase.bound:
                self._create_missing_pods(tracked)
        known = {tracked.id for tracked in self._state.workloads}
        seen = [*known, *(i for i in self._cluster.workload_ids_with_pods() if i not in known)]
        async for part in in_slices(seen, BATCH_ROWS, tick=self._tick):
            await self._observer.observe(part)
        self._write_statuses(objects)
        logger.info(
            "recovery is done",
            epoch=self._state.epoch,
            live=len(known),
            objects=len(objects),
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
                logger.error("a row can't be parsed; it is left unchanged", id=row.id, error=str(refused))
                continue
            tracked = TrackedWorkload(row, spec, requirements, subject)
            self._state.workloads.put(tracked)
            self._tick()
            if row.phase.bound and requirements is not None:
                self._cluster.claim(row.id, row.attempt, row.workers, requirements, subject)

    def _write_statuses(self, objects: list[Mapping[str, Any]]) -> None:
        """Write the statuses that the last leader didn't write. Only these: a failover must not rewrite all objects."""
        statuses = {obj["metadata"]["uid"]: obj.get("status") for obj in objects}
        for tracked in self._state.workloads:
            _, uid = tracked.row.object or ("", "")
            if uid in statuses and object_to_row.status_behind(tracked.row, statuses[uid]):
                self._cluster.write_status(tracked.row)

    def _create_missing_pods(self, tracked: TrackedWorkload) -> None:
        """Create missing pods of a placement. A Running row had all its pods, so a missing one is lost and isn't
        created again."""
        row = tracked.row
        seen = {pod.index for pod in self._cluster.pods(row.id) if pod.attempt == row.attempt}
        tracked.known |= seen
        if row.phase is Phase.RUNNING:
            tracked.known = set(range(len(row.workers)))
        elif len(seen) < len(row.workers) and not tracked.applying:
            self._creator.submit(tracked)

    async def _cancel_missing(self, objects: list[Mapping[str, Any]]) -> None:
        present = {obj["metadata"]["uid"] for obj in objects if not obj["metadata"].get("deletionTimestamp")}
        live = [t.row.object[1] for t in self._state.workloads if t.row.object is not None and not t.row.phase.terminal]
        missing = [uid for uid in live if uid not in present]
        if len(missing) > max(10, self._state.settings.orphan_stop_ratio * len(live)):
            raise MissingObjectsError(
                f"{len(missing)} of {len(live)} live workloads have no object; refusing to cancel them. "
                "Restore the objects, or cancel the rows by hand"
            )
        await self._admission.take_gone([DeletedObject(uid) for uid in missing])

    async def _adopt(self) -> None:
        """The database is older than the cluster (restored from a backup): rows follow the pods, no pod is deleted."""
        changes: list[RowChange] = []
        for tracked in self._state.workloads.select((Phase.PENDING,)):
            pods = [pod for pod in self._cluster.pods(tracked.id) if not pod.over or pod.phase is PodPhase.SUCCEEDED]
            if not pods:
                continue
            attempt = max(pod.attempt for pod in pods)
            workers = {pod.index: pod.node for pod in pods if pod.attempt == attempt}
            if set(workers) != set(range(tracked.row.replicas)):
                continue  # an incomplete group: its pods keep the next attempt waiting until they are over
            changes.append(
                RowChange(
                    id=tracked.id,
                    version=tracked.row.version,
                    event=Event.PLACE,
                    reason=RowReason.ADOPTED.value,
                    message="rebuilt from running pods",
                    workers=tuple(workers[i] for i in range(tracked.row.replicas)),
                    pool=tracked.row.pool,
                    score=0.0,
                    attempt=attempt,
                    wake_in_seconds=float(tracked.spec.start_timeout_seconds),
                )
            )
        await self._transitions.adopt(changes)
