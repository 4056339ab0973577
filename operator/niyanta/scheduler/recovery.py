"""What a new leader does before it places anything: make memory, objects, rows and pods agree.

It runs after the fence was raised and the old leader's last requests are over. Committed placements without pods are
applied again under the same attempt (pod names are deterministic, so nothing runs twice); pods no attempt needs go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from niyanta.lifecycle import Door, Event, Phase
from niyanta.observability import log
from niyanta.resources.models.base import InvalidManifestError
from niyanta.scheduler.cluster_api import MissingObjectsError
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.admission import Admission
from niyanta.scheduler.intake.refill import Refill
from niyanta.scheduler.intake.work_queue import DeletedObject
from niyanta.scheduler.lease import alive_while
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.session import BATCH, Session
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.rows import RowChange

logger = log.get(__name__)


class Recovery:
    """One repair pass of a session; safe to run again after it broke off."""

    def __init__(self, session: Session, backlog: Refill) -> None:
        self.session = session
        self.backlog = backlog
        self.reception = Admission(session)

    async def run(self) -> None:
        """Load, list, reconcile; raises OrphansError when too much is missing."""
        session = self.session
        await session.clock.refresh()
        await self.backlog.begin()
        await self._load()
        objects = await alive_while(session.tick, session.cluster.list_workloads())
        adopt = session.adopting
        await self.reception.take_in([obj for obj in objects if not obj["metadata"].get("deletionTimestamp")])
        if adopt:
            await self._adopt()
        await self._cancel_missing(objects)
        await self.reception.review_customers()  # whatever they became while nobody led
        for tracked in session.mirror:
            if tracked.row.phase.bound:
                self._reapply(tracked)
        known = {tracked.id for tracked in session.mirror}
        seen = [*known, *(i for i in session.cluster.workload_ids_with_pods() if i not in known)]
        for start in range(0, len(seen), BATCH):
            session.tick()
            await session.observe(seen[start : start + BATCH])
            await asyncio.sleep(0)
        self._project(objects)
        logger.info("repair is done", epoch=session.epoch, live=len(known), objects=len(objects), adopted=adopt)

    async def _load(self) -> None:
        """Every live row into memory, and its workers' capacity claimed."""
        session = self.session
        async for row in session.state.get_active(pending_doors=(Door.KUBERNETES,)):
            if session.mirror.get(row.id) is not None:
                continue
            try:
                spec, requirements, subject = object_to_row.read_row(row, session.cluster)
            except InvalidManifestError as refused:  # written by another release; its pods are left alone
                logger.error("a row can't be read and is left as it is", id=row.id, error=str(refused))
                continue
            tracked = TrackedWorkload(row, spec, requirements, subject)
            session.mirror.put(tracked)
            session.tick()
            if row.phase.bound and requirements is not None:
                session.cluster.claim(row.id, row.attempt, row.workers, requirements, subject)

    def _project(self, objects: list[Mapping[str, Any]]) -> None:
        """Statuses that the last leader didn't get to. Not those that are right: a failover would rewrite them all."""
        statuses = {obj["metadata"]["uid"]: obj.get("status") for obj in objects}
        for tracked in self.session.mirror:
            _, uid = tracked.row.object or ("", "")
            if uid in statuses and object_to_row.status_behind(tracked.row, statuses[uid]):
                self.session.cluster.project(tracked.row)

    def _reapply(self, tracked: TrackedWorkload) -> None:
        """Create the pods that are missing. A Running row has had all its pods: one that is missing now is lost."""
        row = tracked.row
        seen = {pod.index for pod in self.session.cluster.pods(row.id) if pod.attempt == row.attempt}
        tracked.known |= seen
        if row.phase is Phase.RUNNING:
            tracked.known = set(range(len(row.workers)))
        elif len(seen) < len(row.workers) and not tracked.applying:
            self.session.applier.submit(tracked)

    async def _cancel_missing(self, objects: list[Mapping[str, Any]]) -> None:
        session = self.session
        present = {obj["metadata"]["uid"] for obj in objects if not obj["metadata"].get("deletionTimestamp")}
        live = [t.row.object[1] for t in session.mirror if t.row.object is not None and not t.row.phase.terminal]
        missing = [uid for uid in live if uid not in present]
        if len(missing) > max(10, session.settings.orphan_stop_ratio * len(live)):
            raise MissingObjectsError(
                f"{len(missing)} of {len(live)} live workloads have no object; refusing to cancel them. "
                "Restore the objects, or cancel the rows by hand"
            )
        await self.reception.take_gone([DeletedObject(uid) for uid in missing])

    async def _adopt(self) -> None:
        """The database is older than the cluster (restored): rows follow the pods, nothing is deleted."""
        session = self.session
        outcomes: list[tuple[TrackedWorkload, RowChange]] = []
        for tracked in session.mirror.select((Phase.PENDING,)):
            pods = [pod for pod in session.cluster.pods(tracked.id) if not pod.over or pod.phase == "Succeeded"]
            if not pods:
                continue
            attempt = max(pod.attempt for pod in pods)
            workers = {pod.index: pod.node for pod in pods if pod.attempt == attempt}
            if set(workers) != set(range(tracked.row.replicas)):
                continue  # an incomplete group: its pods keep the next attempt waiting until they are over
            change = RowChange(
                id=tracked.id,
                version=tracked.row.version,
                event=Event.PLACE,
                reason="Adopted",
                message="rebuilt from running pods",
                workers=tuple(workers[i] for i in range(tracked.row.replicas)),
                pool=tracked.row.pool,
                score=0.0,
                attempt=attempt,
                wake_in_seconds=float(tracked.spec.start_timeout_seconds),
            )
            outcomes.append((tracked, change))
        for start in range(0, len(outcomes), 500):
            part = outcomes[start : start + 500]
            result = await session.state.update_workload_status_batch([c for _, c in part], epoch=session.epoch)
            for row in result.applied:
                adopted = session.mirror.get(row.id)
                if adopted is not None and adopted.requirements is not None:
                    session.cluster.claim(row.id, row.attempt, row.workers, adopted.requirements, adopted.subject)
                    session.after(row, LifecycleDecision(Event.PLACE, row.reason, row.message))
