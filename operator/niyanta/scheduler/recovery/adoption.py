"""Adoption: the database is older than the cluster (restored from a backup), so rows follow pods and objects.

`recovery` calls it. No pod is removed until it is done. Rows of REST submissions that the backup lacks are rebuilt,
under their ids, from the Workload objects that the last leader made for them; rows of objects made by users come from
admission. Then every row whose pods are ahead of it moves to their attempt.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from niyanta.aio import in_slices
from niyanta.containment import Boundary, contained, record
from niyanta.lifecycle import Door, Event, Phase
from niyanta.observability import log
from niyanta.resources.labels import REST_ID
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.pods.rest_object import is_object_of, rest_id
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import BATCH_ROWS, Transitions
from niyanta.store.rows import RowChange, WorkloadIntake, WorkloadRow
from niyanta.store.state import StateManager

logger = log.get(__name__)

Manifest = Mapping[str, Any]

REBUILT = "rebuilt from running pods"


class Adoption:
    """Brings the rows of a restored database up to the cluster. May be repeated after it was interrupted."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        transitions: Transitions,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._transitions = transitions
        self._tick = tick

    # --- rows of REST submissions -------------------------------------------------------------------------------------

    async def rebuild(self, objects: Sequence[Manifest]) -> Sequence[Manifest]:
        """Rebuild and load the rows of REST submissions that have an object. Must run before admission, which would
        take the objects for workloads of users. Returns the objects without those that could not be rebuilt."""
        found: dict[str, tuple[str, Manifest]] = {}
        for obj in sorted(objects, key=self._owns_pods):  # a user may set the label: the object with pods prevails
            with contained(Boundary.OBJECT, str(obj["metadata"].get("uid", ""))):
                name = submitted_name(obj)
                if name:
                    found[rest_id(obj)] = (name, obj)
        failed: set[str] = set()
        async for part in in_slices(list(found), BATCH_ROWS, tick=self._tick):
            rows = {row.id: row for row in await self._store.get_workloads(part)}
            lacking = [i for i in part if i not in rows]
            rows |= await self._insert({i: found[i] for i in lacking})
            for id_, row in rows.items():
                with contained(Boundary.ROW, id_):
                    await self._follow_object(row, found[id_][1])
            failed |= {found[id_][1]["metadata"]["uid"] for id_ in part if id_ not in rows}
        return [obj for obj in objects if obj["metadata"]["uid"] not in failed]

    def _owns_pods(self, obj: Manifest) -> bool:
        meta, id_ = obj["metadata"], rest_id(obj)
        pods = self._cluster.pods(id_) if id_ else []
        return any((pod.namespace, pod.owner_uid) == (meta["namespace"], meta["uid"]) for pod in pods)

    async def _insert(self, submissions: Mapping[str, tuple[str, Manifest]]) -> dict[str, WorkloadRow]:
        """Insert the rows that the database lacks."""
        intakes = []
        for id_, (name, obj) in submissions.items():
            with contained(Boundary.OBJECT, id_):
                intakes.append(self._intake(id_, name, obj))
        if not intakes:
            return {}
        # No queue limits: these submissions were accepted once.
        batch = await in_isolation(
            intakes,
            lambda part: self._store.take_in(part, epoch=self._state.epoch, queue_limits={}),
            group=lambda intake: intake.namespace,
        )
        for intake, error in batch.culprits:
            record(Boundary.OBJECT, intake.id, error)
        rows = {row.id: row for written in batch.results for row in written}
        logger.warning("rows of REST submissions were rebuilt from their objects", rows=len(rows))
        return rows

    def _intake(self, id_: str, name: str, obj: Manifest) -> WorkloadIntake:
        labels = {key: value for key, value in (obj["metadata"].get("labels") or {}).items() if key != REST_ID}
        submitted = {**obj, "metadata": {**obj["metadata"], "name": name, "labels": labels}}
        intake = object_to_row.read_object(submitted, self._cluster, self._state.settings).intake
        return replace(intake, id=id_, door=Door.REST)

    async def _follow_object(self, row: WorkloadRow, obj: Manifest) -> None:
        """Note the row's object, and load the row, which recovery doesn't do for waiting REST submissions."""
        if row.phase.terminal or not is_object_of(obj, row):
            return
        meta = obj["metadata"]
        if row.object_uid is None:
            await self._store.set_object(row.id, uid=meta["uid"], name=meta["name"], epoch=self._state.epoch)
            row = replace(row, object_uid=meta["uid"], object_name=meta["name"])
        tracked = self._state.workloads.get(row.id)
        if tracked is not None:
            tracked.row = row
            self._state.workloads.index_object(tracked)
            return
        spec, requirements, subject = object_to_row.read_row(row, self._cluster)
        tracked = TrackedWorkload(row, spec, requirements, subject)
        self._state.workloads.put(tracked)
        self._transitions.settle(tracked)

    # --- rows whose pods are ahead ------------------------------------------------------------------------------------

    async def follow_pods(self) -> None:
        """Move each row to the highest attempt that has pods."""
        changes: list[RowChange] = []
        for tracked in self._state.workloads:
            self._tick()
            with contained(Boundary.ROW, tracked.id):
                found = self._changes(tracked)
                if found and tracked.row.phase.bound:
                    self._cluster.unclaim(tracked.id, tracked.row.attempt)
                changes += found
        await self._transitions.adopt(changes)

    def _changes(self, tracked: TrackedWorkload) -> list[RowChange]:
        """The steps from the row as it was restored to the attempt of its pods; none if it is there already.

        A group that lacks pods can't go on: its row ends up Pending at the pods' attempt, so that the next attempt has
        a number and names of its own, and waits for their end.
        """
        row = tracked.row
        if row.phase not in STEPS_TO_PENDING or tracked.requirements is None:
            return []
        _, uid = row.object or ("", "")
        pods = [
            pod
            for pod in self._cluster.pods(row.id)
            if (pod.namespace, pod.owner_uid) == (row.namespace, uid) and 0 <= pod.index < row.replicas and pod.node
        ]
        attempt = max((pod.attempt for pod in pods), default=0)
        if attempt <= row.attempt:
            return []
        found = {pod.index: (pod.node, pod.pool) for pod in pods if pod.attempt == attempt}
        anywhere = next(iter(found.values()))
        workers, pools = zip(*(found.get(i, anywhere) for i in range(row.replicas)), strict=True)
        events = [*STEPS_TO_PENDING[row.phase], Event.PLACE]
        if len(found) < row.replicas:
            events.append(Event.REQUEUE)
        return [
            RowChange(
                id=row.id,
                version=row.version + step,
                event=event,
                reason=RowReason.ADOPTED.value,
                message=REBUILT if event is Event.PLACE else "",
                workers=workers if event is Event.PLACE else None,
                pool=pools[0],
                pools=pools if event is Event.PLACE else (),
                score=0.0,
                attempt=attempt if event is Event.PLACE else None,
                wake_in_seconds=float(tracked.spec.start_timeout_seconds) if event is Event.PLACE else None,
                counts=False,
            )
            for step, event in enumerate(events)
        ]


STEPS_TO_PENDING: Mapping[Phase, tuple[Event, ...]] = {
    Phase.PENDING: (),
    Phase.HELD: (Event.RELEASE,),
    Phase.SUSPENDED: (Event.RESUME,),
    Phase.SCHEDULED: (Event.REQUEUE,),
    Phase.RUNNING: (Event.REQUEUE,),
}
"""Events that lead to Pending, from where a row can be placed."""


def submitted_name(obj: Manifest) -> str:
    """Name of the REST submission that the object was made for; "" for any other object."""
    id_, name = rest_id(obj), str(obj["metadata"]["name"])
    try:
        canonical = str(uuid.UUID(id_))
    except ValueError:
        return ""
    suffix = f"-{id_.replace('-', '')[:8]}"
    return name.removesuffix(suffix) if canonical == id_ and name.endswith(suffix) and name != suffix else ""
