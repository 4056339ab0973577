"""Answers that kopf reads: lists and events are bounded, other documents come as they are."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from niyanta.bounded_json import VIOLATION_KEY
from niyanta.cluster.watch import bounded_session
from niyanta.cluster.watch.bounded_session import BoundedResponse
from tests.cluster.api.test_bounded_objects import nested, workload

pytestmark = pytest.mark.unit


async def answered(body: bytes, read: str) -> Any:
    """What kopf reads of a body: its JSON, or its lines."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/", handle)
    server = TestServer(app)
    await server.start_server()
    try:
        async with (
            aiohttp.ClientSession(response_class=BoundedResponse) as session,
            session.get(server.make_url("/")) as response,
        ):
            if read == "json":
                return await response.json()
            return [line async for line in response.content.iter_chunked(1_000)]
    finally:
        await server.close()


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "APIResourceList", "resources": [{"name": "workloads", "shortNames": ["items"]}]},
        {"kind": "Status", "message": 'a message with \\"items\\"', "code": 403},
        {"versions": ["v1"], "items": None},
    ],
)
async def test_documents_that_are_no_lists_come_as_they_are(document: dict[str, Any]) -> None:
    assert await answered(orjson.dumps(document), "json") == document


@pytest.mark.parametrize("body", [b"", b"Forbidden", b"<html>", nested(3_000)])
async def test_what_is_no_json_is_an_error_that_kopf_knows(body: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        await answered(body, "json")


async def test_lists_and_lines_have_bounded_objects() -> None:
    page = b'{"kind":"WorkloadList","metadata":{},"items":[' + workload(nested(1_100)) + b"]}"
    (item,) = (await answered(page, "json"))["items"]
    assert VIOLATION_KEY in item
    line = b'{"type":"ADDED","object":' + workload(nested(1_100)) + b"}"
    lines = await answered(line + b"\n\njunk\n" + line, "lines")
    assert [VIOLATION_KEY in json.loads(found)["object"] for found in lines] == [True, True]


async def test_a_line_that_is_too_long_is_left_out_without_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_session, "LONGEST_LINE_BYTES", 5_000)
    short = b'{"type":"ADDED","object":' + workload(b"1") + b"}"
    long = b'{"type":"ADDED","object":' + workload(b'"' + b"x" * 20_000 + b'"') + b"}"
    lines = await answered(b"\n".join((short, long, short, long)), "lines")
    assert [json.loads(found)["object"]["spec"]["field"] for found in lines] == [1, 1]
