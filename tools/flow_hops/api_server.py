"""An API server in memory, as far as Niyanta needs one: get, list, watch, create and patch of any resource.

It runs in a thread of its own, so that the operator's event loop is left to the operator.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

Object = dict[str, Any]
Listener = Callable[[str, str, Object], None]
"""Called in the server's thread with method, path and body of each write, before it is answered."""

KINDS = {
    "/api/v1": (("namespaces", "Namespace"), ("events", "Event")),
    "/apis/apiextensions.k8s.io/v1": (("customresourcedefinitions", "CustomResourceDefinition"),),
    "/apis/niyanta.io/v1alpha1": (("workloads", "Workload"), ("workerpools", "WorkerPool"), ("customers", "Customer")),
}
"""Discovery, as much of it as kopf asks for."""

CLUSTER_SCOPED = frozenset({"namespaces", "customresourcedefinitions", "customers"})


class ApiServer:
    """Resources by path. Use as a context manager; `on_write` may be set at any time."""

    def __init__(self) -> None:
        self.on_write: Listener = lambda *_: None
        self.url = ""
        self._objects: dict[str, Object] = {}
        self._versions = itertools.count(2)
        self._version = 1
        self._watches: list[tuple[str, asyncio.Queue[bytes]]] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> ApiServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def put(self, collection: str, obj: Object) -> Object:
        """Create or replace an object in a collection's path (with its namespace); returns it as stored."""

        async def store() -> Object:
            return self._put(collection, obj)

        return asyncio.run_coroutine_threadsafe(store(), self._loop).result()

    def get(self, path: str) -> Object | None:
        """The object at a path."""
        return self._objects.get(path)

    def find(self, part: str) -> list[Object]:
        """The objects whose path has `part` in it."""
        return [obj for path, obj in list(self._objects.items()) if part in path]

    # --- storage -----------------------------------------------------------------------------------------------------

    def _put(self, collection: str, obj: Object) -> Object:
        path = f"{collection}/{obj['metadata']['name']}"
        old = self._objects.get(path)
        self._version = next(self._versions)
        meta = {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
        parts = collection.split("/namespaces/")
        if len(parts) > 1:
            meta["namespace"] = parts[1].split("/")[0]
        obj = {**obj, "metadata": {**meta, **obj["metadata"], "resourceVersion": str(self._version)}}
        self._objects[path] = obj
        line = json.dumps({"type": "MODIFIED" if old else "ADDED", "object": obj}).encode() + b"\n"
        for watched, queue in self._watches:
            if _in_collection(path, watched):
                queue.put_nowait(line)
        return obj

    # --- HTTP --------------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        runner = web.AppRunner(_application(self._answer), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._ready.set()
        await self._stopped.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if request.method == "GET":
            if found := _discovery(path):
                return web.json_response(found)
            if "watch" in request.query:
                return await self._watch(request)
            if path in self._objects:
                return web.json_response(self._objects[path])
            if _is_collection(path):
                return self._list(path)
            return _status(404, "NotFound")
        body = await request.json()
        self.on_write(request.method, path, body)
        if request.method == "POST":
            if f"{path}/{body['metadata'].get('name')}" in self._objects:
                return _status(409, "AlreadyExists")
            if path.endswith("/events"):
                return web.json_response(body, status=201)
            return web.json_response(self._put(path, body), status=201)
        if request.method == "PATCH":
            return self._patch(path.removesuffix("/status"), body)
        return _status(405, "MethodNotAllowed")

    def _list(self, path: str) -> web.Response:
        items = [obj for name, obj in self._objects.items() if _in_collection(name, path)]
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": str(self._version)}, "items": items})

    def _patch(self, path: str, body: Any) -> web.Response:
        obj = self._objects.get(path)
        if obj is None:
            return _status(404, "NotFound")
        if isinstance(body, list):
            obj = {**obj, **{step["path"].strip("/"): step["value"] for step in body if step["op"] == "add"}}
        else:
            obj = _merged(obj, {key: value for key, value in body.items() if key != "metadata"})
        return web.json_response(self._put(path.rpartition("/")[0], obj))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        since = int(request.query.get("resourceVersion", "0"))
        for path, obj in self._objects.items():
            if _in_collection(path, request.path) and int(obj["metadata"]["resourceVersion"]) > since:
                queue.put_nowait(json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n")
        watch = (request.path, queue)
        self._watches.append(watch)
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        with suppress(ConnectionError):  # the client went away
            while True:
                await response.write(await queue.get())
        self._watches.remove(watch)
        return response


def _application(handler: Any) -> web.Application:
    app = web.Application(client_max_size=2**22)
    app.router.add_route("*", "/{path:.*}", handler)
    return app


def _in_collection(path: str, collection: str) -> bool:
    """True if the object at `path` belongs to a collection, of a namespace or of all of them."""
    parent = path.rpartition("/")[0]
    if parent == collection:
        return True
    start, _, rest = parent.partition("/namespaces/")
    return bool(rest) and collection == f"{start}/{rest.partition('/')[2]}"


def _is_collection(path: str) -> bool:
    parts = path.strip("/").split("/")
    prefix = 2 if parts[0] == "api" else 3
    rest = parts[prefix:]
    return len(rest) == 1 or (len(rest) == 3 and rest[0] == "namespaces")


def _merged(old: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    new = dict(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            new[key] = _merged(new.get(key) or {}, value)
        else:
            new[key] = value
    return new


def _discovery(path: str) -> Object | None:
    if path == "/version":
        return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = []
        for group, version in (known.split("/")[2:] for known in KINDS if known.startswith("/apis/")):
            entry = {"groupVersion": f"{group}/{version}", "version": version}
            groups.append({"name": group, "versions": [entry], "preferredVersion": entry})
        return {"kind": "APIGroupList", "groups": groups}
    if path not in KINDS:
        return None
    verbs = ["get", "list", "watch", "patch", "create", "delete"]
    resources = [
        {"name": name, "singularName": "", "namespaced": name not in CLUSTER_SCOPED, "kind": kind, "verbs": verbs}
        for name, kind in KINDS[path]
    ]
    version = path.removeprefix("/apis/").removeprefix("/api/")
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _status(code: int, reason: str) -> web.Response:
    return web.json_response(
        {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason},
        status=code,
    )
