"""Writes of the scheduler against a scripted API server: refusals, the fence, and pods that only look like ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import create_autospec

import pytest
from aiohttp import web

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.kubernetes import KubernetesCluster
from niyanta.cluster.resource_lists import ResourceLists
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.status.event_recorder import EventRecorder
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.scheduler.cluster_api import PodWriteError, WriteProblem
from niyanta.settings import Settings
from tests.fakes.scripted_api_server import FakeApi, Step, fake_api, owner, pod, refuse

pytestmark = pytest.mark.unit

FENCED = (
    "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'niyanta-fence' with binding 'niyanta-fence' denied request: "
    "niyanta-fence: this pod comes from a leader that has been replaced: epoch 3, the fence is at 4"
)
LABELS = {
    "niyanta.io/workload-uid": "w",
    "niyanta.io/attempt": "1",
    "niyanta.io/index": "0",
    "niyanta.io/epoch": "3",
}
NAMED = {"kind": "pods", "name": "p"}
MANIFEST = pod("p", 0, labels=LABELS, owners=[owner("w")])


def answer(body: dict[str, Any], code: int = 200) -> Step:
    async def step(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=code)

    return step


def fence_at(epoch: str) -> Step:
    return answer({"metadata": {"name": "niyanta-fence"}, "data": {"epoch": epoch}})


@asynccontextmanager
async def cluster_on(*script: Step) -> AsyncIterator[tuple[KubernetesCluster, ClusterCache, FakeApi]]:
    """A cluster whose API server answers by `script`."""
    async with fake_api(*script) as api, ApiClient(api.connection, Settings(request_timeout=1.0)) as client:
        cache = ClusterCache(api.connection)
        lists = ResourceLists(
            client, namespace="system", on_customers=_nothing, on_pools=_nothing, set_pools=cache.set_pools
        )
        cluster = KubernetesCluster(
            cache=cache,
            client=client,
            customers=lists.customers,
            pools=lists.pools,
            status_writer=create_autospec(WorkloadStatusWriter, instance=True),
            event_recorder=create_autospec(EventRecorder, instance=True),
            operator_namespace="system",
        )
        yield cluster, cache, api


def _nothing() -> None:
    pass


async def refusal(cluster: KubernetesCluster) -> WriteProblem:
    with pytest.raises(PodWriteError) as caught:
        await cluster.create_pod("ns", MANIFEST)
    return caught.value.problem


@pytest.mark.parametrize(
    ("code", "fence", "expected"),
    [
        (403, fence_at("4"), WriteProblem.FENCED),
        (403, fence_at("3"), WriteProblem.FORBIDDEN),
        (403, fence_at("junk"), WriteProblem.FORBIDDEN),
        (403, refuse(404, "NotFound"), WriteProblem.FORBIDDEN),
        (403, refuse(500, "InternalError"), WriteProblem.UNAVAILABLE),
        (422, fence_at("4"), WriteProblem.FORBIDDEN),
    ],
)
async def test_a_refusal_by_the_fence_is_believed_after_the_fence_was_read_again(
    code: int, fence: Step, expected: WriteProblem
) -> None:
    async with cluster_on(refuse(code, "Forbidden", FENCED, **NAMED), fence) as (cluster, _, _api):
        assert await refusal(cluster) is expected


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (422, f'Pod "p" is invalid: env[0].name: Invalid value: "{FENCED}"', WriteProblem.INVALID),
        (403, f'admission webhook "w" denied the request: {FENCED}', WriteProblem.FORBIDDEN),
    ],
)
async def test_a_refusal_that_quotes_the_fence_concerns_one_workload(
    code: int, message: str, expected: WriteProblem
) -> None:
    # The pod doesn't exist when it is looked for, and the fence is higher if it is read at all.
    script = (refuse(code, "Any", message, **NAMED), refuse(404, "NotFound"), fence_at("9"))
    async with cluster_on(*script) as (cluster, _, api):
        assert await refusal(cluster) is expected
        assert not any("configmaps" in request.path for request in api.requests)


@pytest.mark.parametrize(
    "other",
    [
        {"owners": []},
        {"owners": [owner("another")]},
        {"owners": [owner("w", controller=False)]},
        {"owners": [owner("w", kind="Job", apiVersion="batch/v1")]},
        {"node": "n2"},
        {"labels": LABELS | {"niyanta.io/attempt": "2"}},
        {"labels": LABELS | {"niyanta.io/workload-uid": "another"}},
    ],
)
async def test_an_existing_pod_is_taken_only_if_it_is_the_same(other: dict[str, Any]) -> None:
    taken = refuse(409, "AlreadyExists", **NAMED)
    forged = answer(pod("p", 5, **{"labels": LABELS, "owners": [owner("w")], **other}))
    async with cluster_on(taken, forged) as (cluster, cache, _):
        assert await refusal(cluster) is WriteProblem.NAME_TAKEN
        assert cache.pods.store == {}
