"""Statuses are applied on a real API server: other writers keep theirs, and no other object of the name is changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.connection import connect
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.cluster.api.kinds import WORKER_POOLS, WORKLOADS, ResourceKind
from niyanta.settings import Settings
from testing.cluster.api_client import JSON_PATCH
from testing.cluster.cluster import Cluster
from testing.scenarios.workloads import Workloads

pytestmark = pytest.mark.e2e

NOON = "2026-03-01T12:00:00Z"


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ApiClient]:
    settings = Settings(kubeconfig=str(cluster.kubeconfig), request_timeout=60.0)
    async with ApiClient(connect(settings), settings) as made:
        yield made


def condition(kind: str, status: str = "True") -> dict[str, Any]:
    return {"type": kind, "status": status, "lastTransitionTime": NOON, "reason": "Test", "message": ""}


async def new_pool(client: ApiClient, namespace: str, name: str = "p") -> str:
    """A WorkerPool outside the operator's namespace, which the operator ignores; returns its UID."""
    manifest = {
        "apiVersion": WORKER_POOLS.api_version,
        "kind": WORKER_POOLS.kind,
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"matchLabels": {"no": "node"}}},
    }
    return str((await client.create(WORKER_POOLS, manifest, namespace=namespace))["metadata"]["uid"])


async def status_of(client: ApiClient, namespace: str, name: str = "p") -> dict[str, Any]:
    found = await client.get(WORKER_POOLS, name, namespace=namespace)
    assert found is not None
    status: dict[str, Any] = found.get("status", {})
    return status


def add_condition(cluster: Cluster, kind: ResourceKind, namespace: str, name: str) -> None:
    """Add the condition Theirs, as another writer does that knows nothing of apply."""
    added = [{"op": "add", "path": "/status/conditions/-", "value": condition("Theirs")}]
    cluster.api.patch(kind.path(namespace, name, "status"), added, content_type=JSON_PATCH)


def types(status: dict[str, Any]) -> set[str]:
    return {found["type"] for found in status.get("conditions", ())}


async def test_other_writers_keep_their_conditions_and_our_missing_fields_go(
    cluster: Cluster, client: ApiClient, namespace: str
) -> None:
    uid = await new_pool(client, namespace)
    first = {"replicas": 3, "queueDepth": 2, "conditions": [condition("Ready"), condition("Overlapping")]}
    version = await client.apply_status(WORKER_POOLS, "p", uid, first, namespace=namespace)
    assert version is not None
    await asyncio.to_thread(add_condition, cluster, WORKER_POOLS, namespace, "p")
    second = {"replicas": 4, "conditions": [condition("Ready", "False")]}
    # The other writer changed the object: the known version is old.
    newer = await client.apply_status(WORKER_POOLS, "p", uid, second, namespace=namespace, version=version)
    assert newer not in (None, version)
    found = await status_of(client, namespace)
    assert {"Ready", "Theirs"} <= types(found)
    assert found["replicas"] == 4
    assert "queueDepth" not in found
    (ready,) = (c for c in found["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "False"


async def test_an_object_of_fields_goes_and_comes_back(client: ApiClient, namespace: str) -> None:
    """A pool without workers has no utilization. Applied as an empty object it would be refused."""
    uid = await new_pool(client, namespace)
    for status in (
        {"replicas": 1, "utilization": {"cpu": 50}},
        {"replicas": 0},
        {"replicas": 2, "utilization": {"gpu": 1}},
    ):
        assert await client.apply_status(WORKER_POOLS, "p", uid, status, namespace=namespace) is not None
        assert await status_of(client, namespace) == status


async def test_fields_of_an_older_release_are_taken_over_and_go_when_they_are_left_out(
    client: ApiClient, namespace: str
) -> None:
    uid = await new_pool(client, namespace)
    old = {"replicas": 3, "queueDepth": 2, "conditions": [condition("Ready"), condition("Scaling")]}
    # The client's user agent makes this an update by the manager `niyanta`.
    await client.patch(WORKER_POOLS, "p", {"status": old}, namespace=namespace, subresource="status")
    new = {"replicas": 3, "conditions": [condition("Ready")]}
    assert await client.apply_status(WORKER_POOLS, "p", uid, new, namespace=namespace) is not None
    found = await status_of(client, namespace)
    assert found.keys() == {"replicas", "conditions"}
    assert types(found) == {"Ready"}


async def test_a_remade_object_is_not_changed(client: ApiClient, namespace: str) -> None:
    uid = await new_pool(client, namespace)
    version = await client.apply_status(WORKER_POOLS, "p", uid, {"replicas": 1}, namespace=namespace)
    assert await client.delete(WORKER_POOLS, "p", uid, namespace=namespace)
    await new_pool(client, namespace)
    for known in ("", version or ""):
        status = {"replicas": 9}
        assert await client.apply_status(WORKER_POOLS, "p", uid, status, namespace=namespace, version=known) is None
    assert await status_of(client, namespace) == {}


async def test_a_deleted_object_is_not_created(client: ApiClient, namespace: str) -> None:
    uid = await new_pool(client, namespace)
    version = await client.apply_status(WORKER_POOLS, "p", uid, {"replicas": 1}, namespace=namespace)
    assert await client.delete(WORKER_POOLS, "p", uid, namespace=namespace)
    for known in ("", version or ""):
        status = {"replicas": 9}
        assert await client.apply_status(WORKER_POOLS, "p", uid, status, namespace=namespace, version=known) is None
    assert await client.get(WORKER_POOLS, "p", namespace=namespace) is None


async def test_a_wrong_status_is_refused(client: ApiClient, namespace: str) -> None:
    uid = await new_pool(client, namespace)
    with pytest.raises(ApiError) as raised:
        await client.apply_status(WORKER_POOLS, "p", uid, {"replicas": -1}, namespace=namespace)
    assert error_kind(raised.value) is ErrorKind.INVALID


def test_a_condition_of_another_writer_outlives_a_workload(
    cluster: Cluster, workloads: Workloads, nodes: Callable[..., list[str]]
) -> None:
    nodes(1)
    workloads.apply("shared", life={"run_for": "4s"})
    workloads.wait("shared", "Running")
    add_condition(cluster, WORKLOADS, workloads.namespace, "shared")
    status = workloads.wait("shared", "Succeeded", pods="1/1")
    statuses = {c["type"]: c["status"] for c in status["conditions"]}
    assert statuses["Theirs"] == "True"
    assert (statuses["Finished"], statuses["Succeeded"], statuses["Running"]) == ("True", "True", "False")
