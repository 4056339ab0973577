"""Connections to Postgres, with timeouts that turn a dead or hung server into an error within `statement_timeout`.

Connections are in autocommit mode; transactions are explicit. Session settings (timeouts, prepared statements) are not
used behind a pooler in transaction mode (`db_transaction_pooler`): the role then has to have the settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self
from weakref import WeakKeyDictionary

import orjson
from psycopg import AsyncConnection, AsyncCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool

from niyanta.settings import Settings
from niyanta.store.errors import translated
from niyanta.store.postgres import metrics
from niyanta.store.postgres.queries import sql

_log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]
Cursor = AsyncCursor[tuple[Any, ...]]

HEALTH_CHECK_EVERY_SECONDS = 60.0
MAX_LIFETIME_SECONDS = 30 * 60.0
MAX_IDLE_SECONDS = 5 * 60.0
IDLE_IN_TRANSACTION_SECONDS = 3.0
"""Longest time that a dead client's open transaction keeps its locks, such as that on the leadership row."""
_CONNECT = {
    "application_name": "niyanta",
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "target_session_attrs": "read-write",
}
"""libpq parameters that a DSN may override. read-write selects the primary of several hosts in the DSN."""

TRUSTED_SECONDS = 2.0
"""A connection that answered this recently is not tested before use: a test would double the round trips."""


LOCK_TIMEOUT_MS = 2000
"""Longest wait for a lock by operations that can be repeated: acquiring leadership, changing partitions."""

UNDECODABLE: dict[str, Any] = {"undecodable": "the document is too deep, or has a number out of range"}
"""Takes the place of a JSON document in Postgres that can't be decoded. No valid spec looks like it."""


def _loads(text: bytes | str) -> Any:
    """A JSON document of a row. It is never an error, because that would make the reads of other rows fail too."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return dict(UNDECODABLE)


class Pool:
    """A psycopg pool with bounded waits that raises the store's errors. Made by `open_pool`."""

    def __init__(self, settings: Settings, *, standby: bool = False) -> None:
        given = conninfo_to_dict(settings.dsn)
        self._statement_timeout = settings.statement_timeout
        # A little less than the limit promised to callers; statement_timeout then ends the statement on the server.
        self._patience = settings.statement_timeout * 0.95
        self._standby = standby
        self._sessions = not settings.db_transaction_pooler
        kwargs: dict[str, Any] = {name: value for name, value in _CONNECT.items() if name not in given}
        if standby:
            # "any", to distinguish a promoted replica from one that is down.
            kwargs["target_session_attrs"] = "any"
            # The server cancels first, which distinguishes a slow statement from a dead server.
            self._statement_timeout *= 0.8
        kwargs |= {"autocommit": True, "prepare_threshold": 3 if self._sessions else None}
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            settings.dsn,
            kwargs=kwargs,
            min_size=min(settings.db_pool_min, settings.db_pool_max),
            max_size=settings.db_pool_max,
            timeout=self._patience * 0.6,
            max_lifetime=MAX_LIFETIME_SECONDS,
            max_idle=MAX_IDLE_SECONDS,
            # Short: the next caller starts a new attempt, while a long timeout would back off for minutes.
            reconnect_timeout=4.0,
            configure=self._configure,
            check=self._check,
            open=False,
            name="niyanta",
        )
        self._health: asyncio.Task[None] | None = None
        self._seen: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        self._sweep: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start connecting, without waiting for Postgres."""
        await self._pool.open(wait=False)
        self._health = asyncio.create_task(self._keep_healthy(), name="store-pool-health")
        metrics.watch(self.stats, "replica" if self._standby else "primary")

    async def close(self) -> None:
        """Close all connections; idempotent."""
        metrics.unwatch(self.stats)
        for task in (self._health, self._sweep):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._health = self._sweep = None
        await self._pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def stats(self) -> dict[str, int]:
        """psycopg's pool statistics (pool_size, pool_available, requests_waiting, ...), for metrics."""
        return dict(self._pool.get_stats())

    @asynccontextmanager
    async def connection(self, patience: float | None = None) -> AsyncIterator[Connection]:
        """A connection in autocommit mode. Getting and using it takes at most `statement_timeout`, or
        `patience` seconds.
        """
        loop = asyncio.get_running_loop()
        patience = self._patience if patience is None else min(patience, self._patience)
        deadline = loop.time() + patience
        with metrics.counted(primary=not self._standby), translated():
            async with self._pool.connection(timeout=patience * 0.6) as connection:
                with _severed_at(connection, deadline):
                    yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a READ COMMITTED transaction, committed when the block ends without an exception."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(
        self, name: str, params: Mapping[str, Any] | None = None, *, patience: float | None = None
    ) -> list[tuple[Any, ...]]:
        """All rows of one named statement, run as a separate transaction; `patience` as in `connection`."""
        async with self.connection(patience) as connection:
            return await fetch(connection, name, params)

    async def execute(self, name: str, params: Mapping[str, Any] | None = None) -> int:
        """Run one named statement; returns the number of affected rows."""
        async with self.connection() as connection:
            return (await connection.execute(sql(name), params)).rowcount

    async def _configure(self, connection: Connection) -> None:
        """Apply session settings, with which the server drops dead clients whatever the host's TCP settings are."""
        set_json_loads(_loads, connection)
        set_json_dumps(orjson.dumps, connection)
        if not self._sessions:
            return
        milliseconds = {
            "statement_timeout": self._statement_timeout * 1000,
            "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_SECONDS * 1000,
            "tcp_user_timeout": 5000,
        }
        if connection.info.server_version >= 170000:
            milliseconds["transaction_timeout"] = (self._statement_timeout + 2) * 1000
        values = {name: str(int(value)) for name, value in milliseconds.items()}
        values |= {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
        if self._standby:
            values["default_transaction_read_only"] = "on"
        values |= {"TimeZone": "UTC", "jit": "off", "random_page_cost": "1.1"}
        await connection.execute(sql("configure"), {"names": list(values), "values": list(values.values())})

    async def _check(self, connection: Connection) -> None:
        """Test a connection before use, unless it answered within TRUSTED_SECONDS."""
        now = time.monotonic()
        if now - self._seen.get(connection, 0.0) < TRUSTED_SECONDS:
            return
        try:
            with _severed_at(connection, asyncio.get_running_loop().time() + self._patience * 0.2):
                await connection.execute(b"")
            self._seen[connection] = now
        except Exception:
            # Probably a restart, so the other idle connections are dead too; psycopg would find only one per second.
            if self._sweep is None or self._sweep.done():
                self._sweep = asyncio.create_task(self._replace_broken(), name="store-pool-sweep")
            raise

    async def _replace_broken(self) -> None:
        try:
            await self._pool.check()
        except Exception:
            _log.exception("health check of the pool failed")

    async def _keep_healthy(self) -> None:
        """Replace broken idle connections each minute, before they are needed."""
        while True:
            await asyncio.sleep(HEALTH_CHECK_EVERY_SECONDS)
            await self._replace_broken()


async def fetch(connection: Connection, name: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """All rows of one named statement."""
    return await (await connection.execute(sql(name), params)).fetchall()


async def open_pool(settings: Settings, *, standby: bool = False) -> Pool:
    """Open a pool on `settings.dsn`. A server that is down is an error at the first use, not here.

    standby: the server is a replica, used only for reads.
    """
    pool = Pool(settings, standby=standby)
    await pool.open()
    return pool


@contextlib.contextmanager
def _severed_at(connection: Connection, deadline: float) -> Any:
    """Shut down the connection's socket at `deadline` (loop time), so that a hung server appears as a dead one.

    Cancelling the task would make psycopg send a cancel request to the same server and wait for its answer.
    """
    timer = asyncio.get_running_loop().call_at(deadline, _sever, connection)
    try:
        yield
    finally:
        timer.cancel()


def _sever(connection: Connection) -> None:
    """Shut down both directions of the connection's socket; libpq then reads the end of the stream and fails."""
    if connection.closed:
        return
    _log.warning("postgres didn't answer in time: connection %s is closed", connection.info.backend_pid)
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)
