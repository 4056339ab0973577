"""A leader on a real Postgres and a fake cluster, wired in the same way as by the manager. Tests use the leader's parts
only through `LeaderUnderTest`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

from prometheus_client import REGISTRY

from niyanta.containment import Boundary
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.backlog.backlog import Backlog
from niyanta.scheduler.backlog.row_changes import FOLLOW_AT_LEAST_SECONDS
from niyanta.scheduler.demand.sizing_result import SizingResult
from niyanta.scheduler.intake.work_queue import DeletedObject, WorkQueue
from niyanta.scheduler.leader import make_leader
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.workload_cache import WorkloadCache
from niyanta.scheduler.metrics import SchedulerMetrics
from niyanta.scheduler.periodic.finished_objects import FinishedObjects
from niyanta.scheduler.periodic.row_retention import RowRetention
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import TransitionRequest
from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import RowChange, WorkloadRow
from niyanta.store.state import StateManager
from tests.fakes.cluster import FakeCluster
from tests.fakes.kubelet import Kubelet

TIMEOUT_SECONDS = 30.0
"""Longest wait for a condition; generous, because test machines may be slow."""

LOOK_EVERY_SECONDS = 0.01


async def until(condition: Callable[[], Any] | Callable[[], Awaitable[Any]], what: str) -> Any:
    """Wait until `condition` (plain or async) returns a true value, and return it."""
    last: Any = None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                found = condition()
                last = await found if asyncio.iscoroutine(found) else found
                if last:
                    return last
                await asyncio.sleep(LOOK_EVERY_SECONDS)
    except TimeoutError:
        raise AssertionError(f"not within {TIMEOUT_SECONDS:g} s: {what} (last seen: {last!r})") from None


def contained_errors(boundary: Boundary) -> float:
    """Number of errors that this process has contained at a boundary."""
    return REGISTRY.get_sample_value("niyanta_contained_errors_total", {"boundary": boundary.value}) or 0.0


class InterruptibleStore:
    """A store with simulated outages and errors: while `away`, every operation raises StoreUnavailableError."""

    def __init__(self, store: StateManager) -> None:
        self.away = False
        self.refused = 0
        """Number of operations that failed by the outage."""
        self.before: dict[str, Callable[..., None]] = {}
        """Operation -> function that gets its arguments and may raise."""
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if self.away:
            self.refused += 1
            raise StoreUnavailableError("the test took Postgres away")
        operation = getattr(self._store, name)
        before = self.before.get(name)
        if before is None:
            return operation

        async def checked(*args: Any, **kwargs: Any) -> Any:
            before(*args, **kwargs)
            return await operation(*args, **kwargs)

        return checked


class LeaderUnderTest:
    """One leadership. Tests call its parts one by one, or run the whole loop after `start`."""

    def __init__(
        self, store: StateManager, *, epoch: int, settings: Settings, cluster: FakeCluster, adopting: bool = False
    ) -> None:
        self.epoch = epoch
        self.cluster = cluster
        self.kubelet = Kubelet(cluster)
        self.outage = InterruptibleStore(store)
        self.store = store
        """For the test's own reads and writes, which no outage affects."""
        self.work_queue = WorkQueue(asyncio.get_running_loop())
        self.work_queue.open()
        cluster.work_queue = self.work_queue
        self.lost = asyncio.Event()
        """Set when the pod creator or the pod remover has found leadership lost."""
        self.ticks = 0
        self.recovered = asyncio.Event()
        leader_store = cast(StateManager, self.outage)
        self._leader = make_leader(
            SchedulerState.of_leadership(epoch, settings, clock=Clock(leader_store), adopting=adopting),
            store=leader_store,
            cluster=cluster,
            work_queue=self.work_queue,
            metrics=SchedulerMetrics(customer_tier=cluster.customer_tier, most_pools=100),
            on_lost=self.lost.set,
            tick=self._tick,
        )
        self._row_retention = RowRetention(self._leader.state, store=leader_store)
        self.task: asyncio.Task[None] | None = None

    # --- running -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the loop and wait until recovery is done."""
        self.start_recovery()
        await until(lambda: self.recovered.is_set() or (self.task and self.task.done()), "recovery ends")
        if self.task is not None and self.task.done():
            self.task.result()

    def start_recovery(self) -> None:
        """Start the loop, and return at once."""
        self.task = asyncio.create_task(self._leader.run(self._on_recovered), name="leader under test")

    async def check_missing_objects(self) -> None:
        """Take the workloads whose objects are missing a step further: confirmations, and objects that are back."""
        await self._leader.handlers.missing_objects.check()

    async def recover(self) -> None:
        """Run recovery alone, without the loop."""
        await self._leader.handlers.recovery.run()

    async def close(self) -> None:
        """End the leadership in the same way as the manager."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.work_queue.close()
        await self._leader.close()

    # --- parts -------------------------------------------------------------------------------------------------------

    @property
    def workloads(self) -> WorkloadCache:
        """Live workloads in the leader's memory."""
        return self._leader.state.workloads

    def tracked(self, workload_id: str) -> TrackedWorkload:
        """A workload in the leader's memory."""
        found = self.workloads.get(workload_id)
        assert found is not None, f"{workload_id} is not in memory"
        return found

    async def commit(self, *decisions: tuple[TrackedWorkload, LifecycleDecision]) -> None:
        """Commit decisions."""
        await self._leader.writers.transitions.commit(
            [TransitionRequest(tracked, decision) for tracked, decision in decisions]
        )

    async def decide(self, workload_id: str, event: Event, reason: str = "Test", message: str = "") -> None:
        """Commit one decision."""
        await self.commit((self.tracked(workload_id), LifecycleDecision(event, reason, message)))

    async def place(self, workload_id: str, *workers: str, pools: tuple[str, ...] = ()) -> None:
        """Commit a placement; its pods are created concurrently."""
        tracked = self.tracked(workload_id)
        change = RowChange(
            tracked.id,
            tracked.row.version,
            Event.PLACE,
            reason="Placed",
            workers=workers,
            pool="pool-a",
            pools=pools,
            score=1.0,
            attempt=tracked.row.attempt + 1,
            wake_in_seconds=600.0,
        )
        await self._leader.writers.transitions.place([change], cycle=1)

    async def created(self, workload_id: str) -> None:
        """Wait until the creates of a workload have ended."""
        await until(lambda: not self.tracked(workload_id).applying, f"creates of {workload_id} end")

    async def placed(self, name: str, *workers: str, **spec: Any) -> str:
        """Submit a workload, take it in, and place it on `workers` with all its pods, without the loop. Returns its
        id."""
        uid = self.cluster.submit(name, **spec)
        await self.take_in(uid)
        await self.place(uid, *workers)
        await self.created(uid)
        return uid

    async def take_in(self, *uids: str) -> None:
        """Turn Workload objects into rows."""
        await self._leader.handlers.admission.take_in([self.cluster.objects[uid] for uid in uids])

    async def take_gone(self, *uids: str) -> None:
        """Handle deletions of Workload objects."""
        await self._leader.handlers.admission.take_gone([DeletedObject(uid) for uid in uids])

    async def review_customers(self) -> None:
        """Handle changes of Customers."""
        await self._leader.handlers.admission.review_customers()

    def request_reviews(self) -> None:
        """Tell the leader that Customers changed; `review_slice` follows."""
        self._leader.handlers.reviews.request_all()

    async def review_slice(self) -> None:
        """Review the next workloads."""
        await self._leader.handlers.reviews.run_slice()

    async def review_defaults(self, *namespaces: str) -> None:
        """Handle changes of LimitRanges."""
        self._leader.handlers.reviews.request_namespaces(namespaces)
        await self._leader.handlers.reviews.finish()

    async def refresh(self, *workload_ids: str) -> None:
        """Read rows again."""
        await self._leader.writers.transitions.refresh(workload_ids)

    async def evict(self, worker: str, reason: str) -> int:
        """Evict a worker's workloads, as pool scaling does."""
        return await self._leader.drain_queries.evict(worker, reason)

    async def is_free(self, worker: str) -> bool:
        """Check that a worker is free, as pool scaling does before it removes a worker."""
        return await self._leader.drain_queries.is_free(worker)

    def open_breakers(self) -> int:
        """Number of namespaces in which the creation of pods is stopped."""
        return self._leader.state.namespace_gates.open_breakers()

    def requirements(self, workload_id: str) -> dict[str, int]:
        """Requests of a workload in memory, in base units."""
        found = self.tracked(workload_id).requirements
        assert found is not None
        return dict(found.requests)

    async def observe(self, *workload_ids: str) -> None:
        """Observe the pods of these workloads and all results of pod creation."""
        await self._leader.handlers.observer.observe(workload_ids)

    async def follow_changes(self) -> bool:
        """Read rows that other processes changed. Returns True if the queue may have changed."""
        self.work_queue.put_hint()
        await asyncio.sleep(FOLLOW_AT_LEAST_SECONDS)
        return await self._leader.handlers.row_changes.follow()

    @property
    def state(self) -> SchedulerState:
        """The state of the leadership."""
        return self._leader.state

    @property
    def backlog(self) -> Backlog:
        """Pending REST rows, in memory or not."""
        return self._leader.state.backlog

    async def load_backlog(self) -> bool:
        """Count the backlog and load rows of it once. Returns True if the queue may have changed."""
        return await self._leader.handlers.backlog_loader.run()

    async def run_cycle(self) -> bool:
        """Run one cycle. Returns True if another cycle is wanted at once."""
        return await self._leader.cycle.run()

    @property
    def reasons(self) -> PendingReasons:
        """The collected pending reasons."""
        return self._leader.writers.reasons

    def sized(self, result: SizingResult) -> None:
        """Let the leader take over a sizing result."""
        self._leader.state.sizing_result = result

    async def write_reasons(self) -> None:
        """Write the collected pending reasons."""
        await self._leader.writers.reasons.write()

    async def make_due(self, *workload_ids: str) -> bool:
        """Make rows due now, and handle the due rows. Returns True if the queue may have changed."""
        await self.store.set_wake(workload_ids, 0.0, epoch=self.epoch)
        due = await self.store.get_due(100)
        assert {row.id for row in due}.issuperset(workload_ids)
        return await self._leader.wake_ups.handle(due)

    @property
    def finished_objects(self) -> FinishedObjects:
        """Finished objects in the leader's memory."""
        return self._leader.state.finished_objects

    def allow_deletions(self, number: float) -> None:
        """Let deletions of finished objects begin now, as after a quiet time."""
        self._leader.expiry.allowed = number

    def begin_deletions(self) -> None:
        """Choose finished objects, and begin their deletions."""
        self._leader.expiry.run()

    async def expire(self) -> None:
        """The same, and wait until each deletion that began has succeeded or failed."""
        self.begin_deletions()
        await until(lambda: not self._leader.expiry.under_way, "the deletions end")

    async def retain_rows(self) -> None:
        """Delete the next slice of the rows whose retention is over."""
        await self._row_retention.run()

    async def round(self) -> None:
        """Run one round of the loop."""
        await self._leader.loop.round()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def row(self, workload_id: str) -> WorkloadRow:
        """A row, read from Postgres."""
        (row,) = await self.store.get_workloads([workload_id])
        return row

    async def rows(self, workload_ids: Iterable[str]) -> Sequence[WorkloadRow]:
        """Rows, read from Postgres, in the order of `workload_ids`."""
        found = {row.id: row for row in await self.store.get_workloads(list(workload_ids))}
        return [found[workload_id] for workload_id in workload_ids]

    async def reaches(self, workload_id: str, phase: Phase, *, attempt: int | None = None) -> WorkloadRow:
        """Wait until a row is in `phase` (and at `attempt`)."""

        async def there() -> WorkloadRow | None:
            found = await self.store.get_workloads([workload_id])
            fits = found and found[0].phase is phase and attempt in (None, found[0].attempt)
            return found[0] if fits else None

        row: WorkloadRow = await until(there, f"{workload_id} becomes {phase.value}")
        return row

    async def has_reason(self, workload_id: str, reason: str) -> WorkloadRow:
        """Wait until a row has `reason`."""

        async def there() -> WorkloadRow | None:
            found = await self.store.get_workloads([workload_id])
            return found[0] if found and found[0].reason == reason else None

        row: WorkloadRow = await until(there, f"{workload_id} has reason {reason}")
        return row

    async def pods_of(self, workload_id: str, count: int = 1) -> list[str]:
        """Wait until a workload has `count` pods; returns their names."""

        await until(lambda: len(self.cluster.live_pods(workload_id)) == count, f"{workload_id} has {count} pods")
        return [pod.name for pod in self.cluster.live_pods(workload_id)]

    async def is_running(self, workload_id: str, *, count: int = 1) -> WorkloadRow:
        """Let the kubelet run a workload's pods when all exist, and wait until the row is Running."""
        await self.pods_of(workload_id, count)
        self.kubelet.run(workload_id)
        return await self.reaches(workload_id, Phase.RUNNING)

    def _tick(self) -> None:
        self.ticks += 1

    async def _on_recovered(self) -> None:
        self.recovered.set()
