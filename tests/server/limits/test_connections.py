"""A live server on a loopback port: slow, silent and endless connections are closed, and others are served."""

from __future__ import annotations

import asyncio
import itertools
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client import REGISTRY

from niyanta.server.app import create_app
from niyanta.server.limits import connections
from niyanta.server.limits.connections import ConnectionGuard
from niyanta.server.main import ApiServer, server_config
from niyanta.server.submit import body
from niyanta.settings import Settings
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from tests.custom_metrics.adapter_scenario import make_certificate
from tests.server.make import manifest

pytestmark = pytest.mark.store

POST = b"POST /v1/workloads HTTP/1.1\r\nHost: door\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n"


class LiveDoor:
    """A listening server, and raw connections to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        writer.write(sent)
        await writer.drain()
        return reader, writer

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def listening(settings: Settings, **values: Any) -> AsyncIterator[LiveDoor]:
    chosen = settings.model_copy(update=values)
    server = ApiServer(
        server_config(create_app(chosen), chosen, host="127.0.0.1", port=0, tls=True), ConnectionGuard(chosen)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    door = LiveDoor(server.servers[0].sockets[0].getsockname()[1])
    try:
        yield door
    finally:
        door.close()
        server.should_exit = True
        await serving


async def _ended(reader: asyncio.StreamReader, seconds: float = 20.0) -> bytes:
    """What the server sends until it closes the connection."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read()
    except ConnectionError:
        return b""


async def test_520_slow_bodies_of_one_key_leave_the_door_open_to_others(
    settings: Settings, store: RestStore, pool: Pool, key: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    _, other = await ApiKeys(pool).create("other", Role.CUSTOMER)
    slow = POST % key.encode() + b"Content-Length: 1000\r\n\r\n{"
    async with listening(settings) as door:
        readers = [(await door.connect(slow))[0] for _ in range(520)]
        first_lines = [asyncio.create_task(reader.readline()) for reader in readers]
        async with asyncio.timeout(30):
            refused = 520 - settings.api_max_inflight_per_customer
            await asyncio.gather(*itertools.islice(asyncio.as_completed(first_lines), refused))
        assert {task.result().split()[1] for task in first_lines if task.done()} == {b"429"}
        body_ = manifest()
        body_["metadata"]["namespace"] = "other"
        async with httpx.AsyncClient(base_url=door.url, timeout=10) as client:
            started = time.monotonic()
            answer = await client.post("/v1/workloads", json=body_, headers={"Authorization": f"Bearer {other}"})
            assert answer.status_code == 202, answer.text
            assert time.monotonic() - started < 5
            mine = await client.post("/v1/workloads", json=manifest(), headers={"Authorization": f"Bearer {key}"})
            assert (mine.status_code, mine.headers["Retry-After"]) == (429, "1")
        for task in first_lines:
            task.cancel()


async def test_slow_bodies_end_with_408(
    settings: Settings, store: RestStore, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "PACE_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.2)
    async with listening(settings, api_min_body_rate=1_000_000) as door:
        reader, _ = await door.connect(POST % key.encode() + b"Content-Length: 1000\r\n\r\n{")
        assert (await _ended(reader)).startswith(b"HTTP/1.1 408 "), "and the connection is closed"


async def test_a_body_after_an_early_response_is_not_waited_for(
    settings: Settings, store: RestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.2)
    async with listening(settings) as door:
        reader, writer = await door.connect(POST % b"nyt_no" + b"Content-Length: 100000\r\n\r\n{")
        assert (await _ended(reader)).startswith(b"HTTP/1.1 401 ")
        whole, writer = await door.connect(POST % b"nyt_no" + b"Content-Length: 3\r\n\r\n{")
        assert (await whole.readline()).startswith(b"HTTP/1.1 401 ")
        writer.write(b"} GET /healthz HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in await _ended(whole), "a body that is complete leaves the connection usable"


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost"])
async def test_silent_and_slow_connections_are_closed(settings: Settings, store: RestStore, sent: bytes) -> None:
    async with listening(settings, api_header_timeout=0.3, api_keep_alive=60.0) as door:
        reader, _ = await door.connect(sent)
        assert await _ended(reader) == b""


@pytest.mark.parametrize("after", [b"", b"GET /he"])
async def test_idle_connections_are_closed(settings: Settings, store: RestStore, after: bytes) -> None:
    async with listening(settings, api_keep_alive=0.3) as door:
        reader, _ = await door.connect(b"GET /healthz HTTP/1.1\r\nHost: door\r\n\r\n" + after)
        assert (await _ended(reader)).endswith(b"ok\n")


async def test_endless_headers_and_trailers_are_cut_off(settings: Settings, store: RestStore, key: str) -> None:
    async with listening(settings) as door:
        reader, _ = await door.connect(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 200_000)
        await _ended(reader)
        many = b"".join(b"X-%d: x\r\n" % number for number in range(20_000))
        reader, _ = await door.connect(b"GET /healthz HTTP/1.1\r\n" + many)
        await _ended(reader)
        trailers = POST % key.encode() + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + many
        reader, _ = await door.connect(trailers)
        await _ended(reader)
        async with httpx.AsyncClient(base_url=door.url, timeout=10) as client:
            assert (await client.get("/healthz")).status_code == 200


async def test_chunks_of_one_byte_are_read(settings: Settings, store: RestStore, key: str) -> None:
    text = orjson.dumps(manifest("chunked"))
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in text + b" " * 20_000)
    async with listening(settings) as door:
        reader, _ = await door.connect(
            POST % key.encode() + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        )
        assert (await _ended(reader)).startswith(b"HTTP/1.1 202 ")


async def test_a_handshake_that_does_not_come_is_not_waited_for(
    settings: Settings, store: RestStore, tmp_path: Path
) -> None:
    serving = make_certificate()
    (tmp_path / "tls.crt").write_bytes(serving.certificate)
    (tmp_path / "tls.key").write_bytes(serving.key)
    tls = {"api_tls_cert": str(tmp_path / "tls.crt"), "api_tls_key": str(tmp_path / "tls.key")}
    async with listening(settings, api_header_timeout=0.3, **tls) as door:
        reader, _ = await door.connect()
        assert await _ended(reader) == b""


async def test_large_batches_of_one_key_that_stop_take_little_memory(
    settings: Settings, store: RestStore, key: str
) -> None:
    filler = {"annotations": {"text": "x" * 30_000}}
    lines = []
    for number in range(100):
        item = manifest(f"held-{number}")
        item["spec"]["template"]["metadata"] = filler
        lines.append(orjson.dumps(item) + b"\n")
    head = POST.replace(b"workloads", b"workloads:batch").replace(b"json", b"x-ndjson") % key.encode()
    text = head + b"Content-Length: 31000000\r\n\r\n" + b"".join(lines)
    async with listening(settings) as door:
        readers = [(await door.connect(text))[0] for _ in range(12)]
        first = asyncio.create_task(readers[0].read())
        async with asyncio.timeout(60):
            while (await store.get_queue_depth("acme")).total.pending < 30:  # noqa: ASYNC110 - a group is in
                await asyncio.sleep(0.05)
        held = REGISTRY.get_sample_value("niyanta_api_submission_bytes") or 0.0
        assert 0 < held <= settings.api_max_inflight_bytes_per_customer
        first.cancel()


async def test_a_new_connection_takes_the_place_of_an_idle_one(settings: Settings, store: RestStore) -> None:
    for limit in ("api_max_connections", "api_max_connections_per_peer"):
        async with listening(settings, **{limit: 5}) as door:
            readers = [(await door.connect())[0] for _ in range(5)]
            async with httpx.AsyncClient(base_url=door.url, timeout=10) as client:
                assert (await client.get("/healthz")).status_code == 200
            assert await _ended(readers[0], 5) == b"", "the first one was idle for longest"
            assert not readers[4].at_eof()
