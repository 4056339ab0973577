"""A scripted API server for corner cases of the protocol that a real one shows too seldom to be tested."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from niyanta.cluster.api.connection import Connection, Credentials

Step = Callable[[web.Request], Awaitable[web.StreamResponse]]


def owner(uid: str, **fields: Any) -> dict[str, Any]:
    """The owner reference of a pod that the Workload object `uid` controls."""
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "name": "w",
        "uid": uid,
        "controller": True,
    } | fields


def pod(name: str, rv: int, *, uid: str = "", phase: str = "Running", **extra: Any) -> dict[str, Any]:
    """A pod as the server sends it; `node`, `labels`, `owners` and `namespace` may be given."""
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": extra.get("namespace", "ns"),
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(rv),
            "labels": extra.get("labels", {}),
            "ownerReferences": extra.get("owners", []),
        },
        "spec": {
            "nodeName": extra.get("node", "n1"),
            "containers": [{"name": "main", "resources": {"requests": {"cpu": extra.get("cpu", "1")}}}],
        },
        "status": {"phase": phase},
    }


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def bookmark(rv: int) -> bytes:
    """A bookmark in the API server's form: `containers` is null, unlike in real pods."""
    meta = {"resourceVersion": str(rv), "creationTimestamp": None}
    return event("BOOKMARK", {"kind": "Pod", "metadata": meta, "spec": {"containers": None}, "status": {}})


def status(code: int, reason: str, message: str = "", **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message or reason,
        "details": details,
    }


def error(code: int, reason: str) -> bytes:
    return event("ERROR", status(code, reason))


def listing(rv: int, *pods: dict[str, Any], token: str = "") -> Step:
    async def step(_: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {"resourceVersion": str(rv), "continue": token}, "items": list(pods)})

    return step


def refuse(code: int, reason: str, message: str = "", *, headers: dict[str, str] | None = None, **details: Any) -> Step:
    async def step(_: web.Request) -> web.StreamResponse:
        return web.json_response(status(code, reason, message, **details), status=code, headers=headers)

    return step


def watching(*chunks: bytes, then: str = "stay") -> Step:
    """Send the chunks one by one, then `stay` open, `end` the answer, or `cut` the connection."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0.005)
        if then == "stay":
            await asyncio.sleep(30)
        if then == "cut":
            assert request.transport is not None
            request.transport.abort()
        return response

    return step


class FakeApi:
    """Answers each request with the next step of the script, the last one again and again."""

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.connection = Connection("", None, Credentials(lambda: "Bearer one"))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await step(request)

    def queries(self) -> list[dict[str, str]]:
        return [dict(request.query) for request in self.requests]


@asynccontextmanager
async def fake_api(*script: Step) -> AsyncIterator[FakeApi]:
    api = FakeApi()
    api.script = list(script)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    server = TestServer(app, shutdown_timeout=0.1)
    await server.start_server()
    api.connection = Connection(f"http://{server.host}:{server.port}", None, Credentials(lambda: "Bearer one"))
    try:
        yield api
    finally:
        await server.close()


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of many kinds, no one event
            await asyncio.sleep(0.005)
