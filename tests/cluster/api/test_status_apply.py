"""Requests that apply a status: the object they mean, and what follows from each answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, OutcomeUnknownError, error_kind
from niyanta.cluster.api.kinds import CUSTOMERS, WORKLOADS
from niyanta.cluster.api.status_apply import MOST_TRIES, removals
from niyanta.settings import Settings
from tests.fakes.scripted_api_server import FakeApi, Step, fake_api, refuse

pytestmark = pytest.mark.unit

STATUS = {"phase": "Running"}


def stored(version: str, uid: str = "uid-w", *managers: dict[str, Any], **fields: Any) -> Step:
    async def step(_: web.Request) -> web.StreamResponse:
        meta = {"name": "w", "uid": uid, "resourceVersion": version, "managedFields": list(managers)}
        return web.json_response({"metadata": meta, **fields})

    return step


def client_of(api: FakeApi) -> ApiClient:
    return ApiClient(api.connection, Settings(request_timeout=2.0))


async def apply(api: FakeApi, version: str = "") -> str | None:
    async with client_of(api) as client:
        return await client.apply_status(WORKLOADS, "w", "uid-w", STATUS, namespace="ns", version=version)


def methods(api: FakeApi) -> list[str]:
    return [request.method for request in api.requests]


CONFLICT = refuse(409, "Conflict", "the object has been modified")


async def test_an_object_of_known_version_takes_one_request() -> None:
    async with fake_api(stored("8")) as api:
        assert await apply(api, "7") == "8"
    (request,) = api.requests
    assert request.path == "/apis/niyanta.io/v1alpha1/namespaces/ns/workloads/w/status"
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert {"fieldManager": "niyanta", "force": "true"}.items() <= dict(request.query).items()
    assert json.loads(api.bodies[0]) == {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": "w", "namespace": "ns", "uid": "uid-w", "resourceVersion": "7"},
        "status": STATUS,
    }


async def test_an_object_of_unknown_version_is_read_first() -> None:
    async with fake_api(stored("7"), stored("8")) as api:
        assert await apply(api) == "8"
    assert methods(api) == ["GET", "PATCH"]
    assert json.loads(api.bodies[1])["metadata"]["resourceVersion"] == "7"


async def test_the_status_of_a_cluster_scoped_object_names_no_namespace() -> None:
    async with fake_api(stored("8")) as api, client_of(api) as client:
        await client.apply_status(CUSTOMERS, "acme", "uid-w", {}, version="7")
    assert api.requests[0].path == "/apis/niyanta.io/v1alpha1/customers/acme/status"
    assert "namespace" not in json.loads(api.bodies[0])["metadata"]


async def test_after_a_conflict_the_object_is_read_and_its_status_applied() -> None:
    async with fake_api(CONFLICT, stored("9"), stored("10")) as api:
        assert await apply(api, "7") == "10"
    assert methods(api) == ["PATCH", "GET", "PATCH"]


@pytest.mark.parametrize("version", ["", "7"])
async def test_a_remade_object_is_not_changed(version: str) -> None:
    script = (CONFLICT, stored("9", "another")) if version else (stored("9", "another"),)
    async with fake_api(*script) as api:
        assert await apply(api, version) is None
    assert methods(api)[-1] == "GET"


@pytest.mark.parametrize("version", ["", "7"])
async def test_a_deleted_object_is_not_created(version: str) -> None:
    async with fake_api(refuse(404, "NotFound")) as api:
        assert await apply(api, version) is None
    assert len(api.requests) == 1


async def test_conflicts_without_end_are_an_error() -> None:
    async def step(request: web.Request) -> web.StreamResponse:
        return await (stored("9") if request.method == "GET" else CONFLICT)(request)

    async with fake_api(step) as api:
        with pytest.raises(ApiError) as raised:
            await apply(api)
    assert error_kind(raised.value) is ErrorKind.CONFLICT
    assert methods(api).count("PATCH") == MOST_TRIES


async def test_a_refused_status_is_an_error() -> None:
    causes = [{"field": "status.phase", "reason": "FieldValueNotSupported", "message": "no"}]
    async with fake_api(refuse(422, "Invalid", causes=causes)) as api:
        with pytest.raises(ApiError) as raised:
            await apply(api, "7")
    assert error_kind(raised.value) is ErrorKind.INVALID
    assert len(api.requests) == 1


async def test_an_answer_without_a_version_is_no_success() -> None:
    async def step(_: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {"name": "w"}})

    async with fake_api(step) as api:
        with pytest.raises(OutcomeUnknownError):
            await apply(api, "7")


def entry(fields: dict[str, Any], **values: str) -> dict[str, Any]:
    return {
        "manager": "niyanta",
        "operation": "Update",
        "subresource": "status",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:status": fields},
    } | values


FORMER: dict[str, Any] = {
    ".": {},
    "f:pool": {},
    "f:conditions": {".": {}, 'k:{"type":"Finished"}': {".": {}, "f:status": {}}},
}


async def test_fields_that_an_older_release_wrote_are_removed_once() -> None:
    finished, theirs = {"type": "Finished"}, {"type": "Theirs"}
    script = (
        stored("8", "uid-w", entry(FORMER), entry({"f:phase": {}}, operation="Apply")),
        stored("8", "uid-w", entry(FORMER), status={"pool": "gpu", "conditions": [finished, theirs]}),
        stored("9"),
        stored("10", "uid-w", entry({".": {}, "f:conditions": {".": {}}})),
    )
    async with fake_api(*script) as api:
        assert await apply(api, "7") == "10"
    assert methods(api) == ["PATCH", "GET", "PATCH", "PATCH"]
    assert api.requests[2].headers["Content-Type"] == "application/json-patch+json"
    assert json.loads(api.bodies[2]) == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "8"},
        {"op": "remove", "path": "/status/pool"},
        {"op": "replace", "path": "/status/conditions", "value": [theirs]},
    ]
    assert json.loads(api.bodies[3])["metadata"]["resourceVersion"] == "9"


FOREVER = entry({"f:completionTime": {}})
"""An entry that a user wrote, of a field that the status lacks: nothing removes it."""


async def test_an_entry_of_a_field_that_the_status_lacks_is_left_alone() -> None:
    async with fake_api(stored("8", "uid-w", FOREVER)) as api:
        assert await apply(api, "7") == "8"
    assert methods(api) == ["PATCH", "GET"]


async def test_an_entry_that_comes_back_takes_few_requests() -> None:
    async with fake_api(stored("8", "uid-w", entry(FORMER), status={"pool": "gpu"})) as api:
        assert await apply(api, "7") == "8"
    assert methods(api) == ["PATCH", "GET", "PATCH", "PATCH"]


@pytest.mark.parametrize("fields", [[], None, {"f:status": None}, {"f:status": []}, {"f:status": {"f:pool": None}}])
async def test_odd_managed_fields_are_no_error(fields: Any) -> None:
    async with fake_api(stored("8", "uid-w", {**entry({}), "fieldsV1": fields}, status={"conditions": []})) as api:
        assert await apply(api, "7") == "8"


async def test_the_time_of_each_apply_is_reported_and_not_that_of_all_requests() -> None:
    pause = 0.1

    async def slow_read(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(pause)
        return await stored("9")(request)

    times: list[float] = []
    async with fake_api(CONFLICT, slow_read, stored("10")) as api, client_of(api) as client:
        await client.apply_status(WORKLOADS, "w", "uid-w", STATUS, namespace="ns", version="7", on_answer=times.append)
    (seconds,) = times
    assert seconds < pause


@pytest.mark.parametrize(
    "values", [{"manager": "theirs"}, {"operation": "Apply"}, {"subresource": ""}, {"subresource": "scale"}]
)
async def test_fields_of_other_managers_stay(values: dict[str, str]) -> None:
    async with fake_api(stored("8", "uid-w", entry(FORMER, **values))) as api:
        assert await apply(api, "7") == "8"
    assert len(api.requests) == 1


def test_what_the_status_lacks_is_not_removed() -> None:
    assert removals({}, {"pool": {}, "conditions": {}}) == []
