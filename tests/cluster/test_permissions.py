"""A permission that the operator lacks stops only what needs it: everything else goes on, and the fault is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.deleted_workloads import DeletedWorkloads
from niyanta.cluster.kubernetes import KubernetesCluster
from niyanta.cluster.leadership import fence
from niyanta.cluster.resource_lists import ResourceLists
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.status.event_recorder import EventRecorder
from niyanta.cluster.status.shown_statuses import ShownStatuses
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.engine.queue.order import QueueSettings
from niyanta.scheduler.cluster_api import NodeState, PodPhase, PodView
from niyanta.settings import Settings
from niyanta.store.postgres.clock import Clock
from tests.cluster.status.test_reports import FixedClock, row
from tests.fakes.permissions_api_server import Permission, PermissionsApiServer, permissions_api_server
from tests.fakes.scripted_api_server import owner, pod, until

pytestmark = pytest.mark.unit

WATCHED = ("nodes", "pods", "limitranges", "runtimeclasses", "namespaces")
LABELS = {"niyanta.io/workload-uid": "w", "niyanta.io/attempt": "1", "niyanta.io/index": "0", "niyanta.io/epoch": "3"}
ROW = replace(row("w"), id="w")
VIEW = PodView("p", "ns", "p", "w", 1, 0, "n1", PodPhase.RUNNING, False, False, True, False)


@dataclass
class Operations:
    """The parts of a process that talk to the API server, and the operations of a leader by name."""

    api: PermissionsApiServer
    cluster: KubernetesCluster
    cache: ClusterCache
    tasks: list[asyncio.Task[Any]]
    by_permission: dict[Permission, Callable[[], Awaitable[object]]] = field(default_factory=dict)

    async def succeeds(self, permission: Permission) -> bool:
        """Run the operation of a leader that needs the permission. True if it succeeds, False if it raises."""
        try:
            await self.by_permission[permission]()
        except Exception:
            return False
        return True

    def alive(self) -> bool:
        """True if every task still runs."""
        return not any(task.done() for task in self.tasks)


@asynccontextmanager
async def operations(denied: Permission | None) -> AsyncIterator[Operations]:
    settings = Settings(request_timeout=2.0)
    async with permissions_api_server() as api, ApiClient(api.connection, settings) as client:
        if denied is not None:
            api.denied.add(denied)
        cache = ClusterCache(api.connection, require_namespace_label=True)
        lists = ResourceLists(client, namespace="system", on_customers=_idle, on_pools=_idle, set_pools=cache.set_pools)
        clock = cast(Clock, FixedClock())
        queue = QueueSettings()
        statuses = WorkloadStatusWriter(client, clock, debounce=0.01, queue=queue, shown=ShownStatuses())
        events = EventRecorder(client, clock, per_second=1_000.0)
        deleted = DeletedWorkloads(client, on_deleted=lambda _: None)
        cluster = KubernetesCluster(
            cache=cache,
            client=client,
            customers=lists.customers,
            pools=lists.pools,
            status_writer=statuses,
            event_recorder=events,
            operator_namespace="system",
        )
        work = (cache.run(), lists.run(), lists.follow_pools(), statuses.run(), events.run(), deleted.run(set))
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        found = Operations(api, cluster, cache, tasks)
        manifest = pod("p", 0, labels=LABELS, owners=[owner("w")])
        labels = {"niyanta.io/rest-id": "w"}
        workload = {"metadata": {"name": "w", "namespace": "ns", "uid": "w", "labels": labels}, "spec": {}}
        found.by_permission = {
            ("create", "pods"): lambda: cluster.create_pod("ns", manifest),
            ("get", "pods"): lambda: client.get_pod("ns", "p"),
            ("delete", "pods"): lambda: cluster.delete_pod(VIEW),
            ("patch", "pods"): lambda: cluster.release_pod(VIEW),
            ("patch", "nodes"): lambda: cluster.uncordon("n1"),
            ("create", "workloads"): lambda: cluster.create_workload("ns", workload),
            ("get", "workloads"): lambda: cluster.get_workload("ns", "w"),
            ("list", "workloads"): cluster.list_workloads,
            ("delete", "workloads"): lambda: cluster.delete_workload("ns", "w", "w"),
            ("list", "customers"): lists.load,
            ("list", "workerpools"): lists.load,
            ("get", "configmaps"): lambda: fence.read(client, "system"),
            ("patch", "configmaps"): lambda: fence.raise_to(client, "system", epoch=4, database="d"),
            ("create", "customers"): lists.ensure_default_customer,
        }
        try:
            yield found
        finally:
            api.closing.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _idle() -> None:
    pass


def refusals(verb: str, resource: str) -> float:
    """Requests of the client that were answered with 403, as /metrics shows them."""
    labels = {"verb": verb, "resource": resource, "code": "403"}
    return REGISTRY.get_sample_value("niyanta_kubernetes_request_seconds_count", labels) or 0.0


LEADERS_OPERATIONS: list[Permission] = [
    ("create", "pods"),
    ("get", "pods"),
    ("delete", "pods"),
    ("patch", "pods"),
    ("patch", "nodes"),
    ("create", "workloads"),
    ("get", "workloads"),
    ("list", "workloads"),
    ("delete", "workloads"),
    ("list", "customers"),
    ("list", "workerpools"),
    ("get", "configmaps"),
    ("patch", "configmaps"),
    ("create", "customers"),
]
TOGETHER = {
    ("patch", "configmaps"): {("get", "configmaps")},
    ("list", "customers"): {("list", "workerpools")},
    ("list", "workerpools"): {("list", "customers")},
}
"""Permissions that the operation of another permission needs too."""


async def test_all_operations_succeed_with_all_permissions() -> None:
    async with operations(None) as case:
        await asyncio.wait_for(case.cache.synced(), 10)
        assert [needed for needed in LEADERS_OPERATIONS if not await case.succeeds(needed)] == []
        assert set(case.by_permission) == set(LEADERS_OPERATIONS)


@pytest.mark.parametrize("denied", LEADERS_OPERATIONS, ids=" ".join)
async def test_a_missing_permission_stops_the_operations_that_need_it_alone(denied: Permission) -> None:
    before = refusals(*denied)
    async with operations(denied) as case:
        await asyncio.wait_for(case.cache.synced(), 10)
        failed = {needed for needed in LEADERS_OPERATIONS if not await case.succeeds(needed)}
        expected = {denied} | {needed for needed in LEADERS_OPERATIONS if denied in TOGETHER.get(needed, set())}
        if denied == ("create", "customers"):
            expected = set()  # it is logged: Customers may come from elsewhere
        assert failed == expected
        assert refusals(*denied) > before
        assert case.alive()


@pytest.mark.parametrize("resource", WATCHED)
@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_a_resource_that_cannot_be_watched_is_named_and_the_others_go_on(verb: str, resource: str) -> None:
    labels = {"resource": resource, "why": "refused"}
    before = REGISTRY.get_sample_value("niyanta_watch_restarts_total", labels) or 0.0
    async with operations((verb, resource)) as case:
        await until(lambda: (REGISTRY.get_sample_value("niyanta_watch_restarts_total", labels) or 0.0) > before, 10)
        await until(lambda: case.cache.not_synced() == ([resource] if verb == "list" else []), 10)
        assert case.alive()
        case.api.denied.clear()
        await asyncio.wait_for(case.cache.synced(), 15)
        assert case.cluster.node_state("none") is NodeState.FENCED


async def test_refused_statuses_are_repeated_and_refused_events_dropped() -> None:
    async with operations(("patch", "workloads/status")) as case:
        case.api.denied.add(("create", "events"))
        for _ in range(2):
            case.cluster.write_status(ROW)
            case.cluster.record_event(ROW, reason="Test", message="", warning=False)
        await until(lambda: case.api.asked["patch", "workloads/status"] and case.api.asked["create", "events"] >= 2, 10)
        assert case.alive()
        asked = case.api.asked["patch", "workloads/status"]
        case.api.denied.clear()
        await until(lambda: case.api.asked["patch", "workloads/status"] > asked, 10)
