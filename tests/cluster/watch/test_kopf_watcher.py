"""kopf lives on whatever users write into objects: it sees bounded JSON only."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from niyanta.bounded_json import VIOLATION_KEY
from niyanta.cluster.api.kinds import WORKLOADS
from niyanta.cluster.watch.kopf_watcher import KopfWatcher
from niyanta.settings import Settings
from tests.cluster.api.test_bounded_objects import BAD, nested
from tests.fakes.scripted_api_server import until

pytestmark = pytest.mark.unit

VERSIONS = {
    "v1": {"namespaces": "Namespace", "events": "Event"},
    "apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
    "niyanta.io/v1alpha1": {"workloads": "Workload"},
}
"""Kinds by API version, for discovery; kopf looks for Niyanta's kinds and for those that it may need itself."""


def discovery(path: str) -> dict[str, Any]:
    """The answer to a request for the server's API groups, or for the kinds of a version."""
    version = path.removeprefix("/api/").removeprefix("/apis/")
    if version in VERSIONS:
        kinds = VERSIONS[version].items()
        common = {"namespaced": True, "verbs": ["get", "list", "watch", "patch"]}
        return {"resources": [{"name": name, "singularName": "", "kind": kind, **common} for name, kind in kinds]}
    groups = []
    for name, _, number in (version.partition("/") for version in VERSIONS if "/" in version):
        entry = {"groupVersion": f"{name}/{number}", "version": number}
        groups.append({"name": name, "versions": [entry], "preferredVersion": entry})
    return {"versions": ["v1"], "groups": groups}


def workload(name: str, field: bytes) -> bytes:
    meta = {"name": name, "namespace": "ns", "uid": f"uid of {name}", "resourceVersion": "7", "generation": 1}
    head = orjson.dumps({"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "metadata": meta})
    return head[:-1] + b',"spec":{"field":' + field + b"}}"


class WorkloadServer:
    """An API server with one kind, whose list and watch are given as text."""

    def __init__(self, listed: list[bytes], lines: list[bytes]) -> None:
        self.listed = listed
        self.lines = lines
        self.watches = 0
        self.closing = threading.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/workloads"):
            return web.json_response(discovery(request.path))
        if "watch" not in request.query:
            head = b'{"kind":"WorkloadList","metadata":{"resourceVersion":"5"},"items":['
            return web.Response(body=head + b",".join(self.listed) + b"]}", content_type="application/json")
        self.watches += 1
        response = web.StreamResponse()
        await response.prepare(request)
        for line in self.lines:
            await response.write(line + b"\n")
        await until(self.closing.is_set, 60)
        return response


async def test_objects_out_of_bounds_do_not_end_the_watch(tmp_path: Path) -> None:
    events = [b'{"type":"ADDED","object":' + workload(f"bad {name}", field) + b"}" for name, field in BAD.items()]
    junk = [b'{"type":"ADDED"', b"[]", b'{"type":"ADDED","object":' + nested(2_000) + b"}", b"x" * (7 * 1024 * 1024)]
    last = b'{"type":"ADDED","object":' + workload("last", b'"fine"') + b"}"
    listed = [workload("first", b'"fine"'), *(workload(f"listed {name}", field) for name, field in BAD.items())]
    raises = b'{"type":"ADDED","object":' + workload("raises", b"1") + b"}"
    server = WorkloadServer(listed, [*events, *junk, raises, last])
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    served = TestServer(app, shutdown_timeout=0.1)
    await served.start_server()
    kubeconfig = tmp_path / "config"
    kubeconfig.write_bytes(orjson.dumps(_kubeconfig(f"http://{served.host}:{served.port}")))
    seen: dict[str, Mapping[str, Any]] = {}

    def listener(kind: str, obj: Mapping[str, Any]) -> None:
        name = obj["metadata"]["name"]
        if name == "raises":
            raise RuntimeError("a listener that fails")
        seen[name] = obj

    watcher = KopfWatcher(Settings(kubeconfig=str(kubeconfig)), {WORKLOADS: listener})
    watcher.start()
    try:
        await until(lambda: "last" in seen, 30)
        assert server.watches == 1, "kopf was not started again"
        assert seen["first"]["spec"]["field"] == seen["last"]["spec"]["field"] == "fine"
        stubs = {name for name, obj in seen.items() if VIOLATION_KEY in obj}
        expected = {name for name in BAD if name != "65 bits"}
        assert stubs >= {f"bad {name}" for name in expected} | {f"listed {name}" for name in expected}
        assert all(seen[name]["spec"] == {} for name in stubs)
    finally:
        server.closing.set()
        watcher.stop()
        await served.close()


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
