"""Postgres down, hung or back: an error within five seconds, and the pool recovers without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from niyanta.lifecycle import Event
from niyanta.settings import Settings
from niyanta.store.errors import StoreError, StoreUnavailableError, translated
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.migrate import migrate
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.state import StateManager
from testing.processes.postgres import Postgres
from tests.store.make import change, intake

pytestmark = [pytest.mark.store, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def mortal() -> Iterator[Postgres]:
    """A separate server that tests kill; durable, so that it restarts with all commits."""
    with Postgres.create(durable=True) as server:
        migrate(server.dsn)
        yield server


@pytest.fixture
async def mortal_pool(mortal: Postgres) -> AsyncIterator[Pool]:
    async with await open_pool(Settings(dsn=mortal.dsn, db_pool_min=4)) as pool:
        yield pool


async def _until_back(state: StateManager, within: float) -> None:
    deadline = time.monotonic() + within
    while True:
        try:
            await state.clock()
            return
        except StoreUnavailableError:
            assert time.monotonic() < deadline, f"not back within {within} s"


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_dead_server_is_an_error_in_time_and_the_pool_recovers(
    mortal: Postgres, mortal_pool: Pool, how: str
) -> None:
    state = StateManager(mortal_pool, Settings(dsn=mortal.dsn))
    (row,) = await state.take_in([intake()], epoch=None)
    await asyncio.gather(*(state.clock() for _ in range(8)))
    await asyncio.to_thread(getattr(mortal, how))

    started = time.monotonic()
    calls = [
        state.clock(),
        state.take_in([intake()], epoch=None),
        state.update_workload_status_batch([change(row, Event.PLACE)], epoch=None),
        Leadership(mortal_pool, "a", 4.0).try_acquire(),
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < 5.0
    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 4

    await asyncio.to_thread(mortal.start)
    await _until_back(state, within=6.0)
    assert await state.get_workloads([row.id]) == [row], "what was committed is still there"


async def test_a_hung_server_is_an_error_in_time_and_the_pool_recovers(mortal: Postgres, mortal_pool: Pool) -> None:
    settings = Settings(dsn=mortal.dsn, statement_timeout=2.0, db_pool_min=1)
    async with await open_pool(settings) as pool:
        state = StateManager(pool, settings)
        await state.clock()
        mortal.pause()
        try:
            for _ in range(2):
                started = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    await state.clock()
                assert time.monotonic() - started < 2.5
        finally:
            mortal.resume()
        await _until_back(state, within=6.0)


async def test_a_server_that_hangs_in_mid_transaction_is_an_error_in_time(mortal: Postgres) -> None:
    settings = Settings(dsn=mortal.dsn, statement_timeout=1.0, db_pool_min=1)
    async with await open_pool(settings) as pool:
        state = StateManager(pool, settings)
        await state.clock()
        started = time.monotonic()
        try:
            with pytest.raises(StoreUnavailableError):
                await _hang_in_the_middle(pool, mortal)
        finally:
            mortal.resume()
        assert time.monotonic() - started < 1.5
        await _until_back(state, within=6.0)


async def _hang_in_the_middle(pool: Pool, server: Postgres) -> None:
    async with pool.transaction() as connection:
        await connection.execute("SELECT 1")
        server.pause()
        await connection.execute("SELECT 2")


async def test_a_slow_statement_is_an_error_in_time(pool: Pool) -> None:
    started = time.monotonic()
    async with pool.connection() as connection:
        await connection.execute("SET statement_timeout = 300")
        with pytest.raises(StoreUnavailableError), translated():
            await connection.execute("SELECT pg_sleep(3)")
    assert time.monotonic() - started < 1.0


async def test_a_pool_that_is_used_up_is_an_error_in_time(dsn: str) -> None:
    settings = Settings(dsn=dsn, db_pool_min=1, db_pool_max=2, statement_timeout=1.0)
    async with await open_pool(settings) as pool, pool.connection(), pool.connection():
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            await pool.fetch("clock")
        assert time.monotonic() - started < 1.0


async def test_connections_that_the_server_cut_are_not_handed_out(
    pool: Pool, state: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "niyanta.store.postgres.pool.TRUSTED_SECONDS", 0.0
    )  # so that recently used connections are tested too
    await asyncio.gather(*(state.clock() for _ in range(6)))
    async with pool.connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    for _ in range(10):
        await state.clock()


async def test_a_wrong_statement_is_not_taken_for_an_outage(pool: Pool) -> None:
    with pytest.raises(StoreError, match="nowhere") as caught:
        async with pool.connection() as connection:
            await connection.execute("SELECT * FROM nowhere")
    assert not isinstance(caught.value, StoreUnavailableError)
