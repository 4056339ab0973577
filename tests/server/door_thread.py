"""The REST door's application for tests that can't await."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from threading import Thread
from typing import Any

import httpx

from niyanta.server.app import create_app
from niyanta.settings import Settings
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from niyanta.store.rows import PoolRow, WorkerRow
from tests.server.conftest import ACME, OTHER


class DoorThread:
    """The application in an event loop on a thread, for tests that can't await."""

    def __init__(self, dsn: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._settings = Settings(dsn=dsn, db_pool_min=1, api_pool_max=4)
        self._life = self._live()
        self.tokens: list[str] = []
        self._client: httpx.AsyncClient = self.run(anext(self._life))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _live(self) -> AsyncIterator[httpx.AsyncClient]:
        async with await open_pool(self._settings) as pool:
            store = RestStore(pool, self._settings)
            await store.upsert_customers([ACME, OTHER])
            await store.upsert_workers([WorkerRow("w1", "p")])
            await store.upsert_pools([PoolRow("p")])
            for customer, role in (("acme", Role.CUSTOMER), ("ops", Role.ADMIN)):
                self.tokens.append((await ApiKeys(pool).create(customer, role))[1])
        app = create_app(self._settings)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://door", timeout=30) as client:
                yield client

    def send(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        found: httpx.Response = self.run(self._client.request(method, url, **kwargs))
        return found

    def close(self) -> None:
        self.run(self._life.aclose())  # type: ignore[attr-defined]
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
