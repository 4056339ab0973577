"""The process `niyanta operator`: wiring of its components, the tasks of every replica, and the tasks of the leader.

Flow: kopf (cluster.watch.kopf_watcher) and the reflectors (cluster.state.cache) -> scheduler.intake.work_queue ->
scheduler.loop -> store and cluster.api.client; committed rows -> cluster.status.workload_status.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from niyanta.aio import Backoff, retry, ticking
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.connection import connect
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import CUSTOMERS, WORKER_POOLS, WORKLOADS
from niyanta.cluster.deleted_workloads import DeletedWorkloads
from niyanta.cluster.kubernetes import KubernetesCluster
from niyanta.cluster.leadership.election import Candidate, Loss, Settled
from niyanta.cluster.old_objects import OldFormError, open_transport, refuse_old_form
from niyanta.cluster.resource_lists import ResourceLists
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.status.customer_status import CustomerStatusWriter
from niyanta.cluster.status.event_recorder import EventRecorder
from niyanta.cluster.status.shown_statuses import ShownStatuses
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.cluster.watch.kopf_watcher import KopfWatcher
from niyanta.custom_metrics.adapter import MetricsAdapter
from niyanta.observability import log
from niyanta.observability.http import Exporter, measure_stalls
from niyanta.pools.controller import ScalingController
from niyanta.pools.factory import make_scaling_controller
from niyanta.pools.pool_status import PoolStatusWriter
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.leader import make_leader
from niyanta.scheduler.lease import Lease
from niyanta.scheduler.metrics import SchedulerMetrics
from niyanta.scheduler.periodic.drain_queries import DrainQueries
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.clock import Clock
from niyanta.store.postgres.notify import listen
from niyanta.store.postgres.old_rows import missing_migrations, names_migrated_at
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.rest.api_keys import ApiKeys
from niyanta.store.rest.key_expiry import report_expiring_keys
from niyanta.store.state import StateManager
from niyanta.store.workloads.queue_key import queue_settings
from niyanta.supervision import supervised

logger = log.get(__name__)

SILENCE_LIMIT_SECONDS = 150.0
"""Time without bytes from the API server (bookmarks come each minute) after which a replica isn't ready."""

HEARTBEAT_SECONDS = 0.5
STALLED_AFTER_SECONDS = 30.0
"""An event loop without a heartbeat for longer than this fails the liveness probe."""

RETRY_SECONDS = 0.5
"""Longest pause before a request without an answer from Postgres or the API server is repeated."""


class Operator:
    """One operator process."""

    def __init__(self, settings: Settings, pool: Pool, client: ApiClient) -> None:
        self.settings = settings
        self.pool = pool
        self.client = client
        self.loop = asyncio.get_running_loop()
        self.work_queue = WorkQueue(self.loop)
        self.lease = Lease(seconds=settings.lease, stall_limit=settings.loop_stall_limit)
        self.state = StateManager(pool, settings)
        self.clock = Clock(self.state)
        self.shown_statuses = ShownStatuses()
        self.status_writer = self._make_status_writer()
        self.event_recorder = EventRecorder(client, self.clock, per_second=settings.events_per_second)
        self.cache = ClusterCache(
            connect(settings),
            on_workloads=self.work_queue.put_workloads,
            on_nodes=self._nodes_changed,
            on_room=self.work_queue.put_capacity,
            on_defaults=self._defaults_changed,
            on_namespaces=self.work_queue.put_defaults,
            require_namespace_label=settings.require_namespace_label,
        )
        self.resources = ResourceLists(
            client,
            namespace=settings.namespace,
            on_customers=self._customers_changed,
            on_pools=self._pools_changed,
            set_pools=self.cache.set_pools,
        )
        self.deleted = DeletedWorkloads(client, on_deleted=self.work_queue.put_gone)
        self.cluster = KubernetesCluster(
            cache=self.cache,
            client=client,
            customers=self.resources.customers,
            pools=self.resources.pools,
            status_writer=self.status_writer,
            event_recorder=self.event_recorder,
            operator_namespace=settings.namespace,
            queue_share=-(-settings.max_queue_depth // 2) or None,
        )
        self.metrics = SchedulerMetrics(customer_tier=self.cluster.customer_tier, most_pools=settings.metrics_max_pools)
        self.watcher = KopfWatcher(
            settings,
            {
                WORKLOADS: self._workload_event,
                CUSTOMERS: self.resources.customers.on_event,
                WORKER_POOLS: self.resources.pools.on_event,
            },
        )
        self.candidate = Candidate(
            leadership=Leadership(pool, settings.identity, settings.lease),
            client=client,
            lease=self.lease,
            settings=settings,
        )
        self.adapter = MetricsAdapter(settings, client=client, state=self.state, pools=self.resources.pools.items)
        self._beat = time.monotonic()
        self._stop = asyncio.Event()
        self._scaler: ScalingController | None = None
        """The scaling of pools while this process leads; None otherwise."""

    def _make_status_writer(self) -> WorkloadStatusWriter:
        return WorkloadStatusWriter(
            self.client,
            self.clock,
            debounce=self.settings.status_debounce,
            queue=queue_settings(self.settings),
            shown=self.shown_statuses,
        )

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until SIGTERM (returns 0) or until another process takes leadership (returns 1, so that the kubelet
        starts a new process)."""
        exporter = Exporter(
            host=self.settings.metrics_host,
            port=self.settings.metrics_port,
            alive=self._alive,
            ready=self._ready,
            token_file=self.settings.metrics_token_file,
        )
        await exporter.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._stop.set)
        background = [
            asyncio.create_task(supervised(name, work), name=name)
            for name, work in (
                ("cache", self.cache.run),
                ("workload status", self.status_writer.run),
                ("events", self.event_recorder.run),
                ("resource lists", self.resources.run),
                ("pools", self.resources.follow_pools),
                ("stalls", measure_stalls),
                ("heartbeat", self._heartbeat),
                *self.adapter.tasks(),
            )
        ]
        self.watcher.start()
        election = asyncio.create_task(self._elect(), name="election")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait([election, stop], return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                return 0
            election.result()  # raises the error that ended it
            return 1
        finally:
            orderly = stop.done()
            await _cancel([election, stop])
            if orderly:
                await self.candidate.release()
            await asyncio.to_thread(self.watcher.stop)
            await _cancel(background)
            await self.adapter.stop()
            await exporter.stop()

    async def _elect(self) -> Loss:
        await _until_answered(self._refuse_old_form)
        await self.cache.synced()
        await _until_answered(self.resources.load)
        return await self.candidate.run(self._lead)

    async def _refuse_old_form(self) -> None:
        """Raise OldFormError beside objects, definitions or a schema of an earlier release."""
        if missing := await missing_migrations(self.pool):
            raise OldFormError(f"the database lacks migrations: run `niyanta migrate` ({', '.join(missing)})")
        connection = connect(self.settings)
        async with open_transport(connection, request_timeout=self.settings.request_timeout) as transport:
            await refuse_old_form(transport, migrated_at=await names_migrated_at(self.pool))

    async def _lead(self, epoch: int, adopting: bool, settled: Settled) -> None:
        """Run the leader's tasks; ends by LeaseLostError, StaleEpochError or cancellation."""
        await _until_answered(self.clock.refresh)
        self.work_queue.open()
        state = SchedulerState.of_leadership(epoch, self.settings, clock=self.clock, adopting=adopting)
        leader = make_leader(
            state,
            store=self.state,
            cluster=self.cluster,
            work_queue=self.work_queue,
            metrics=self.metrics,
            on_lost=self.candidate.lost.set,
            tick=self.lease.tick,
        )
        scaler = self._scaler = self._make_scaler(state, leader.drain_queries)
        beside = self._start_leader_tasks(state, scaler)

        async def on_recovered() -> None:
            # It also returns at once where scaling is disabled.
            ended = self._check_lease
            beside.append(asyncio.create_task(supervised("scaling", scaler.run, on_return=ended), name="scaling"))
            await settled()

        try:
            await self._prepare_to_lead()
            await leader.run(on_recovered)
        finally:
            self._scaler = None
            await _cancel(beside)
            self.work_queue.close()
            try:
                await leader.close()
            finally:
                self.status_writer.clear()
            self.cache.close_delta_cursors()

    def _make_scaler(self, state: SchedulerState, drain_queries: DrainQueries) -> ScalingController:
        return make_scaling_controller(
            self.settings,
            cache=self.cache,
            client=self.client,
            state=state,
            store=self.state,
            drain_queries=drain_queries,
            pool_labels=self.metrics.pools,
            pools=self.resources.pools,
            may_act=lambda: self.lease.valid,
        )

    def _start_leader_tasks(self, state: SchedulerState, scaler: ScalingController) -> list[asyncio.Task[Any]]:
        """Start the tasks that run beside the leader's loop from the beginning."""
        pool_status = PoolStatusWriter(
            cache=self.cache,
            client=self.client,
            state=state,
            store=self.state,
            pools=self.resources.pools,
            customers=self.resources.customers,
            settings=self.settings,
            conditions=scaler.conditions,
        )
        customer_status = CustomerStatusWriter(
            client=self.client,
            store=self.state,
            customers=self.resources.customers,
            clock=self.clock,
            cache=self.cache,
            interval_seconds=self.settings.customer_status_interval,
        )
        work = [
            ("pool status", pool_status.run),
            ("customer status", customer_status.run),
            ("deletions", lambda: self.deleted.run(lambda: live_objects(state))),
            ("API keys", lambda: report_expiring_keys(ApiKeys(self.pool))),
            ("hints", lambda: listen(self.settings.dsn, self.work_queue.put_hint)),
            *self.adapter.leader_tasks(),
        ]
        # They return only when a write finds leadership lost.
        lost = self.candidate.lost.set
        return [asyncio.create_task(supervised(name, run, on_return=lost), name=name) for name, run in work]

    def _check_lease(self) -> None:
        if not self.lease.valid:
            self.candidate.lost.set()

    async def _prepare_to_lead(self) -> None:
        """Bring the cache and the resource lists up to date before recovery."""
        self.cache.close_delta_cursors()
        await ticking(self.lease.tick, self.cache.relist_consistent())
        await ticking(self.lease.tick, _until_answered(self.resources.load))
        if self.settings.default_customer:
            await self.resources.ensure_default_customer()
        gc.collect()
        gc.freeze()

    # --- changes -----------------------------------------------------------------------------------------------------

    def _workload_event(self, kind: str, obj: Mapping[str, Any]) -> None:
        self.shown_statuses.on_event(kind, obj)
        if kind == "DELETED":
            self.work_queue.put_gone(obj["metadata"]["uid"])
            return
        self.work_queue.put_object(obj)
        if not kind:
            self.deleted.kopf_listed()

    def _customers_changed(self) -> None:
        self.cluster.customers_changed()
        self.work_queue.put_customers()

    def _pools_changed(self) -> None:
        self.work_queue.put_capacity()
        if self._scaler is not None:
            self._scaler.wake()

    def _nodes_changed(self, nodes: set[str]) -> None:
        for node in nodes:
            self.work_queue.put_workloads(self.cache.workloads_on(node))
        self.work_queue.put_capacity()
        if self._scaler is not None:
            self._scaler.wake()

    def _defaults_changed(self, namespaces: set[str]) -> None:
        self.cluster.defaults_changed(namespaces)
        self.work_queue.put_defaults(namespaces)

    # --- probes ------------------------------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _alive(self) -> str:
        if time.monotonic() - self._beat > STALLED_AFTER_SECONDS:
            return "the event loop has stalled"
        return "" if self.watcher.alive else "kopf's supervisor has ended"

    def _ready(self) -> str:
        if missing := self.cache.not_synced():
            return f"not listed yet: {', '.join(missing)}"
        if not self.watcher.ready:
            return "kopf is not watching yet"
        if self.cache.silence() > SILENCE_LIMIT_SECONDS:
            return "the API server is silent"
        return self.adapter.problem()


async def _until_answered(ask: Callable[[], Awaitable[None]]) -> None:
    """Repeat `ask` while Postgres or the API server is away."""
    await retry(
        ask,
        on=(ApiError, StoreUnavailableError),
        backoff=Backoff(first_seconds=RETRY_SECONDS, longest_seconds=RETRY_SECONDS),
        report=lambda error, _: logger.warning("a request failed; repeating", error=str(error)),
    )


def live_objects(state: SchedulerState) -> set[str]:
    """UIDs of the Workload objects that should exist: those of unfinished workloads, from both doors, and finished
    ones that weren't deleted."""
    unfinished = {t.row.object[1] for t in state.workloads if t.row.object is not None and not t.row.phase.terminal}
    return unfinished | state.finished_objects.uids()


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def operate(settings: Settings) -> int:
    """Run an operator process; returns its exit code."""
    # Long-lived caches make full collections expensive, and few objects form cycles.
    gc.set_threshold(50_000, 20, 100)
    async with contextlib.AsyncExitStack() as stack:
        pool = await open_pool(settings)
        stack.push_async_callback(pool.close)
        lease_box: list[Lease] = []
        client = await stack.enter_async_context(
            ApiClient(connect(settings), settings, may_write=lambda: bool(lease_box) and lease_box[0].valid)
        )
        operator = Operator(settings, pool, client)
        lease_box.append(operator.lease)
        try:
            return await operator.run()
        except OldFormError as error:
            logger.error("the operator refuses to start", problem=str(error))
            return 1
