"""Indexes that are built while writers go on: CREATE INDEX CONCURRENTLY, which no transaction can contain.

`migrate` builds the missing ones after the migrations. A build that was interrupted leaves an invalid index behind; the
next run drops it and builds it again.
"""

from __future__ import annotations

import time
from typing import Any, Final

import psycopg
from psycopg import sql

_LOCK = 0x4E49_5941_4E54_4102
_POLL_SECONDS = 0.5

SINCE_VERSION: Final = 14
"""Migration that the indexes need."""

INDEXES: Final = {
    "workload_state_class_key": "(customer_id, queue_class, queue_key DESC, queued_at, id)"
    " WHERE status = 'PENDING' AND door = 'rest'",
    "workload_state_class_oldest": "(customer_id, queue_class, door, queued_at, id) WHERE status = 'PENDING'",
    "workload_state_class_priority": "(customer_id, queue_class, priority DESC, queued_at)"
    " WHERE status = 'PENDING' AND door = 'rest'",
    "workload_state_unclassed": "(id) WHERE status = 'PENDING' AND queue_class IS NULL",
}
"""Index of workload_state -> its columns and condition."""


def build_indexes(connection: psycopg.Connection[Any]) -> list[str]:
    """Build the missing indexes; returns their names. The connection must be in autocommit mode, and not through a
    transaction pooler. Repeatable, also by several processes at once."""
    connection.execute("SET statement_timeout = 0")
    connection.execute("SET lock_timeout = 0")
    # Polled: a session that waits for the lock in a statement has a snapshot, for whose end the build would wait.
    while not _one(connection, "SELECT pg_try_advisory_lock(%s)", [_LOCK]):
        time.sleep(_POLL_SECONDS)
    try:
        return [name for name, columns in INDEXES.items() if _build(connection, name, columns)]
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _build(connection: psycopg.Connection[Any], name: str, columns: str) -> bool:
    is_valid = _one(connection, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [name])
    if is_valid:
        return False
    index = sql.Identifier(name)
    if is_valid is not None:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(index))
    connection.execute(sql.SQL("CREATE INDEX CONCURRENTLY {} ON workload_state {}").format(index, sql.SQL(columns)))
    return True


def _one(connection: psycopg.Connection[Any], statement: str, params: list[Any]) -> Any:
    row = connection.execute(statement.encode(), params).fetchone()
    return row[0] if row else None
