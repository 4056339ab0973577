"""The outcome finalizer is removed from pods that a Workload controls, and from no other pods."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.old_objects import open_transport
from niyanta.cluster.pod_finalizers import FinalizerCounts, release_finalizers, running_operators
from niyanta.resources.labels import OUTCOME_FINALIZER, WORKLOAD_UID
from niyanta.settings import Settings
from tests.fakes.scripted_api_server import FakeApi, fake_api, owner, pod, refuse

pytestmark = pytest.mark.unit


def _pod(name: str, **owned: Any) -> dict[str, Any]:
    found = pod(name, 1, owners=[owner("w", **owned)])
    found["metadata"]["finalizers"] = [OUTCOME_FINALIZER, "other.example/one"]
    return found


class PodsApi(FakeApi):
    """Answers lists with `pods` in two pages, and refuses patches of pods by name. `fenced`: namespaces that have the
    fence's ConfigMap. `workloads`: UIDs of the Workload objects."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        super().__init__()
        self.pods = list(pods)
        self.refused: dict[str, int] = {}
        self.fenced: list[str] = []
        self.workloads: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rsplit("/", 1)[1]
        if request.method == "PATCH":
            if code := self.refused.get(name, 0):
                return await refuse(code, "NotFound" if code == 404 else "InternalError")(request)
            return web.json_response({})
        items = [{"metadata": {"name": uid, "namespace": "ns", "uid": uid}} for uid in self.workloads]
        token = ""
        if name == "configmaps":
            assert request.query["fieldSelector"] == "metadata.name=niyanta-fence"
            items = [{"metadata": {"name": "niyanta-fence", "namespace": namespace}} for namespace in self.fenced]
        elif name == "pods":
            *_, namespace, _plural = request.path.split("/")
            pods = [found for found in self.pods if namespace in ("v1", found["metadata"]["namespace"])]
            first = "continue" not in request.query
            items = pods[:2] if first else pods[2:]
            token = "next" if first and pods[2:] else ""
        return web.json_response({"metadata": {"resourceVersion": "1", "continue": token}, "items": items})


async def _release(pods: PodsApi, *, dry_run: bool) -> tuple[FinalizerCounts, list[dict[str, Any]]]:
    async with (
        fake_api(pods) as api,
        open_transport(api.connection, request_timeout=1.0) as transport,
        ApiClient(api.connection, Settings(connections=4)) as client,
    ):
        counts = await release_finalizers(client, transport, dry_run=dry_run)
    patches = zip(api.requests, api.bodies, strict=True)
    return counts, [json.loads(body) for request, body in patches if request.method == "PATCH"]


def _pods() -> PodsApi:
    bare = pod("bare", 1)
    foreign = _pod("foreign", kind="Job", apiVersion="batch/v1")
    return PodsApi(_pod("a"), bare, foreign, _pod("loose", controller=False), _pod("b"))


async def test_pods_of_workloads_are_released_by_their_uid() -> None:
    counts, patches = await _release(_pods(), dry_run=False)
    assert counts == FinalizerCounts(found=2, others=2, released=2)
    assert sorted(patch["metadata"]["uid"] for patch in patches) == ["uid-a", "uid-b"]
    assert patches[0]["metadata"]["$deleteFromPrimitiveList/finalizers"] == [OUTCOME_FINALIZER]


async def test_a_dry_run_only_counts() -> None:
    assert await _release(_pods(), dry_run=True) == (FinalizerCounts(found=2, others=2), [])


async def test_pods_that_are_gone_and_failures_are_counted() -> None:
    pods = PodsApi(*(_pod(name) for name in "abcd"))
    pods.refused = {"b": 404, "c": 500}
    counts, _ = await _release(pods, dry_run=False)
    assert (counts.released, counts.gone, counts.failed) == (2, 1, 1)
    assert counts.error.startswith("ns/c: ")


def _operator(name: str, *, namespace: str = "system", phase: str = "Running", **container: Any) -> dict[str, Any]:
    found = pod(name, 1, namespace=namespace, phase=phase)
    found["spec"]["containers"] = [{"name": "operator", "command": ["niyanta", "operator"]} | container]
    return found


async def test_operators_that_have_not_ended_are_found_whatever_their_labels() -> None:
    pods = PodsApi(
        _operator("renamed"),
        _operator("ended", phase="Succeeded"),
        _operator("door", command=["niyanta", "api"]),
        _operator("by-args", command=["niyanta"], args=["operator", "--verbose"]),
        _operator("elsewhere", namespace="tenant"),
        pod("labelled", 1, namespace="system", labels={"app.kubernetes.io/component": "operator"}),
    )
    pods.fenced = ["system"]
    async with fake_api(pods) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        assert await running_operators(transport) == ["system/renamed", "system/by-args"]


@pytest.mark.parametrize("exists", [True, False])
async def test_pods_left_by_a_workload_that_is_gone_are_released(exists: bool) -> None:
    left = pod("left", 1, labels={WORKLOAD_UID: "w1"})
    foreign = pod("foreign", 1, labels={WORKLOAD_UID: "w1"}, owners=[owner("j", kind="Job", apiVersion="batch/v1")])
    for found in (left, foreign):
        found["metadata"]["finalizers"] = [OUTCOME_FINALIZER]
    pods = PodsApi(left, foreign)
    pods.workloads = ["w1"] if exists else ["w2"]
    counts, patches = await _release(pods, dry_run=False)
    assert (counts.found, counts.others, counts.released) == ((0, 2, 0) if exists else (1, 1, 1))
    assert [patch["metadata"]["uid"] for patch in patches] == ([] if exists else ["uid-left"])
