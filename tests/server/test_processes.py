"""Real API processes: limits across two of them, one killed during a batch, TLS, and an outage of Postgres."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from niyanta.settings import Settings
from niyanta.store.postgres.migrate import migrate
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import CustomerRow
from testing.processes.free_ports import free_port
from testing.processes.niyanta import OperatorProcess, clean_environment, niyanta_command
from testing.processes.postgres import Postgres
from testing.processes.run_directory import RunDir
from tests.server.make import manifest, ndjson

pytestmark = pytest.mark.process


class Api:
    """An API process on a free port."""

    def __init__(self, run: RunDir, dsn: str, name: str, **env: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = OperatorProcess.start(
            run=run,
            identity=name,
            dsn=dsn,
            kubeconfig=None,
            subcommand=("api",),
            log=run.path / f"{name}.log",
            extra_env={"NIYANTA_API_PORT": str(port), "NIYANTA_API_HOST": "127.0.0.1", **env},
        )


@pytest.fixture
def run() -> Iterator[RunDir]:
    found = RunDir.create("api")
    yield found
    found.destroy()


async def _prepare(dsn: str, **limits: int) -> str:
    """Store the Customer; returns a token of it."""
    async with await open_pool(Settings(dsn=dsn, db_pool_min=1)) as pool:
        store = RestStore(pool, Settings(dsn=dsn))
        await store.upsert_customers([CustomerRow("acme", "Standard", limits, ("acme",))])
        return (await ApiKeys(pool).create("acme", Role.CUSTOMER))[1]


async def test_two_processes_hold_a_limit_exactly_and_a_killed_one_loses_nothing(dsn: str, run: RunDir) -> None:
    token = await _prepare(dsn, maxQueueDepth=400)
    first, second = (Api(run, dsn, name) for name in ("api-a", "api-b"))
    for api in (first, second):
        await asyncio.to_thread(api.process.wait_ready)
    statuses: list[int] = []
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(timeout=30, headers=headers) as client:

        async def submitter(number: int) -> None:
            api = (first, second)[number % 2]
            for _ in range(30):
                answer = await client.post(f"{api.url}/v1/workloads", json=manifest(f"s-{uuid.uuid4()}"[:39]))
                statuses.append(answer.status_code)

        await asyncio.gather(*(submitter(number) for number in range(16)))
        assert (statuses.count(202), statuses.count(429)) == (400, 80)

        await _prepare(dsn)  # no limit from now on
        await asyncio.sleep(1.5)
        lines = ndjson(*(manifest(f"b-{number}") for number in range(1000)))
        key = {"Idempotency-Key": "batch"}
        killer = threading.Timer(0.15, first.process.sigkill)
        killer.start()
        try:
            answer = await client.post(f"{first.url}/v1/workloads:batch", content=lines, headers=key)
            assert answer.status_code == 202
        except httpx.TransportError:
            pass
        killer.join()
        answer = await client.post(f"{second.url}/v1/workloads:batch", content=lines, headers=key)
        assert answer.status_code == 202, answer.text
        ids = {item["workload"]["id"] for item in answer.json()["items"]}
        assert len(ids) == 1000
        again = await client.post(f"{second.url}/v1/workloads:batch", content=lines, headers=key)
        assert (again.headers["Idempotency-Replayed"], again.json()) == ("true", answer.json())
    async with await open_pool(Settings(dsn=dsn, db_pool_min=1)) as pool:
        store = RestStore(pool, Settings(dsn=dsn))
        assert (await store.get_queue_depth("acme")).total.pending == 1400
        assert {row.id for row in await store.get_workloads(ids)} == ids
        assert await store.wrong_counters() == []


async def test_an_outage_of_postgres_is_answered_with_503_in_time(run: RunDir) -> None:
    with Postgres.create(durable=True, run=run) as server:
        migrate(server.dsn)
        token = await _prepare(server.dsn)
        api = Api(run, server.dsn, "api-outage")
        await asyncio.to_thread(api.process.wait_ready)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(timeout=30, headers=headers, base_url=api.url) as client:

            async def all_refused() -> None:
                calls = [
                    client.post("/v1/workloads", json=manifest()),
                    client.post("/v1/workloads:batch", content=ndjson(manifest())),
                    *(client.get(path) for path in ("/v1/workloads", "/v1/customer/stats", "/v1/metrics/queue-depth")),
                ]
                started = time.monotonic()
                answers = await asyncio.gather(*calls)
                assert time.monotonic() - started < 5.5  # 5 s, and a margin for a busy machine
                assert [answer.status_code for answer in answers] == [503] * 5
                assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
                assert {answer.json()["type"] for answer in answers} == {"urn:niyanta:problem:unavailable"}
                assert (await client.get("/readyz")).status_code == 503
                assert (await client.get("/healthz")).status_code == 200

            assert (await client.post("/v1/workloads", json=manifest())).status_code == 202
            await asyncio.to_thread(server.pause)
            await all_refused()
            await asyncio.to_thread(server.resume)
            await _until_well(client)
            await asyncio.to_thread(server.kill)
            await all_refused()
            await asyncio.to_thread(server.start)
            await _until_well(client)
            items = (await client.get("/v1/workloads")).json()["items"]
            assert items, "accepted workloads are still stored"


async def _until_well(client: httpx.AsyncClient) -> None:
    deadline = time.monotonic() + 20
    while (await client.get("/v1/customer")).status_code != 200:
        assert time.monotonic() < deadline


async def test_keys_are_made_by_command_and_tls_is_served(dsn: str, run: RunDir) -> None:
    await _prepare(dsn)
    env = {**clean_environment(), "NIYANTA_DSN": dsn}

    def niyanta(*args: str, code: int = 0) -> str:
        done = subprocess.run(
            [niyanta_command(), *args], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout.strip()

    token = await asyncio.to_thread(niyanta, "apikey", "create", "--customer", "acme", "--name", "ci")
    assert token.startswith("nyt_acme_")
    assert "\n" not in token
    certificate, key = _certificate(run.path)
    port = free_port()
    api = OperatorProcess.start(
        run=run,
        identity="api-tls",
        dsn=dsn,
        kubeconfig=None,
        subcommand=("api",),
        log=run.path / "tls.log",
        extra_env={
            "NIYANTA_API_PORT": str(port),
            "NIYANTA_API_TLS_CERT": str(certificate),
            "NIYANTA_API_TLS_KEY": str(key),
        },
    )
    await asyncio.to_thread(api.wait_ready)
    import ssl

    trust = ssl.create_default_context(cafile=str(certificate))
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(verify=trust, base_url=f"https://localhost:{port}", headers=headers) as client:
        assert (await client.get("/v1/customer")).json()["name"] == "acme"
        listed = await asyncio.to_thread(niyanta, "apikey", "list")
        assert token[9:21] in listed
        assert token not in listed
        await asyncio.to_thread(niyanta, "apikey", "revoke", token[9:21])
        await asyncio.sleep(1.1)
        assert (await client.get("/v1/customer")).status_code == 401
    await asyncio.to_thread(niyanta, "apikey", "revoke", "nothing", code=2)
    assert api.http("/metrics")[0] == 200
    assert "niyanta_api_answers_total" in api.metrics()
    assert api.terminate() == 0


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
