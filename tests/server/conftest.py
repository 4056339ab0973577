"""The REST door in this process, on a database of the test's own, with a customer and keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from niyanta.server.app import create_app
from niyanta.server.dependencies import Dependencies
from niyanta.settings import Settings
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import CustomerRow

ACME = CustomerRow("acme", "Premium", {}, ("default", "acme"), service_accounts=("runner",), secrets=("pull", "data"))
OTHER = CustomerRow("other", "Free", {}, ("other",))


@pytest.fixture
def settings(dsn: str) -> Settings:
    return Settings(dsn=dsn, identity="leader", db_pool_min=1, api_pool_max=8)


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    async with await open_pool(settings) as pool:
        yield pool


@pytest.fixture
async def record(pool: Pool, settings: Settings) -> RestStore:
    """The record, with the customers written down."""
    record = RestStore(pool, settings)
    await record.upsert_customers([ACME, OTHER])
    return record


@asynccontextmanager
async def door(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """An API process's application, and a client without a key."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://door", timeout=30) as client:
            yield app, client


@pytest.fixture
async def app_client(settings: Settings, record: RestStore) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    async with door(settings) as found:
        yield found


@pytest.fixture
def services(app_client: tuple[FastAPI, httpx.AsyncClient]) -> Dependencies:
    found: Dependencies = app_client[0].state.services
    return found


@pytest.fixture
async def key(pool: Pool) -> str:
    """A token of customer acme."""
    return (await ApiKeys(pool).create("acme", Role.CUSTOMER))[1]


@pytest.fixture
async def client(app_client: tuple[FastAPI, httpx.AsyncClient], key: str) -> httpx.AsyncClient:
    """Asks as customer acme."""
    app_client[1].headers["Authorization"] = f"Bearer {key}"
    return app_client[1]


@pytest.fixture
async def admin(app_client: tuple[FastAPI, httpx.AsyncClient], pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    """Asks as an admin."""
    _, token = await ApiKeys(pool).create("ops", Role.ADMIN)
    transport = httpx.ASGITransport(app_client[0], raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers, timeout=30) as client:
        yield client
