"""Against a real API server: the reflector's store stays equal to it, and its refusals get the right verdicts."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.connection import Connection, connect
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.cluster.api.kinds import NAMESPACES, NODES, PODS, WORKLOADS, ResourceKind
from niyanta.cluster.api.objects import Namespace, Object
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.state.worker_info import PoolInfo
from niyanta.cluster.watch.object_store import ObjectChange
from niyanta.cluster.watch.reflector import Reflector, ReflectorSettings
from niyanta.engine.snapshot.deltas import (
    Delta,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.types import Charge, WorkerInfo
from niyanta.settings import Settings
from testing.cluster.cluster import Cluster

pytestmark = pytest.mark.e2e

NODE_COUNT = 1000
QUOTAS = ResourceKind("", "v1", "resourcequotas", "ResourceQuota")


@pytest.fixture
def settings(cluster: Cluster) -> Settings:
    return Settings(kubeconfig=str(cluster.kubeconfig), request_timeout=60.0)  # slow machines


@pytest.fixture
def connection(settings: Settings) -> Connection:
    return connect(settings)


@pytest.fixture
async def client(connection: Connection, settings: Settings) -> AsyncIterator[ApiClient]:
    async with ApiClient(connection, settings) as made:
        yield made


def node(name: str, group: str) -> dict[str, Any]:
    """A Node object that nothing simulates: only the object matters here."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"group": group}},
        "status": {"allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"}},
    }


def pod(name: str, node_name: str = "no-such-node", **spec: Any) -> dict[str, Any]:
    """A bound pod with our finalizer; the chart's policy keeps our labels to the operator."""
    container = {"name": "main", "image": "busybox", "resources": {"requests": {"cpu": "10m"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "finalizers": ["niyanta.io/outcome"]},
        "spec": {"nodeName": node_name, "containers": [container], **spec},
    }


async def gather_some(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*work)


async def eventually(condition: Callable[[], object], seconds: float = 300) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


# --- the reflector ---------------------------------------------------------------------------------------------------


class Churn:
    """Creates, changes and deletes pods of a namespace at random, assuming each created one like the operator does."""

    def __init__(self, client: ApiClient, cache: ClusterCache, namespace: str, nodes: list[str]) -> None:
        self.client = client
        self.cache = cache
        self.namespace = namespace
        self.nodes = nodes
        self.rng = random.Random(7)
        self.live: dict[str, str] = {}
        self.operations = 0

    async def step(self) -> None:
        name = f"p{self.rng.randrange(600)}"
        self.operations += 1
        uid = self.live.pop(name, None)
        if uid is None:
            try:
                created = await self.client.create_pod(self.namespace, pod(name, self.rng.choice(self.nodes)))
            except ApiError as error:
                assert error_kind(error) is ErrorKind.ALREADY_EXISTS  # noqa: PT017 - two steps drew the same name
                return
            self.cache.assume(created.obj)
            self.live[name] = created.obj.uid
        elif self.rng.random() < 0.5:
            body = {"metadata": {"labels": {"touched": str(self.operations)}}}
            with suppress(ApiError):
                await self.client.patch(PODS, name, body, namespace=self.namespace)
            self.live[name] = uid
        else:
            await self.client.remove_pod_finalizer(self.namespace, name, uid)
            await self.client.delete_pod(self.namespace, name, uid, grace=0)

    async def run(self, count: int) -> None:
        for _ in range(count // 20):
            await gather_some(self.step() for _ in range(20))


def cut(reflector: Reflector[Any]) -> None:
    """Kill the watch's connection, as a failing network does."""
    response = reflector._response
    if response is not None and response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()


def forget(reflector: Reflector[Any]) -> None:
    """Make the watch resume at a version the server has forgotten long ago: a real 410."""
    reflector.objects.moved_to("1")
    cut(reflector)


async def compact_etcd(cluster: Cluster, revision: str) -> bool:
    """Make etcd forget everything before `revision`; False where its port isn't known."""
    files = list(cluster.kubeconfig.parent.glob("kwok/clusters/*/kwok.yaml"))
    found = re.search(r"etcdPort: (\d+)", files[0].read_text()) if files else None
    if found is None:
        return False
    url = f"http://127.0.0.1:{found[1]}/v3/kv/compaction"
    async with aiohttp.ClientSession() as session, session.post(url, json={"revision": revision}) as response:
        return response.status == 200


async def assert_equal(client: ApiClient, reflector: Reflector[Any], kind: ResourceKind) -> None:
    """The store equals a fresh list. Controllers go on writing: a state newer than the list is no difference, and what
    was deleted since the list is settled by the next one."""
    different: list[tuple[Any, ...]] = []
    for _ in range(40):
        listed = await client.list(kind)
        at = int(listed.resource_version)
        with suppress(TimeoutError):
            await eventually(lambda at=at: reflector.objects.position >= at, 5)
        fresh = {
            (item["metadata"].get("namespace", ""), item["metadata"]["name"]): int(item["metadata"]["resourceVersion"])
            for item in listed.items
        }
        known = {key: int(obj.metadata.resource_version) for key, obj in reflector.store.items()}
        different = [
            (key, known.get(key), fresh.get(key), at, reflector.objects.position)
            for key in known.keys() | fresh.keys()
            if known.get(key) != fresh.get(key) and known.get(key, 0) <= at
        ]
        if not different:
            return
        await asyncio.sleep(0.5)
    text = f"{len(different)} of {len(fresh)} differ (key, known, listed, list's version, watch's position)"
    pytest.fail(f"{kind.plural}: {text}: {sorted(different)[:5]}")


def assert_deltas_add_up(cache: ClusterCache, taken: list[Delta]) -> None:
    """All deltas taken since the start give what a fresh reader gets."""
    workers: dict[str, WorkerInfo] = {}
    charges: dict[str, Charge] = {}
    for delta in taken:
        match delta:
            case WorkerUpserted(info):
                workers[info.name] = info
            case WorkerRemoved(name):
                del workers[name]
            case PodCharged(charge):
                charges[charge.key] = charge
            case PodReleased(key):
                del charges[key]
            case StateReplaced():
                assert delta is taken[0], "a reader that keeps up gets the whole state once"
                workers = {info.name: info for info in delta.workers}
                charges = {charge.key: charge for charge in delta.charges}
    (fresh,) = cache.delta_cursor().take()
    assert isinstance(fresh, StateReplaced)
    assert workers == {info.name: info for info in fresh.workers}
    assert charges == {charge.key: charge for charge in fresh.charges}


async def test_the_store_equals_the_server_after_churn_cuts_and_expiry(
    cluster: Cluster, client: ApiClient, connection: Connection, namespace: str, unique: str
) -> None:
    cache = ClusterCache(connection)
    small = replace(
        ReflectorSettings(), chunk=100, watch_seconds=5.0
    )  # many chunks, and watches that the server ends by itself
    for reflector in cache.reflectors:
        reflector._settings = small
    deltas = cache.delta_cursor()
    taken = list(deltas.take())
    names = [f"{unique}-{i:04}" for i in range(NODE_COUNT)]
    task = asyncio.create_task(cache.run())
    try:
        await cache.set_pools([PoolInfo("p", match_labels=(("group", unique),))])
        async with asyncio.timeout(180):
            await cache.synced()
        await gather_some(client.create(NODES, node(name, unique)) for name in names)
        await eventually(lambda: all(name in cache.workers for name in names))
        churn = Churn(client, cache, namespace, names)
        running = asyncio.create_task(churn.run(1600))
        round_ = 0
        while not running.done():
            await asyncio.sleep(0.4)
            taken += deltas.take()
            reflector = (cache.pods, cache.nodes)[round_ % 2]
            match round_ % 6:
                case 0 | 1:
                    cut(reflector)
                case 2 | 3:
                    forget(reflector)
                case 4:
                    await compact_etcd(cluster, cache.pods.objects.version)
                    await cache.pods.relist_consistent()
                case _:
                    await cache.relist_consistent()
            round_ += 1
        await running
        assert round_ > 6
        await assert_equal(client, cache.pods, PODS)
        await assert_equal(client, cache.nodes, NODES)
        assert cache.pods.unreadable == cache.nodes.unreadable == 0
        assert_deltas_add_up(cache, [*taken, *deltas.take()])
        by_node: dict[str, int] = {}
        for found in cache.pods.store.values():
            by_node[found.spec.node_name] = by_node.get(found.spec.node_name, 0) + 1
        assert all(len(cache.pods_on(name)) == by_node.get(name, 0) for name in names)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await gather_some(_delete_node(client, name) for name in names)
        await _release_pods(client, namespace)


async def _delete_node(client: ApiClient, name: str) -> None:
    found = await client.get(NODES, name)
    if found is not None:
        await client._delete(NODES, "", name, found["metadata"]["uid"])


async def _release_pods(client: ApiClient, namespace: str) -> None:
    """Take the finalizers off, or the namespace can't go away."""
    for item in (await client.list(PODS, namespace=namespace)).items:
        await client.remove_pod_finalizer(namespace, item["metadata"]["name"], item["metadata"]["uid"])


async def test_a_relist_sees_what_was_written_before_it(
    client: ApiClient, connection: Connection, namespace: str
) -> None:
    reflector: Reflector[Object] = Reflector(connection, PODS, Object, lambda _: None)
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(180):
            await reflector.synced.wait()
            for i in range(20):
                made = (await client.create_pod(namespace, pod(f"r{i}"))).obj
                await reflector.relist_consistent()
                assert reflector.store[namespace, f"r{i}"].uid == made.uid
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _release_pods(client, namespace)


# --- the client's verdicts -------------------------------------------------------------------------------------------


async def refused(request: Coroutine[Any, Any, Any]) -> ErrorKind:
    with pytest.raises(ApiError) as caught:
        await request
    return error_kind(caught.value)


async def refused_by_quota(client: ApiClient, namespace: str) -> ErrorKind:
    """Create pods until one is refused.

    The API server checks a quota against a cache that follows its status, so creates right after it may still pass.
    """
    async with asyncio.timeout(120):
        for number in itertools.count():
            try:
                await client.create_pod(namespace, pod(f"c{number}"))
            except ApiError as error:
                return error_kind(error)
            await asyncio.sleep(0.1)
    raise AssertionError("unreachable")


async def test_refused_pods(client: ApiClient, namespace: str) -> None:
    first = (await client.create_pod(namespace, pod("a"))).obj
    try:
        assert await refused(client.create_pod(namespace, pod("a"))) is ErrorKind.ALREADY_EXISTS
        assert await refused(client.create_pod(namespace, pod("b", containers=[]))) is ErrorKind.INVALID
        assert await refused(client.create_pod("no-such-namespace", pod("b"))) is ErrorKind.NOT_FOUND
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}
        await client.create(QUOTAS, quota, namespace=namespace)
        assert await refused_by_quota(client, namespace) is ErrorKind.QUOTA_EXCEEDED
        assert await client.delete_pod(namespace, "a", "another-uid") is False
        assert await client.remove_pod_finalizer(namespace, "a", "another-uid") is False
        assert await client.remove_pod_finalizer(namespace, "a", first.uid) is True
        assert await client.remove_pod_finalizer(namespace, "a", first.uid) is True
        assert await client.delete_pod(namespace, "a", first.uid, grace=0) is True
        assert await client.remove_pod_finalizer(namespace, "a", first.uid) is False
        assert await client.delete_pod(namespace, "a", first.uid) is False
    finally:
        await _release_pods(client, namespace)


async def test_a_terminating_namespace(client: ApiClient, cluster: Cluster, namespace: str) -> None:
    held = (await client.create_pod(namespace, pod("held"))).obj
    try:
        await asyncio.to_thread(cluster.kubectl, "delete", "namespace", namespace, "--wait=false")
        assert await refused(client.create_pod(namespace, pod("late"))) is ErrorKind.NAMESPACE_TERMINATING
    finally:
        await client.remove_pod_finalizer(namespace, "held", held.uid)


async def test_deleting_a_workload_names_its_uid(client: ApiClient, namespace: str) -> None:
    spec = {"template": {"spec": {"containers": [{"name": "main", "image": "busybox"}]}}}
    manifest = {"apiVersion": WORKLOADS.api_version, "kind": "Workload", "metadata": {"name": "w"}, "spec": spec}
    uid = (await client.create_workload(namespace, manifest)).obj["metadata"]["uid"]
    assert await client.delete_workload(namespace, "w", "another-uid") is False
    assert await client.delete_workload(namespace, "w", uid) is True
    assert await client.get_workload(namespace, "w") is None


async def test_a_config_map_is_compared_and_swapped(client: ApiClient, namespace: str) -> None:
    made = (await client.create_config_map(namespace, {"metadata": {"name": "f"}, "data": {"epoch": "1"}})).obj
    version = made["metadata"]["resourceVersion"]
    raised = await client.patch_config_map(namespace, "f", {"data": {"epoch": "2"}}, resource_version=version)
    assert raised["data"] == {"epoch": "2"}
    late = client.patch_config_map(namespace, "f", {"data": {"epoch": "3"}}, resource_version=version)
    assert await refused(late) is ErrorKind.CONFLICT


async def test_events_are_recorded(client: ApiClient, namespace: str) -> None:
    regarding = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "some"}
    await client.create_event(
        namespace, regarding=regarding, name="e1", reason="Tried", note="n", action="Try", at=1_700_000_000_123_456
    )
    found = await client.get(ResourceKind("events.k8s.io", "v1", "events", "Event"), "e1", namespace=namespace)
    assert found is not None
    assert found["eventTime"] == "2023-11-14T22:13:20.123456Z"


async def test_namespaces_are_watched_by_metadata_alone(cluster: Cluster, connection: Connection, unique: str) -> None:
    """The list and the watch have different forms; a namespace that is made, labelled and unlabelled is followed."""
    enabled: list[bool] = []
    made = asyncio.Event()

    def changed(changes: list[ObjectChange[Namespace]]) -> None:
        for change in changes:
            if change.object.name == unique and change.new is not None:
                enabled.append(change.new.enabled)
                made.set()

    reflector = Reflector(connection, NAMESPACES, Namespace, changed, metadata_only=True)
    running = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(60):
            await reflector.synced.wait()
            await asyncio.to_thread(cluster.api.post, "/api/v1/namespaces", {"metadata": {"name": unique}})
            for value in ("true", None):
                labels = {"metadata": {"labels": {"niyanta.io/enabled": value}}}
                await made.wait()
                made.clear()
                await asyncio.to_thread(cluster.api.patch, f"/api/v1/namespaces/{unique}", labels)
            while enabled.count(False) < 2 or True not in enabled:
                made.clear()
                await made.wait()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        cluster.api.delete(f"/api/v1/namespaces/{unique}")
    assert reflector.relists == 1
