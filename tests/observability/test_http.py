"""The server of /metrics and the probes: its token, and connections that send nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from niyanta.observability import http, metrics_token
from niyanta.observability.http import Exporter

pytestmark = pytest.mark.unit


@asynccontextmanager
async def serving(token_file: str = "") -> AsyncIterator[Exporter]:
    exporter = Exporter(host="127.0.0.1", port=0, alive=lambda: "", ready=lambda: "not yet", token_file=token_file)
    await exporter.start()
    try:
        yield exporter
    finally:
        await exporter.stop()


async def get(exporter: Exporter, path: str, token: str = "") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{exporter.port}{path}", headers=headers) as answer,
    ):
        return answer.status


async def test_metrics_need_the_token_and_probes_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_token, "TOKEN_READ_SECONDS", -1.0)
    file = tmp_path / "token"
    async with serving(str(file)) as exporter:
        assert await get(exporter, "/metrics", "secret") == 401, "no file refuses everybody"
        file.write_text("secret\n")
        statuses = [await get(exporter, "/metrics", token) for token in ("", "wrong", "secret")]
        assert statuses == [401, 401, 200]
        file.write_text("rotated")
        assert [await get(exporter, "/metrics", token) for token in ("secret", "rotated")] == [401, 200]
        assert [await get(exporter, path) for path in ("/healthz", "/readyz")] == [200, 503]


async def test_without_a_token_metrics_are_open() -> None:
    async with serving() as exporter:
        assert await get(exporter, "/metrics") == 200


async def test_silent_connections_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 3)
    async with serving() as exporter:
        opened = []
        for _ in range(6):
            opened.append(await asyncio.open_connection("127.0.0.1", exporter.port))
            assert await get(exporter, "/healthz") == 200
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert await opened[0][0].read() == b""
        for _, writer in opened:
            writer.close()
