"""Metrics of the connections to Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from niyanta.settings import Settings
from niyanta.store.errors import StoreError, StoreUnavailableError
from niyanta.store.postgres.pool import open_pool

pytestmark = pytest.mark.store


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"niyanta_postgres_{name}", labels)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - a statistic of psycopg without notification
            await asyncio.sleep(0.01)


async def test_a_pool_exports_connections_and_waiting_requests_until_it_is_closed(dsn: str) -> None:
    async with await open_pool(Settings(dsn=dsn, db_pool_min=1, db_pool_max=2)) as pool:
        await pool.fetch("clock")
        assert sample("up") == 1
        assert sample("pool_max_connections", role="primary") == 2
        async with pool.connection(), pool.connection():
            assert sample("pool_connections", role="primary", state="in_use") == 2
            third = asyncio.create_task(pool.fetch("clock"))
            await until(lambda: sample("pool_waiting_requests", role="primary") == 1)
        await third
        await until(lambda: sample("pool_connections", role="primary", state="in_use") == 0)
        assert (sample("pool_requests_total", role="primary") or 0) >= 4
        assert (sample("pool_wait_seconds_total", role="primary") or 0) > 0
    assert sample("pool_max_connections", role="primary") is None


async def test_errors_are_counted_by_kind_and_only_unavailability_clears_up(dsn: str) -> None:
    before = {kind: sample("errors_total", error=kind) or 0 for kind in ("unavailable", "conflict", "other")}
    async with await open_pool(Settings(dsn=dsn, db_pool_min=1)) as pool:
        with pytest.raises(StoreError):
            async with pool.connection() as connection:
                await connection.execute("SELECT nonsense")
        assert sample("errors_total", error="other") == before["other"] + 1
        assert sample("up") == 1
    nowhere = Settings(dsn="postgresql://nobody@127.0.0.1:1/none", db_pool_min=1, statement_timeout=1)
    async with await open_pool(nowhere) as pool:
        with pytest.raises(StoreUnavailableError):
            await pool.fetch("clock")
        assert sample("errors_total", error="unavailable") == before["unavailable"] + 1
        assert sample("up") == 0
    assert sample("errors_total", error="conflict") == before["conflict"]
