"""LISTEN: a hint that another process committed a change, so that frequent polling is not necessary.

Hints are throttled and may be lost with their connection; only `StateManager.changes_since` is reliable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import psycopg

from niyanta.store.errors import StoreError, translated

_log = logging.getLogger(__name__)

CHANNEL = "niyanta_changes"


async def listen(dsn: str, on_hint: Callable[[], None]) -> None:
    """Call `on_hint` for every notification until cancelled, and after each connect, as notifications may have been
    missed before.
    """
    while True:
        try:
            with translated():
                connection = await psycopg.AsyncConnection.connect(
                    dsn, autocommit=True, application_name="niyanta-listen", connect_timeout=3, keepalives_idle=5
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    on_hint()
                    async for _ in connection.notifies():
                        on_hint()
        except StoreError as error:
            _log.warning("LISTEN failed, no hints from Postgres: %s", error)
        await asyncio.sleep(1.0)
