"""A state manager that leads, on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from niyanta.settings import Settings
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.state import StateManager


@pytest.fixture
def settings(dsn: str) -> Settings:
    return Settings(dsn=dsn, identity="leader", db_pool_min=1)


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    async with await open_pool(settings) as pool:
        yield pool


@pytest.fixture
def state(pool: Pool, settings: Settings) -> StateManager:
    return StateManager(pool, settings)


@pytest.fixture
def leadership(pool: Pool) -> Leadership:
    return Leadership(pool, "leader", 60.0)


@pytest.fixture
async def epoch(leadership: Leadership) -> int:
    """The epoch of leadership, acquired for the test."""
    epoch = await leadership.try_acquire()
    assert epoch == 1
    return epoch
