"""The client turns answers into verdicts, waits out throttling, and never writes without leadership."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest
from aiohttp import web

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.connection import Connection, Credentials
from niyanta.cluster.api.errors import (
    ApiError,
    ErrorKind,
    NotSentError,
    OutcomeUnknownError,
    WritesClosedError,
    error_from,
    error_kind,
)
from niyanta.cluster.api.kinds import NODES, PODS, WORKLOADS
from niyanta.settings import Settings
from tests.fakes.scripted_api_server import FakeApi, Step, fake_api, listing, pod, refuse, status, watching

pytestmark = pytest.mark.unit


def client_of(api: FakeApi, **options: Any) -> ApiClient:
    return ApiClient(api.connection, Settings(request_timeout=1.0, connections=4), **options)


def answer(code: int, body: dict[str, Any]) -> Step:
    async def step(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=code)

    return step


POD = 'pods "p" is forbidden: '
NAMED = {"kind": "pods", "name": "p"}
FENCE = "ValidatingAdmissionPolicy 'niyanta-fence' with binding 'niyanta-fence' denied request: "
TERMINATING = {"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]}
OTHER_UID = {"causes": [{"reason": "FieldValueInvalid", "field": "metadata.uid"}]}


@pytest.mark.parametrize(
    ("code", "reason", "message", "details", "expected"),
    [
        (409, "AlreadyExists", "", {}, ErrorKind.ALREADY_EXISTS),
        (409, "Conflict", "", {}, ErrorKind.CONFLICT),
        (404, "NotFound", "", {}, ErrorKind.NOT_FOUND),
        (410, "Expired", "", {}, ErrorKind.GONE),
        (403, "Forbidden", POD + "exceeded quota: q, requested: pods=1", NAMED, ErrorKind.QUOTA_EXCEEDED),
        (403, "Forbidden", POD + "status unknown for quota: q", NAMED, ErrorKind.QUOTA_EXCEEDED),
        (403, "Forbidden", "pods is forbidden: exceeded quota: q, requested: pods=1", {}, ErrorKind.FORBIDDEN),
        (403, "Forbidden", "unable to create new content", TERMINATING, ErrorKind.NAMESPACE_TERMINATING),
        (403, "Forbidden", "violates PodSecurity", {}, ErrorKind.FORBIDDEN),
        (403, "Forbidden", POD + FENCE + "this pod comes from a leader", NAMED, ErrorKind.FENCE_REFUSED),
        (422, "Invalid", POD + FENCE + "failed to configure binding", NAMED, ErrorKind.FENCE_REFUSED),
        (403, "Forbidden", FENCE + "this pod comes from a leader that has been replaced", NAMED, ErrorKind.FORBIDDEN),
        (422, "Invalid", FENCE + "expression 'x' returned false", {}, ErrorKind.INVALID),
        (422, "Invalid", "spec.containers: Required value", {}, ErrorKind.INVALID),
        (422, "Invalid", "field is immutable", OTHER_UID, ErrorKind.CONFLICT),
        (400, "BadRequest", "", {}, ErrorKind.INVALID),
        (401, "Unauthorized", "", {}, ErrorKind.UNAVAILABLE),
        (429, "TooManyRequests", "", {}, ErrorKind.TOO_MANY),
        (500, "InternalError", "no endpoints available", {}, ErrorKind.UNKNOWN_OUTCOME),
        (503, "ServiceUnavailable", "", {}, ErrorKind.UNKNOWN_OUTCOME),
        (500, "InternalError", "etcdserver: request timed out", {}, ErrorKind.UNKNOWN_OUTCOME),
        (504, "Timeout", "", {}, ErrorKind.UNKNOWN_OUTCOME),
    ],
)
def test_verdicts(code: int, reason: str, message: str, details: dict[str, Any], expected: ErrorKind) -> None:
    assert error_kind(error_from(code, orjson.dumps(status(code, reason, message, **details)))) is expected


def test_an_answer_that_is_no_status_is_quoted() -> None:
    error = error_from(502, b"<html>bad gateway</html>")
    assert error_kind(error) is ErrorKind.UNKNOWN_OUTCOME
    assert "bad gateway" in error.message


async def test_a_created_pod_comes_back_as_the_server_stored_it() -> None:
    async with fake_api(answer(201, pod("a", 7))) as api, client_of(api) as client:
        created = await client.create_pod("ns", {"metadata": {"name": "a"}})
    assert created.obj.metadata.resource_version == "7"
    (request,) = api.requests
    assert request.path == "/api/v1/namespaces/ns/pods"
    assert request.query["timeout"] == "1000ms"
    assert request.query["fieldValidation"] == "Strict"
    assert request.headers["Authorization"] == "Bearer one"


async def test_throttling_is_waited_out() -> None:
    throttled = refuse(429, "TooManyRequests", headers={"Retry-After": "1"})
    async with fake_api(throttled, answer(201, pod("a", 7))) as api, client_of(api) as client:
        started = time.monotonic()
        await client.create_pod("ns", {})
    assert time.monotonic() - started >= 1.0


async def test_throttling_without_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("niyanta.cluster.api.transport.THROTTLE_LONGEST_SECONDS", 0.01)
    async with fake_api(refuse(429, "TooManyRequests", headers={"Retry-After": "9"})) as api, client_of(api) as client:
        with pytest.raises(ApiError) as caught:
            await client.create_pod("ns", {})
    assert error_kind(caught.value) is ErrorKind.TOO_MANY
    assert caught.value.retry_after == 9
    assert len(api.requests) == 4


async def test_without_an_answer_the_outcome_is_unknown() -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    async with fake_api(never) as api, client_of(api) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.create_pod("ns", {})
    assert error_kind(caught.value) is ErrorKind.UNKNOWN_OUTCOME


async def test_a_connection_reset_after_sending_is_unknown_too() -> None:
    async with fake_api(watching(b"{", then="cut")) as api, client_of(api) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.create_pod("ns", {})


async def test_no_connection_means_nothing_was_done() -> None:
    nowhere = Connection("http://127.0.0.1:1", None, Credentials(lambda: ""))
    async with ApiClient(nowhere, Settings()) as client:
        with pytest.raises(NotSentError) as caught:
            await client.create_pod("ns", {})
    assert error_kind(caught.value) is ErrorKind.UNAVAILABLE


async def test_nothing_is_written_once_leadership_is_lost() -> None:
    leading = True
    throttled = refuse(429, "TooManyRequests", headers={"Retry-After": "1"})
    async with fake_api(throttled) as api, client_of(api, may_write=lambda: leading) as client:
        writing = asyncio.create_task(client.create_pod("ns", {}))
        await asyncio.sleep(0.2)
        leading = False  # while the client waits out a 429
        with pytest.raises(WritesClosedError):
            await writing
        assert len(api.requests) == 1


async def test_reads_go_on_without_leadership() -> None:
    async with fake_api(refuse(404, "NotFound")) as api, client_of(api, may_write=lambda: False) as client:
        assert await client.get_workload("ns", "w") is None


async def test_a_rejected_token_is_read_again_once() -> None:
    tokens = iter(["Bearer old", "Bearer new"])
    async with fake_api(refuse(401, "Unauthorized"), answer(200, {"kind": "Node"})) as api:
        connection = Connection(api.connection.host, None, Credentials(lambda: next(tokens)))
        async with ApiClient(connection, Settings()) as client:
            assert await client.get(NODES, "n") == {"kind": "Node"}
    assert [request.headers["Authorization"] for request in api.requests] == ["Bearer old", "Bearer new"]


NEWER = answer(200, {"metadata": {"name": "a", "uid": "another"}})
CONFLICT = refuse(409, "Conflict", "the UID in the precondition")


@pytest.mark.parametrize("gone", [[refuse(404, "NotFound")], [CONFLICT, NEWER], [CONFLICT, refuse(404, "NotFound")]])
async def test_deleting_what_is_gone_is_success(gone: list[Step]) -> None:
    async with fake_api(*gone) as api, client_of(api) as client:
        assert await client.delete_pod("ns", "a", "uid-a", grace=0) is False
    body = orjson.loads(api.bodies[0])
    assert body["preconditions"] == {"uid": "uid-a"}
    assert body["gracePeriodSeconds"] == 0


async def test_a_conflict_of_the_right_object_is_an_error_even_if_its_name_speaks_of_a_uid() -> None:
    conflict = refuse(409, "Conflict", 'Operation cannot be fulfilled on pods "uid-a": please try again')
    same = answer(200, {"metadata": {"name": "uid-a", "uid": "uid-a"}})
    async with fake_api(conflict, same) as api, client_of(api) as client:
        with pytest.raises(ApiError):
            await client.delete_pod("ns", "uid-a", "uid-a")


async def test_removing_the_finalizer_names_the_uid_and_leaves_others() -> None:
    async with fake_api(answer(200, pod("a", 8))) as api, client_of(api) as client:
        assert await client.remove_pod_finalizer("ns", "a", "uid-a")
    assert api.requests[0].content_type == "application/strategic-merge-patch+json"
    assert orjson.loads(api.bodies[0])["metadata"] == {
        "uid": "uid-a",
        "$deleteFromPrimitiveList/finalizers": ["niyanta.io/outcome"],
    }


async def test_lists_all_chunks_and_starts_again_when_a_token_expires() -> None:
    script = (
        listing(10, pod("a", 1), token="t"),
        refuse(410, "Expired"),
        listing(20, pod("b", 12), token="t"),
        listing(20, pod("c", 13)),
    )
    async with fake_api(*script) as api, client_of(api) as client:
        listed = await client.list(PODS)
    assert [item["metadata"]["name"] for item in listed.items] == ["b", "c"]
    assert listed.resource_version == "20"


async def test_uids_are_listed_by_metadata_alone() -> None:
    script = (
        listing(10, pod("a", 1), token="t"),
        refuse(410, "Expired"),
        listing(20, pod("b", 12), {"metadata": {"name": "without a UID"}}),
    )
    async with fake_api(*script) as api, client_of(api) as client:
        assert await client.list_uids(PODS) == {"uid-b", ""}
    assert {request.headers["Accept"].split(";")[1] for request in api.requests} == {"as=PartialObjectMetadataList"}


async def test_no_more_requests_at_once_than_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("niyanta.cluster.api.client.OTHER_CONNECTIONS", 0)
    running = most = 0

    async def slow(_: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return web.json_response({"metadata": {"uid": "u"}})

    async with fake_api(slow) as api, client_of(api) as client:
        await asyncio.gather(*(client.get(WORKLOADS, f"w{i}", namespace="ns") for i in range(20)))
    assert most == 4
