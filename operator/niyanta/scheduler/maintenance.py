"""What the leader does beside placing: customers' limits, drains asked for by REST, figures for REST, upkeep."""

from __future__ import annotations

import time

from niyanta.lifecycle import Event, Phase
from niyanta.observability import log
from niyanta.scheduler.lease import alive_while
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.session import Session, TransitionRequest
from niyanta.scheduler.workload_cache import TrackedWorkload
from niyanta.store.workloads.limits import QUEUE_FULL, RELEASE_AT_ONCE

logger = log.get(__name__)

HELD_EVERY = 1.0
REQUESTS_EVERY = 2.0
HOUSE_EVERY = 3600.0
"""Seconds; partitions are made days ahead, so an hour late is early."""


class Maintenance:
    """Called by the leader's timers; each duty keeps its own interval."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._due: dict[str, float] = {}

    async def run(self) -> None:
        """Do what is due."""
        await self._answer_asks()
        if self._is_due("held", HELD_EVERY):
            await self._release_held()
        if self._is_due("requests", REQUESTS_EVERY):
            await self._worker_requests()
        if self._is_due("stats", self.session.settings.leader_stats_interval):
            await self._write_stats()
        if self._is_due("house", HOUSE_EVERY):
            await self.session.state.maintain_partitions()

    def _is_due(self, duty: str, every: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(duty, 0.0):
            return False
        self._due[duty] = now + every
        return True

    async def _release_held(self) -> None:
        """Workloads held for a full queue leave in queue order as room appears."""
        session = self.session
        held = [t for t in session.mirror.select((Phase.HELD,)) if t.row.reason == QUEUE_FULL]
        for customer in sorted({tracked.row.customer for tracked in held}):
            limit = session.cluster.limits_of(customer).queue_depth
            while True:
                session.tick()
                rows = await session.state.release_held(customer, limit, epoch=session.epoch)
                for row in rows:
                    tracked = session.mirror.get(row.id)
                    if tracked is not None:
                        session.after(row, LifecycleDecision(Event.RELEASE, row.reason, row.message))
                if rows:
                    session.inbox.put_capacity()  # they are in the queue now, and nothing else need happen
                if len(rows) < RELEASE_AT_ONCE:
                    break

    async def _worker_requests(self) -> None:
        """Drain: no new pods, and what runs there goes back to the queue as a fresh attempt."""
        session = self.session
        for request in await session.state.get_worker_requests():
            if not await alive_while(session.tick, session.cluster.cordon(request.worker)):
                message = "there is no such node any more"
            else:
                on_it = self._on_worker(request.worker)
                verdict = LifecycleDecision(Event.REQUEUE, "WorkerDrained", f"worker {request.worker} is drained")
                await session.commit([TransitionRequest(tracked, verdict) for tracked in on_it])
                message = f"cordoned; {len(on_it)} workloads went back to the queue"
            await session.state.complete_worker_request(request.id, message=message, epoch=session.epoch)
            logger.info("worker drained", worker=request.worker, by=request.requested_by, outcome=message)

    async def _answer_asks(self) -> None:
        """What the scaler asks about workers. Here no cycle is under way: what isn't in the record by now can't be
        placed on a cordoned worker any more. Asks stay until they are answered, whatever fails."""
        session = self.session
        for ask in list(session.asks):
            if ask.answer.done():
                session.asks.remove(ask)
            elif ask.evict:
                on_it = self._on_worker(ask.worker)
                verdict = LifecycleDecision(Event.REQUEUE, ask.reason, f"worker {ask.worker} is removed from its pool")
                await session.commit([TransitionRequest(tracked, verdict) for tracked in on_it])
                session.answer(ask, len(on_it))
            elif session.cluster.takes_pods(ask.worker):
                session.answer(ask, -1)
            else:
                session.answer(ask, len(await session.state.get_workloads_by_worker(ask.worker)))

    def _on_worker(self, worker: str) -> list[TrackedWorkload]:
        bound = self.session.mirror.select((Phase.SCHEDULED, Phase.RUNNING))
        return [t for t in bound if worker in t.row.workers and not t.applying]

    async def _write_stats(self) -> None:
        session = self.session
        total, pools, customers = session.pace.per_minute()
        workers, ready = session.cluster.worker_counts()
        pending = session.mirror.select((Phase.PENDING,))
        stats = {
            "at": session.clock.now(),
            "epoch": session.epoch,
            "placed_per_minute": total,
            "placed_per_minute_by_pool": pools,
            "placed_per_minute_by_customer": customers,
            "pending": len(pending),
            "oldest_us": min((t.row.queued_at_us for t in pending), default=None),
            "workers": workers,
            "ready_workers": ready,
        }
        await session.state.write_leader_stats(stats, epoch=session.epoch)
