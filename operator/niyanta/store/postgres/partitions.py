"""Daily partitions of workload_events: created ahead, dropped after 30 days. The leader runs this daily."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable

from niyanta.store.errors import translated
from niyanta.store.postgres.pool import LOCK_TIMEOUT_MS
from niyanta.store.postgres.queries import sql as named

KEEP_DAYS = 30
DAYS_AHEAD = 7
_PARENT = "workload_events"


def partition_name(day: date) -> str:
    """Table name of one UTC day."""
    return f"{_PARENT}_{day:%Y%m%d}"


def ensure_partitions(
    connection: psycopg.Connection[Any], today: date, *, ahead: int = DAYS_AHEAD, keep: int = KEEP_DAYS
) -> tuple[list[str], list[str]]:
    """Create the partitions of `today` (UTC) to `ahead` days later, drop those older than `keep` days.

    Returns (made, dropped) names. A day with events in the default partition gets no partition (these events are
    deleted when they are old). Waits at most 2 s for a lock; what is not done then is left to the next call.
    """
    have = {
        name
        for (name,) in connection.execute(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = %s::regclass",
            [_PARENT],
        )
    }
    made, dropped = [], []
    try:
        for offset in range(ahead + 1):
            day = today + timedelta(days=offset)
            if partition_name(day) not in have and _make(connection, day):
                made.append(partition_name(day))
        oldest = partition_name(today - timedelta(days=keep))
        for name in sorted(name for name in have if name[-8:].isdigit() and name < oldest):
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS:d}".encode())
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
            dropped.append(name)
    except LockNotAvailable:
        return made, dropped
    connection.execute(
        "DELETE FROM workload_events_default WHERE at < %s::timestamp AT TIME ZONE 'UTC'",
        [today - timedelta(days=keep)],
    )
    return made, dropped


def _make(connection: psycopg.Connection[Any], day: date) -> bool:
    """Create one day's partition; False when the default partition already has events of that day.

    Created as a table and then attached, because CREATE ... PARTITION OF blocks reads and writes of the parent.
    """
    bounds = [f"{day} 00:00:00+00", f"{day + timedelta(days=1)} 00:00:00+00"]
    taken = connection.execute(
        "SELECT 1 FROM workload_events_default WHERE at >= %s AND at < %s LIMIT 1", bounds
    ).fetchone()
    if taken:
        return False
    table, parent = sql.Identifier(partition_name(day)), sql.Identifier(_PARENT)
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS:d}".encode())
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)").format(table, parent)
        )
        connection.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                parent, table, *map(sql.Literal, bounds)
            )
        )
    return True


def maintain_partitions(dsn: str) -> tuple[list[str], list[str]]:
    """Create and drop partitions, delete old scaling decisions and unused counters. Blocking: run it in a thread.

    Returns (partitions made, partitions dropped). Raises StoreUnavailableError, StoreError.
    """
    with translated(), psycopg.connect(dsn, autocommit=True, application_name="niyanta-housekeeping") as connection:
        (today,) = connection.execute("SELECT (now() AT TIME ZONE 'UTC')::date").fetchone() or (date.min,)
        connection.execute(named("counters_prune"))
        connection.execute(named("prune_scaling_decisions"), {"days": KEEP_DAYS})
        return ensure_partitions(connection, today)
