"""Writes of the scheduler against a scripted API server: refusals, the fence, and pods that only look like ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import create_autospec

import msgspec
import pytest
from aiohttp import web

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.objects import LimitRange, Node, ObjectMeta, Pod, RuntimeClassObject
from niyanta.cluster.kubernetes import KubernetesCluster
from niyanta.cluster.resource_lists import ResourceLists
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.state.namespace_defaults import defaults_from
from niyanta.cluster.status.event_recorder import EventRecorder
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.cluster.watch.object_store import ObjectChange
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.engine.types import Requirements, Subject
from niyanta.resources.models.customer import Customer
from niyanta.resources.ownership import CustomerIndex, Resolved
from niyanta.scheduler.cluster_api import (
    ClusterAwayError,
    NodeWriteError,
    ObjectReadError,
    PodWriteError,
    WriteProblem,
)
from niyanta.settings import Settings
from tests.fakes.objects import customer
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


async def test_a_field_that_the_server_does_not_know_concerns_one_workload_and_is_named() -> None:
    message = 'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.hostnam"'
    # The pod doesn't exist when it is looked for.
    async with cluster_on(refuse(400, "BadRequest", message), refuse(404, "NotFound")) as (cluster, _, _api):
        with pytest.raises(PodWriteError) as caught:
            await cluster.create_pod("ns", MANIFEST)
    assert caught.value.problem is WriteProblem.INVALID
    assert 'unknown field "spec.hostnam"' in caught.value.message


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
    ("code", "reason", "expected"),
    [
        (403, "Forbidden", WriteProblem.FORBIDDEN),
        (409, "Conflict", WriteProblem.UNAVAILABLE),
        (429, "TooManyRequests", WriteProblem.UNAVAILABLE),
        (500, "InternalError", WriteProblem.UNAVAILABLE),
    ],
)
async def test_an_object_whose_deletion_fails_concerns_that_object_alone(
    code: int, reason: str, expected: WriteProblem
) -> None:
    async with cluster_on(refuse(code, reason, headers={"Retry-After": "0"})) as (cluster, _, _api):
        with pytest.raises(PodWriteError) as caught:
            await cluster.delete_workload("ns", "w", "uid")
        assert caught.value.problem is expected


@pytest.mark.parametrize("code", [403, 500, 503])
async def test_an_object_that_cannot_be_read_concerns_that_object_alone(code: int) -> None:
    async with cluster_on(refuse(code, "Any"), answer({"metadata": {}})) as (cluster, _, api):
        with pytest.raises(ObjectReadError):
            await cluster.get_workload("ns", "w")
        assert "customresourcedefinitions" in api.requests[-1].path


async def test_an_api_server_that_answers_nothing_is_away() -> None:
    async with cluster_on(refuse(503, "ServiceUnavailable")) as (cluster, _, _api):
        with pytest.raises(ClusterAwayError):
            await cluster.get_workload("ns", "w")


def take_in(cache: ClusterCache, **fields: Any) -> None:
    """Put a pod into the cache, as a watch does. Fields as of `pod`; `name`, `meta` and `status` too."""
    name, meta, status = fields.pop("name", "p"), fields.pop("meta", {}), fields.pop("status", {})
    raw = pod(name, 5, **{"labels": LABELS, "owners": [owner("w")], **fields})
    raw["metadata"] |= meta
    raw["status"] |= status
    changes: list[ObjectChange[Pod]] = []
    cache.pods.objects.event("ADDED", msgspec.convert(raw, Pod), changes)
    cache.pods._report(changes)


def set_node(cache: ClusterCache, *, ready: bool) -> None:
    """Put the node n1 into the cache."""
    conditions = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
    raw = {
        "metadata": {"name": "n1", "uid": "n", "resourceVersion": str(int(ready))},
        "status": {"conditions": conditions},
    }
    cache.nodes.objects.event("MODIFIED", msgspec.convert(raw, Node), [])


NEEDS = Requirements(requests=(("cpu", 1_000), ("pods", 1)))
MIRROR = {"annotations": {"kubernetes.io/config.mirror": "abc"}}


@pytest.mark.parametrize(
    "forged",
    [
        {"owners": []},
        {"owners": [owner("another")]},
        {"owners": [owner("w", controller=False)]},
        {"owners": [owner("w", kind="Job", apiVersion="batch/v1")]},
        {"owners": [owner("n", kind="Node", apiVersion="v1")], "meta": MIRROR},
        {"namespace": "other"},
        {"node": "n2"},
        {"node": ""},
        {"labels": LABELS | {"niyanta.io/index": "1"}},
        {"labels": LABELS | {"niyanta.io/index": "-1"}},
        {"phase": "Succeeded", "owners": [owner("another")]},
    ],
)
async def test_a_forged_pod_is_no_pod_of_the_workload_but_takes_capacity(forged: dict[str, Any]) -> None:
    async with cluster_on() as (cluster, cache, _):
        cluster.claim("w", 1, ["n1"], NEEDS, Subject("ns", "acme"))
        take_in(cache, name="real", meta={"uid": "real"})
        take_in(cache, name="forged", **forged)
        assert [found.name for found in cluster.pods("w", "w", namespace="ns")] == ["real"]
        charged = {charge.key: charge.worker for charge in cache.usage.charges()}
        bound = forged.get("node", "n1") and forged.get("phase") != "Succeeded"
        assert charged.pop("w/1/0") == "n1"
        assert list(charged.values()) == ([forged.get("node", "n1")] if bound else [])


async def test_pods_of_past_attempts_are_known_by_owner_and_namespace() -> None:
    async with cluster_on() as (cluster, cache, _):
        cluster.claim("w", 2, ["n1"], NEEDS, Subject("ns", "acme"))
        take_in(cache, name="past", node="n2")
        assert [(found.name, found.owner_uid) for found in cluster.pods("w", "w", namespace="ns")] == [("past", "w")]
        assert cluster.pods("w", "w", namespace="other") == []
        assert cluster.pods("w", "another", namespace="ns") == []
        assert len(cluster.pods("w")) == 1


async def test_a_pod_deleted_without_grace_is_over_only_where_a_kubelet_can_tell() -> None:
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}
    async with cluster_on() as (cluster, cache, _):
        take_in(cache, meta=deleted)
        set_node(cache, ready=False)
        assert [found.over for found in cluster.pods("w", "w")] == [False]
        set_node(cache, ready=True)
        assert [found.over for found in cluster.pods("w", "w")] == [True]
        cache.nodes.store.clear()
        assert [found.over for found in cluster.pods("w", "w")] == [True]


async def test_what_programs_write_about_their_end_is_short_and_can_be_stored() -> None:
    text = "a\0b" + "x" * 100_000
    ended = {"name": "main", "state": {"terminated": {"exitCode": 1, "reason": text, "message": text}}}
    async with cluster_on() as (cluster, cache, _):
        take_in(cache, status={"phase": "Failed", "containerStatuses": [ended]})
        (found,) = cluster.pods("w", "w")
        assert found.reason.startswith("abx")
        assert "\0" not in found.message
        assert len(found.reason) + len(found.message) < 1_000


async def test_one_customer_that_raises_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = CustomerIndex.__init__

    def fails(self: CustomerIndex, customers: Iterable[Customer], **options: Any) -> None:
        customers = list(customers)
        if any(customer.metadata.name == "bad" for customer in customers):
            raise RuntimeError("an odd customer")
        real(self, customers, **options)

    monkeypatch.setattr(CustomerIndex, "__init__", fails)
    async with cluster_on() as (cluster, _, _api):
        for name in ("bad", "good"):
            cluster._customers.on_event("ADDED", customer_manifest(name))
        cluster.customers_changed()
        found = cluster.resolve_customer("good", None)
        assert isinstance(found, Resolved)
        assert cluster.customer_tier("good") == "Standard"


def customer_manifest(name: str) -> dict[str, Any]:
    meta = {"name": name, "uid": name, "generation": 1}
    spec = {"tier": "Standard", "namespaces": [name]}
    return {"apiVersion": "niyanta.io/v1alpha1", "kind": "Customer", "metadata": meta, "spec": spec}


async def test_one_limit_range_that_raises_leaves_the_others_alone() -> None:
    good = LimitRange(ObjectMeta("good", "ns"), {"limits": [{"type": "Container", "defaultRequest": {"cpu": "2"}}]})
    bad = LimitRange(ObjectMeta("bad", "ns"), {"limits": 7})
    classes = [RuntimeClassObject(ObjectMeta("bad"), overhead={"podFixed": 7}), RuntimeClassObject(ObjectMeta("good"))]
    assert defaults_from([bad, good], classes) == defaults_from([good], classes[1:])


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


def test_every_customer_has_a_share_of_the_queue_at_most() -> None:
    limits = {"unlimited": None, "low": 10, "high": 1_000}
    customers = SimpleNamespace(
        get={name: customer(name, name, maxQueueDepth=most) for name, most in limits.items()}.get
    )
    for share, expected in ((500, (500, 10, 500)), (None, (None, 10, 1_000))):
        cluster = KubernetesCluster(
            cache=create_autospec(ClusterCache, instance=True),
            client=create_autospec(ApiClient, instance=True),
            customers=cast("ResourceStore[Customer]", customers),
            pools=create_autospec(ResourceStore, instance=True),
            status_writer=create_autospec(WorkloadStatusWriter, instance=True),
            event_recorder=create_autospec(EventRecorder, instance=True),
            operator_namespace="system",
            queue_share=share,
        )
        assert tuple(cluster.customer_limits(name).queue_depth for name in limits) == expected


async def test_a_node_is_cordoned_and_uncordoned_and_may_be_gone() -> None:
    bodies = []

    async def patched(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response({"metadata": {"name": "n1"}})

    async with cluster_on(patched, patched, refuse(404, "NotFound")) as (cluster, _, _api):
        assert await cluster.cordon("n1")
        assert await cluster.uncordon("n1")
        assert not await cluster.uncordon("n1")
    assert bodies == [{"spec": {"unschedulable": True}}, {"spec": {"unschedulable": None}}]


@pytest.mark.parametrize(
    ("code", "reason", "refused"),
    [(403, "Forbidden", True), (422, "Invalid", True), (500, "InternalError", False), (409, "Conflict", False)],
)
async def test_a_node_that_cannot_be_written_is_refused_or_tried_again(code: int, reason: str, refused: bool) -> None:
    async with cluster_on(refuse(code, reason, "no")) as (cluster, _, _api):
        with pytest.raises(NodeWriteError) as caught:
            await cluster.cordon("n1")
        assert caught.value.refused is refused
