"""The REST door in the test's process, on its own database, with two Customers and API keys."""

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
from tests.store.roles import door_dsn

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
async def store(pool: Pool, settings: Settings) -> RestStore:
    """The store, with both Customers in it."""
    store = RestStore(pool, settings)
    await store.upsert_customers([ACME, OTHER])
    return store


@asynccontextmanager
async def door(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The application of an API process, which runs as the door's role, and a client without a key."""
    app = create_app(settings.model_copy(update={"dsn": door_dsn(settings.dsn)}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://door", timeout=30) as client:
            yield app, client


@pytest.fixture
async def app_client(settings: Settings, store: RestStore) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    async with door(settings) as found:
        yield found


@pytest.fixture
def dependencies(app_client: tuple[FastAPI, httpx.AsyncClient]) -> Dependencies:
    found: Dependencies = app_client[0].state.dependencies
    return found


@pytest.fixture
async def key(pool: Pool) -> str:
    """A token of customer acme."""
    return (await ApiKeys(pool).create("acme", Role.CUSTOMER))[1]


@pytest.fixture
async def client(app_client: tuple[FastAPI, httpx.AsyncClient], key: str) -> httpx.AsyncClient:
    """A client with a key of customer acme."""
    app_client[1].headers["Authorization"] = f"Bearer {key}"
    return app_client[1]


@pytest.fixture
async def admin(app_client: tuple[FastAPI, httpx.AsyncClient], pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an admin key."""
    _, token = await ApiKeys(pool).create("ops", Role.ADMIN)
    transport = httpx.ASGITransport(app_client[0], raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers, timeout=30) as client:
        yield client
