"""An API server that answers every request of the operator with success, except those that its role lacks."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from niyanta.cluster.api.connection import Connection, Credentials
from tests.fakes.scripted_api_server import status

Permission = tuple[str, str]
"""(verb, resource), with the subresource as `pods/status`."""

VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


class PermissionsApiServer:
    """Each object that is read exists, with its name as UID. `denied` requests get 403, as RBAC answers."""

    def __init__(self) -> None:
        self.denied: set[Permission] = set()
        self.asked: Counter[Permission] = Counter()
        self.connection = Connection("", None, Credentials(lambda: "Bearer one"))
        self.closing = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        permission, name = _asked(request)
        self.asked[permission] += 1
        verb, resource = permission
        if permission in self.denied:
            message = f'{resource} is forbidden: User "niyanta" cannot {verb} resource "{resource}" in API group ""'
            return web.json_response(status(403, "Forbidden", message, kind=resource), status=403)
        if verb == "list":
            return web.json_response({"kind": "List", "metadata": {"resourceVersion": "10"}, "items": []})
        if verb == "watch":
            response = web.StreamResponse()
            await response.prepare(request)
            await self.closing.wait()
            return response
        sent = json.loads(await request.read() or b"{}") if verb == "create" else {}
        found: dict[str, Any] = {"metadata": {"name": name, "uid": name, "resourceVersion": "20"}}
        return web.json_response(sent | {"metadata": found["metadata"] | sent.get("metadata", {})})


def _asked(request: web.Request) -> tuple[Permission, str]:
    parts = request.path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    resource = f"{parts[0]}/{parts[2]}" if len(parts) > 2 else parts[0]
    name = parts[1] if len(parts) > 1 else ""
    if request.method != "GET":
        return (VERBS[request.method], resource), name
    return ("get" if name else "watch" if "watch" in request.query else "list", resource), name


@asynccontextmanager
async def permissions_api_server() -> AsyncIterator[PermissionsApiServer]:
    """A running server."""
    api = PermissionsApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    server = TestServer(app, shutdown_timeout=0.1)
    await server.start_server()
    api.connection = Connection(f"http://{server.host}:{server.port}", None, Credentials(lambda: "Bearer one"))
    try:
        yield api
    finally:
        api.closing.set()
        await server.close()
