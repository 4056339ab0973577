"""The process `niyanta operator`: everything put together, standing by until it leads.

Flow: kopf (cluster.door) and the reflectors (cluster.cache) -> scheduler.inbox -> scheduler.leader -> store and
cluster.client; the store's rows -> cluster.projector.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.connection import connect
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.cluster.api.kinds import CUSTOMERS, WORKER_POOLS, WORKLOADS
from niyanta.cluster.kubernetes import KubernetesCluster
from niyanta.cluster.leadership.election import Candidate, Loss, Settled
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.state.pool_info import pool_infos
from niyanta.cluster.status.event_recorder import EventRecorder
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.cluster.watch.kopf_watcher import KopfWatcher
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.custom_metrics.adapter import MetricsAdapter
from niyanta.lifecycle import Door
from niyanta.observability import log
from niyanta.observability.http import Exporter, measure_stalls
from niyanta.pools.controller import ScalingController
from niyanta.pools.factory import make_scaling_controller
from niyanta.pools.pool_status import PoolStatusWriter
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.scheduler.intake.work_queue import WorkQueue
from niyanta.scheduler.lease import Lease, alive_while
from niyanta.scheduler.loop import LeaderLoop
from niyanta.scheduler.metrics import SchedulerMetrics
from niyanta.scheduler.session import Session
from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.clock import Clock
from niyanta.store.postgres.notify import listen
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.state import StateManager
from niyanta.store.workloads.queue_key import queue_settings

logger = log.get(__name__)

LIST_EVERY = 30.0
"""Seconds between two corrections of the catalogues by a list."""

FIND_DELETED_EVERY = 600.0
"""Longest time a deletion that kopf missed can go unnoticed, should its list have shown nothing at all."""

SETTLE = 1.0
"""Seconds that a list of kopf's may take to be handed over."""

SILENCE_LIMIT = 150.0
"""Seconds without a word from the API server (bookmarks come each minute) after which a replica isn't ready."""

DEFAULT_CUSTOMER = {
    "apiVersion": "niyanta.io/v1alpha1",
    "kind": "Customer",
    "metadata": {"name": "default"},
    "spec": {"tier": "Standard", "namespaces": ["*"]},
}


class Operator:
    """One operator process."""

    def __init__(self, settings: Settings, pool: Pool, client: ApiClient) -> None:
        self.settings = settings
        self.pool = pool
        self.client = client
        self.loop = asyncio.get_running_loop()
        self.inbox = WorkQueue(self.loop)
        self.lease = Lease(seconds=settings.lease, stall_limit=settings.loop_stall_limit)
        self.state = StateManager(pool, settings)
        self.clock = Clock(self.state)
        queue = queue_settings(settings)
        self.projector = WorkloadStatusWriter(client, self.clock, debounce=settings.status_debounce, queue=queue)
        self.recorder = EventRecorder(client, self.clock, per_second=settings.events_per_second)
        self.customers = ResourceStore(Customer, self._customers_changed)
        self.pools = ResourceStore(WorkerPool, self._pools_changed, namespace=settings.namespace)
        self._pools_event = asyncio.Event()
        self._listed = asyncio.Event()
        """kopf has listed the Workloads anew: its watch was broken, and may have missed deletions."""
        self.cache = ClusterCache(
            connect(settings),
            on_workloads=self.inbox.put_workloads,
            on_nodes=self._nodes_changed,
            on_room=self.inbox.put_capacity,
            on_defaults=self._defaults_changed,
        )
        self.view = KubernetesCluster(
            cache=self.cache,
            client=client,
            customers=self.customers,
            pools=self.pools,
            projector=self.projector,
            recorder=self.recorder,
            operator_namespace=settings.namespace,
        )
        self.telemetry = SchedulerMetrics(tier_of=self.view.tier_of, most_pools=settings.metrics_max_pools)
        self.door = KopfWatcher(
            settings,
            {
                WORKLOADS: self._workload_event,
                CUSTOMERS: self.customers.on_event,
                WORKER_POOLS: self.pools.on_event,
            },
        )
        self.candidate = Candidate(
            leadership=Leadership(pool, settings.identity, settings.lease),
            client=client,
            lease=self.lease,
            settings=settings,
        )
        self.adapter = MetricsAdapter(settings, client=client, state=self.state, pools=self.pools.items)
        self._beat = time.monotonic()
        self._stop = asyncio.Event()
        self._scaler: ScalingController | None = None
        """While this process leads."""

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Until SIGTERM (0) or until leadership is lost to another (1: the kubelet starts a clean process)."""
        exporter = Exporter(
            host=self.settings.metrics_host, port=self.settings.metrics_port, alive=self._alive, ready=self._ready
        )
        await exporter.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._stop.set)
        background = [
            asyncio.create_task(coroutine, name=name)
            for name, coroutine in (
                ("cache", self.cache.run()),
                ("projector", self.projector.run()),
                ("recorder", self.recorder.run()),
                ("catalogues", self._list_catalogues()),
                ("pools", self._follow_pools()),
                ("stalls", measure_stalls()),
                ("heart", self._heart()),
                *self.adapter.tasks(),
            )
        ]
        self.door.start()
        election = asyncio.create_task(self._elect(), name="election")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait([election, stop, *background], return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                return 0
            for task in done:
                task.result()  # a background task never ends by itself: its error is ours
            return 1
        finally:
            orderly = stop.done()
            await _cancel([election, stop])
            if orderly:
                await self.candidate.release()
            await asyncio.to_thread(self.door.stop)
            await _cancel(background)
            await self.adapter.stop()
            await exporter.stop()

    async def _elect(self) -> Loss:
        await self.cache.synced()
        await self._patiently(self._load_catalogues)
        return await self.candidate.run(self._lead)

    async def _lead(self, epoch: int, adopting: bool, settled: Settled) -> None:
        """The work of a leader; ends by LeaseLostError, StaleEpochError or cancellation."""
        await self._patiently(self.clock.refresh)
        self.inbox.open()
        session = Session(
            state=self.state,
            cluster=self.view,
            inbox=self.inbox,
            clock=self.clock,
            settings=self.settings,
            telemetry=self.telemetry,
            epoch=epoch,
            on_lost=self.candidate.lost.set,
            tick=self.lease.tick,
            adopting=adopting,
        )
        scaler = self._scaler = make_scaling_controller(
            self.settings,
            cache=self.cache,
            client=self.client,
            session=session,
            pools=self.pools,
            may_act=lambda: self.lease.valid,
        )
        reporter = PoolStatusWriter(
            cache=self.cache,
            client=self.client,
            state=self.state,
            pools=self.pools,
            customers=self.customers,
            session=session,
            settings=self.settings,
            conditions=scaler.conditions,
        )

        async def begin() -> None:
            beside.append(asyncio.create_task(scaler.run(), name="scaler"))
            await settled()

        beside = [
            asyncio.create_task(reporter.run(), name="pool reporter"),
            asyncio.create_task(self._find_deleted(session), name="deletions"),
            asyncio.create_task(listen(self.settings.dsn, self.inbox.put_hint), name="hints"),
            *(asyncio.create_task(coroutine, name=name) for name, coroutine in self.adapter.leader_tasks()),
        ]
        try:
            self.cache.close_delta_cursors()
            await alive_while(self.lease.tick, self.cache.relist_consistent())
            await alive_while(self.lease.tick, self._patiently(self._load_catalogues))
            await self._ensure_default_customer()
            gc.collect()
            gc.freeze()
            await LeaderLoop(session, tick=self.lease.tick, on_repaired=begin).run()
        finally:
            self._scaler = None
            await _cancel(beside)
            self.inbox.close()
            await session.close()
            self.cache.close_delta_cursors()

    # --- what changes ------------------------------------------------------------------------------------------------

    def _workload_event(self, kind: str, obj: Mapping[str, Any]) -> None:
        if kind == "DELETED":
            self.inbox.put_gone(obj["metadata"]["uid"])
            return
        self.inbox.put_object(obj)
        if not kind and not self._listed.is_set():
            self.loop.call_soon_threadsafe(self._listed.set)

    def _customers_changed(self) -> None:
        self.view.customers_changed()
        self.inbox.put_customers()

    def _pools_changed(self) -> None:
        self.loop.call_soon_threadsafe(self._pools_event.set)

    def _nodes_changed(self, nodes: set[str]) -> None:
        for node in nodes:
            self.inbox.put_workloads(self.cache.workloads_on(node))
        self.inbox.put_capacity()
        if self._scaler is not None:
            self._scaler.wake()

    def _defaults_changed(self, namespaces: set[str]) -> None:
        self.view.defaults_changed(namespaces)
        self.inbox.put_defaults(namespaces)

    async def _follow_pools(self) -> None:
        while True:
            await self._pools_event.wait()
            self._pools_event.clear()
            await self.cache.set_pools(pool_infos(self.pools.items().values()))
            self.inbox.put_capacity()
            if self._scaler is not None:
                self._scaler.wake()

    async def _list_catalogues(self) -> None:
        """kopf never tells of deletions that its watch missed."""
        while True:
            await asyncio.sleep(LIST_EVERY)
            try:
                await self._load_catalogues()
            except ApiError as error:
                logger.warning("customers and pools were not listed", error=str(error))

    async def _find_deleted(self, session: Session) -> None:
        """The same for Workloads, after each list of kopf's and now and then: report those that have no object."""
        self._listed.clear()  # what came before is repaired from a list of our own
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIND_DELETED_EVERY):
                    await self._listed.wait()
            await asyncio.sleep(SETTLE)
            self._listed.clear()
            live = {t.id for t in session.mirror if t.row.door is Door.KUBERNETES and not t.row.phase.terminal}
            try:
                listed = await self.client.list(WORKLOADS)
            except ApiError as error:
                logger.warning("workloads were not listed", error=str(error))
                self._listed.set()
                continue
            for uid in live - {item["metadata"]["uid"] for item in listed.items}:
                self.inbox.put_gone(uid)

    async def _load_catalogues(self) -> None:
        asked_at = time.monotonic()
        self.customers.replace((await self.client.list(CUSTOMERS)).items, asked_at=asked_at)
        pools = await self.client.list(WORKER_POOLS, namespace=self.settings.namespace)
        self.pools.replace(pools.items, asked_at=asked_at)
        await self.cache.set_pools(pool_infos(self.pools.items().values()))

    async def _patiently(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask until there is an answer: the servers may be away for a while."""
        while True:
            try:
                return await ask()
            except (ApiError, StoreUnavailableError) as error:
                logger.warning("asking again", error=str(error))
                await asyncio.sleep(0.5)

    async def _ensure_default_customer(self) -> None:
        if not self.settings.default_customer or "default" in self.customers.items():
            return
        try:
            created = await self.client.create_customer(DEFAULT_CUSTOMER)
        except ApiError as error:
            if error_kind(error) is not ErrorKind.ALREADY_EXISTS:
                logger.warning("the default Customer was not made", error=str(error))
            return
        self.customers.on_event("ADDED", created.obj)
        logger.info("made the default Customer")

    # --- probes ------------------------------------------------------------------------------------------------------

    async def _heart(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(0.5)

    def _alive(self) -> str:
        if time.monotonic() - self._beat > 30:
            return "the event loop has stalled"
        return "" if self.door.alive else "kopf's supervisor has ended"

    def _ready(self) -> str:
        if not all(reflector.synced.is_set() for reflector in self.cache.reflectors):
            return "nodes and pods are not listed yet"
        if not self.door.ready:
            return "kopf is not watching yet"
        if self.cache.silence() > SILENCE_LIMIT:
            return "the API server is silent"
        return self.adapter.problem()


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def operate(settings: Settings) -> int:
    """Run an operator process; returns its exit code."""
    # Long-lived caches make full collections expensive, and hardly anything here forms cycles.
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
        return await operator.run()
