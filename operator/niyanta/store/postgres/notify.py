"""LISTEN: a hint that another process committed something, so that nobody has to poll often.

Only a hint: hints are throttled and may be lost with their connection. `StateManager.changes_since` is the truth.
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
    """Call `on_hint` for every notification until cancelled; after each new connection too, for what was missed."""
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
            _log.warning("no hints from Postgres: %s", error)
        await asyncio.sleep(1.0)
