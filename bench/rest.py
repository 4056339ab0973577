"""The REST door under load: single submissions, batches, and reads of a backlog of a million workloads.

Postgres is a real server that syncs every commit. The REST door runs in processes of its own, and the load comes from
this process (open loop: the latency of a request counts from the time at which it was due). During
`submit_while_placing` an operator on a control plane places the submissions; no workload is placed during the others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
import psutil

from bench.backlog import POD, fill
from niyanta.settings import Settings
from niyanta.store.postgres.migrate import migrate
from niyanta.store.postgres.pool import open_pool
from niyanta.store.queue_classes import ClassRequest
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import CustomerRow
from niyanta.store.state import StateManager
from testing.cluster.nodes import NodeSpec
from testing.environment import Environment
from testing.processes.free_ports import free_port
from testing.processes.niyanta import OperatorProcess
from testing.processes.postgres import Postgres
from testing.processes.run_directory import RunDir
from testing.scenarios.workloads import metric

BACKLOG_ROWS = 1_000_000
CUSTOMERS, CLASSES = 200, 300
_numbers = itertools.count()


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{at}_ms": round(cuts[at - 1] * 1000, 1) for at in (50, 95, 99)}


def body() -> bytes:
    """A manifest with a unique name."""
    manifest = {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": f"bench-{next(_numbers)}", "namespace": "bench"},
        "spec": {"template": {"spec": POD}},
    }
    return json.dumps(manifest, separators=(",", ":")).encode()


@contextmanager
def doors(run: RunDir, dsn: str, count: int) -> Iterator[list[str]]:
    """Start `count` API processes; yields their addresses."""
    started, urls = [], []
    try:
        for _ in range(count):
            port = free_port()
            process = OperatorProcess.start(
                run=run,
                identity=f"bench-api-{port}",
                dsn=dsn,
                kubeconfig=None,
                subcommand=("api",),
                log=run.path / f"bench-api-{port}.log",
                extra_env={"NIYANTA_API_PORT": str(port), "NIYANTA_MAX_QUEUE_DEPTH": "100000000"},
            )
            started.append(process)
            urls.append(f"http://127.0.0.1:{port}")
        for process in started:
            process.wait_ready()
        yield urls
    finally:
        for process in started:
            process.terminate()


async def token(dsn: str, role: Role) -> dict[str, str]:
    """Request headers with a new API key of the customer bench."""
    async with await open_pool(Settings(dsn=dsn, db_pool_min=1)) as pool:
        record = RestStore(pool, Settings(dsn=dsn))
        await record.upsert_customers([CustomerRow("bench", "Standard", {}, ("bench",))])
        return {"Authorization": f"Bearer {(await ApiKeys(pool).create('bench', role))[1]}"}


async def singles(urls: Sequence[str], headers: dict[str, str], *, rate: float, seconds: float) -> dict[str, Any]:
    """POST /v1/workloads at `rate` requests per second."""
    taken: list[float] = []
    statuses: dict[int, int] = {}

    async def one(session: aiohttp.ClientSession, url: str, due: float) -> None:
        async with session.post(f"{url}/v1/workloads", data=body(), headers=headers) as answer:
            await answer.read()
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
        taken.append(time.monotonic() - due)

    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
        start = time.monotonic() + 0.1
        tasks = []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(one(session, urls[number % len(urls)], due)))
        await asyncio.gather(*tasks)
    return {"per_second": rate, "answers": {str(k): v for k, v in statuses.items()}, **percentiles(taken)}


async def batches(urls: Sequence[str], headers: dict[str, str], *, count: int, width: int) -> dict[str, Any]:
    """POST /v1/workloads:batch with 1,000 items each, `width` requests at once."""
    ready = [b"\n".join(body() for _ in range(1000)) for _ in range(count)]
    accepted = 0
    statuses: dict[str, int] = {}
    taken: list[float] = []

    async def worker(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal accepted
        while ready:
            lines, started = ready.pop(), time.monotonic()
            url = f"{urls[number % len(urls)]}/v1/workloads:batch"
            async with session.post(url, data=lines, headers=headers) as answer:
                response = await answer.json()
                accepted += response.get("accepted", 0)
                statuses[str(answer.status)] = statuses.get(str(answer.status), 0) + 1
            taken.append(time.monotonic() - started)

    async with aiohttp.ClientSession(headers={"Content-Type": "application/x-ndjson"}) as session:
        start = time.monotonic()
        await asyncio.gather(*(worker(session, number) for number in range(width)))
        seconds = time.monotonic() - start
    return {
        "accepted": accepted,
        "answers": statuses,
        "workloads_per_second": round(accepted / seconds),
        "processes": len(urls),
        "batch_median_ms": round(statistics.median(taken) * 1000),
    }


async def look(url: str, headers: dict[str, str], path: str, *, count: int = 200) -> dict[str, float]:
    """Latency of `count` GET requests, one after the other."""
    taken = []
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(count):
            started = time.monotonic()
            async with session.get(f"{url}{path}") as answer:
                answer.raise_for_status()
                await answer.read()
            taken.append(time.monotonic() - started)
    return percentiles(taken)


async def class_loading(dsn: str) -> dict[str, Any]:
    """Time of a pass over all classes, and of reading the first rows of 100 of them with their specs."""
    settings = Settings(dsn=dsn, db_pool_min=1, statement_timeout=30.0)
    async with await open_pool(settings) as pool:
        state = StateManager(pool, settings)
        passes, heads, rows = [], [], 0
        for _ in range(5):
            started = time.monotonic()
            classes = page = await state.get_waiting_classes()
            while len(page) == 1000:
                page = await state.get_waiting_classes((page[-1].customer, page[-1].queue_class))
                classes = classes + page
            passes.append(time.monotonic() - started)
            started = time.monotonic()
            wanted = [ClassRequest(found.customer, found.queue_class, 64) for found in classes[:100]]
            found = await state.get_class_heads(wanted)
            rows = len(await state.get_workloads([id_ for one in found for id_ in one.ids]))
            heads.append(time.monotonic() - started)
    return {
        "classes": len(classes),
        "pass_median_ms": round(statistics.median(passes) * 1000),
        "rows_of_100_classes": rows,
        "rows_median_ms": round(statistics.median(heads) * 1000),
    }


def run(*, backlog: int = BACKLOG_ROWS, seconds: float = 15.0) -> dict[str, Any]:
    """Run all measurements."""
    found: dict[str, Any] = {"load_before": round(psutil.getloadavg()[0], 1)}
    own = RunDir.create("bench-rest")
    try:
        server = Postgres.create(durable=True, run=own)
        dsn = server.dsn
        migrate(dsn)
        headers = asyncio.run(token(dsn, Role.CUSTOMER))
        with doors(own, dsn, 1) as urls:
            asyncio.run(singles(urls, headers, rate=50, seconds=2))
            found["submit_one_process"] = asyncio.run(singles(urls, headers, rate=200, seconds=seconds))
            found["batch_one_process"] = asyncio.run(batches(urls, headers, count=20, width=3))
        with doors(own, dsn, 2) as urls:
            found["submit_two_processes"] = asyncio.run(singles(urls, headers, rate=200, seconds=seconds))
            found["batch_two_processes"] = asyncio.run(batches(urls, headers, count=30, width=4))
        found["backlog"] = _backlog(own, server, backlog)
    finally:
        own.destroy()
    found["submit_while_placing"] = while_placing(seconds)
    return found


def while_placing(seconds: float) -> dict[str, Any]:
    """POST at 200/s while an operator places the submissions on 100 simulated workers of a control plane."""
    with Environment.start("bench-rest", operators=1, durable=True, fast_node_loss=False) as environment:
        cluster, group = environment.cluster, "/apis/niyanta.io/v1alpha1"
        kind = {"apiVersion": "niyanta.io/v1alpha1"}
        cluster.create_namespace("bench")
        cluster.api.post(
            f"{group}/customers",
            {**kind, "kind": "Customer", "metadata": {"name": "bench"}, "spec": {"namespaces": ["bench"]}},
        )
        cluster.api.post(
            f"{group}/namespaces/{environment.namespace}/workerpools",
            {
                **kind,
                "kind": "WorkerPool",
                "metadata": {"name": "bench"},
                "spec": {"nodeSelector": {"matchLabels": {"bench": "true"}}},
            },
        )
        cluster.create_nodes(
            NodeSpec(f"bench-{n:03d}", cpu="64", memory="512Gi", labels={"bench": "true"}) for n in range(100)
        )
        headers = asyncio.run(token(environment.dsn, Role.CUSTOMER))
        with doors(environment.run, environment.dsn, 1) as urls:
            asyncio.run(singles(urls, headers, rate=50, seconds=2))
            found = asyncio.run(singles(urls, headers, rate=200, seconds=seconds))
        placed = metric(environment.operators[0].metrics(), "niyanta_placements_total")
        return {**found, "placed_meanwhile": int(placed)}


def _backlog(own: RunDir, server: Postgres, rows: int) -> dict[str, Any]:
    dsn = server.create_database("backlog")
    migrate(dsn)
    started = time.monotonic()
    fill(dsn, rows, customers=CUSTOMERS, classes=CLASSES)
    found: dict[str, Any] = {"rows": rows, "made_in_seconds": round(time.monotonic() - started, 1)}
    admin = asyncio.run(token(dsn, Role.ADMIN))
    with doors(own, dsn, 1) as (url,):
        for name, path in (
            ("queue_depth", "/v1/metrics/queue-depth"),
            ("list_first_page", "/v1/workloads?limit=50"),
            ("list_by_status", "/v1/workloads?limit=50&status=Pending&customer=c7"),
            ("customer_stats", "/v1/customer/stats?customer=bench"),
        ):
            found[name] = asyncio.run(look(url, admin, path))
        found["submit_with_backlog"] = asyncio.run(singles([url], admin, rate=100, seconds=5))
    found["classes"] = asyncio.run(class_loading(dsn))
    return found


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
