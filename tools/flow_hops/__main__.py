"""Runs the four flows of docs/architecture.md for one Workload, and counts the moves between Niyanta's files.

    python -m tools.flow_hops                      the figures
    python -m tools.flow_hops --walk a             every move of a flow too: file and function
    python -m tools.flow_hops --walk a --trunk     its moves without leaf calls

The operator and the REST door are the real ones, in this process, on an embedded Postgres and on an API server in
memory. It takes some ten seconds. A run may differ from the next by a few moves, by what a round finds to do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import ssl
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psycopg

import niyanta
from testing.processes.free_ports import free_port
from testing.processes.postgres import Postgres
from tests.custom_metrics.authorities import Authority
from tools.flow_hops import flows
from tools.flow_hops.api_server import ApiServer, Object
from tools.flow_hops.tracer import Step, Tracer, Walk, trunk, walk

WORKLOADS = "/apis/niyanta.io/v1alpha1/namespaces/team/workloads"
PODS = "/api/v1/namespaces/team/pods"
SYSTEM = f"/api/v1/namespaces/{flows.NAMESPACE}"
METRIC = f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{flows.NAMESPACE}/workerpools.niyanta.io/{flows.POOL}/"
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Walks:
    """A flow with all calls, and without leaf calls."""

    whole: Walk
    trunk: Walk

    @classmethod
    def of(cls, stages: Sequence[Sequence[Step]]) -> Walks:
        """Both walks along the steps of a flow's stages."""
        return cls(
            walk([step for steps in stages for step in steps]),
            walk([step for steps in stages for step in trunk(steps)]),
        )


class FlowRun:
    """The system under the tracer, and its users: `recorded` maps a flow's letter to its steps."""

    def __init__(self, tracer: Tracer, api: ApiServer, settings: Any, folder: Path) -> None:
        self.recorded: dict[str, list[Step]] = {}
        self._tracer = tracer
        self._api = api
        self._settings = settings
        self._folder = folder
        self._front_proxy = Authority("front-proxy-ca")

    def prepare(self) -> None:
        """Objects that are there before the operator starts."""
        self._api.put("/api/v1/nodes", flows.node())
        self._api.put(f"/apis/niyanta.io/v1alpha1/namespaces/{flows.NAMESPACE}/workerpools", flows.worker_pool())
        self._api.put("/apis/niyanta.io/v1alpha1/customers", flows.customer())
        self._api.put(f"{SYSTEM}/secrets", {"metadata": {"name": "niyanta-metrics-adapter-tls"}, "data": {}})
        data = {
            "requestheader-client-ca-file": self._front_proxy.pem,
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-username-headers": '["X-Remote-User"]',
        }
        authentication = {"metadata": {"name": "extension-apiserver-authentication"}, "data": data}
        self._api.put("/api/v1/namespaces/kube-system/configmaps", authentication)

    async def run(self) -> None:
        """All flows, one after the other."""
        await until(lambda: self._value("SELECT count(*) FROM customers") == 1, "the leader has written the Customers")
        await until(lambda: self._value("SELECT count(*) FROM leader_figures WHERE updated_at > '-infinity'"), "stats")
        await self._watch_event_to_pod()
        await self._pod_phase_to_status()
        await self._queue_to_workers_needed()
        await self._post_to_row()

    async def _watch_event_to_pod(self) -> None:
        self._end_with("a", lambda method, path, _: method == "POST" and path == PODS)
        self._tracer.begin()
        self._api.put(WORKLOADS, flows.workload("one"))
        await until(lambda: "a" in self.recorded, "a pod is created")
        await until(lambda: self._status("one").get("phase") == "Scheduled", "its status is written")

    async def _pod_phase_to_status(self) -> None:
        (pod,) = self._api.find(PODS)
        self._end_with("c", lambda _, path, body: path.endswith("/status") and _phase(body) == "Running")
        self._tracer.begin()
        self._api.put(PODS, {**pod, "status": {"phase": "Running"}})
        await until(lambda: "c" in self.recorded, "the status is written")

    async def _queue_to_workers_needed(self) -> None:
        needed = "SELECT figures #>> '{pools,0,workers_needed}' FROM leader_figures"
        self._tracer.begin()
        self._api.put(WORKLOADS, flows.workload("two"))
        await until(lambda: self._value(needed) == "2", "another worker is needed")
        await asyncio.sleep(1.5)  # the adapter reads once a second
        assert await self._ask_adapter("workers_needed") == "2"
        self.recorded["d"] = self._tracer.end()

    async def _ask_adapter(self, metric: str) -> str:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(self._front_proxy.client(self._folder, "front-proxy-client"))
        connector = aiohttp.TCPConnector(ssl=context)
        url = f"https://127.0.0.1:{self._settings.metrics_adapter_port}{METRIC}{metric}"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(url, headers={"X-Remote-User": "hpa"}) as answer,
        ):
            document = await answer.json()
        return str(document["items"][0]["value"])

    async def _post_to_row(self) -> None:
        from niyanta.server.app import create_app

        app = create_app(self._settings)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            headers = {"Authorization": f"Bearer {await self._key()}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
                await asyncio.sleep(0.5)
                self._tracer.begin()
                answer = await client.post("/v1/workloads", json=flows.workload("three"))
                self.recorded["b"] = self._tracer.end()
        assert answer.status_code == 202, answer.text

    async def _key(self) -> str:
        from niyanta.store.postgres.pool import open_pool
        from niyanta.store.rest.api_keys import ApiKeys, Role

        async with await open_pool(self._settings) as pool:
            return (await ApiKeys(pool).create("acme", Role.CUSTOMER))[1]

    def _end_with(self, flow: str, is_end: Callable[[str, str, Any], bool]) -> None:
        """Have a write to the API server end the flow."""

        def on_write(method: str, path: str, body: Object) -> None:
            if flow not in self.recorded and is_end(method, path, body):
                self.recorded[flow] = self._tracer.end()

        self._api.on_write = on_write

    def _status(self, name: str) -> Object:
        found: Object = (self._api.get(f"{WORKLOADS}/{name}") or {}).get("status") or {}
        return found

    def _value(self, statement: str) -> Any:
        with psycopg.connect(self._settings.dsn, autocommit=True) as connection:
            row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None


def _phase(body: Any) -> str:
    """The phase of an applied status."""
    status = body.get("status") or {} if isinstance(body, dict) else {}
    return str(status.get("phase"))


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until `condition` is true."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110 - conditions of many kinds, no one event
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise SystemExit(f"not within {PATIENCE_SECONDS:g} s: {what}") from None


async def trace(settings: Any, api: ApiServer, folder: Path) -> dict[str, Walks]:
    """The walks of each flow."""
    from niyanta.manager import operate

    tracer = Tracer(Path(niyanta.__file__).parent)
    run = FlowRun(tracer, api, settings, folder)
    run.prepare()
    tracer.install()
    operator = asyncio.create_task(operate(settings))
    users = asyncio.create_task(run.run())
    try:
        await asyncio.wait({operator, users}, return_when=asyncio.FIRST_COMPLETED)
        if operator.done():
            raise SystemExit(f"the operator ended: {operator.result()}")
        users.result()
    finally:
        tracer.uninstall()
        users.cancel()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.gather(operator, users, return_exceptions=True)
    return {
        flow: Walks.of([stage.select(run.recorded[flow]) for stage in stages])
        for flow, (_, stages) in flows.FLOWS.items()
    }


def measure() -> dict[str, Walks]:
    """The walks of each flow, on servers of its own."""
    from niyanta.observability import log
    from niyanta.settings import Settings
    from niyanta.store.postgres.migrate import migrate

    log.configure("console", "ERROR")
    with Postgres.create() as postgres, ApiServer() as api, tempfile.TemporaryDirectory() as name:
        dsn = postgres.create_database("flows")
        migrate(dsn)
        folder = Path(name)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(KUBECONFIG.format(url=api.url))
        settings = Settings(
            dsn=dsn,
            kubeconfig=str(kubeconfig),
            namespace=flows.NAMESPACE,
            metrics_port=free_port(),
            metrics_host="127.0.0.1",
            metrics_adapter=True,
            metrics_adapter_port=free_port(),
            metrics_adapter_host="127.0.0.1",
            status_debounce=0.1,
            loop_stall_limit=30.0,
            lease=60.0,
            require_policies=False,
            db_pool_min=1,
        )
        return asyncio.run(trace(settings, api, folder))


KUBECONFIG = """apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
"""


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(description="Counts the moves between files in the four flows.")
    parser.add_argument("--walk", choices=sorted(flows.FLOWS), help="print every move of this flow")
    parser.add_argument("--trunk", action="store_true", help="print its moves without leaf calls")
    chosen = parser.parse_args(arguments)
    walks = measure()
    lines = []
    if chosen.walk:
        found = walks[chosen.walk].trunk if chosen.trunk else walks[chosen.walk].whole
        lines += [f"{number:4} {file}  {function}" for number, (file, function) in enumerate(found.places)]
    lines += ["| flow | moves | returns | files | moves without leaf calls | returns | files |", "|" + " --- |" * 7]
    for flow, (title, _) in flows.FLOWS.items():
        cells = [f"({flow}) {title}"]
        for found in (walks[flow].whole, walks[flow].trunk):
            cells += [str(found.moves), str(found.returns), str(len(found.files))]
        lines.append(f"| {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
