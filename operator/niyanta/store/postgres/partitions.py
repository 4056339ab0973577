"""Daily partitions of workload_events: created ahead, dropped after 30 days. The leader runs this daily."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
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
                # A function of the schema's owner, since the operator's role owns no table.
                connection.execute("SELECT operator_drop_partition(%s)", [_day_of(name)])
            dropped.append(name)
    except LockNotAvailable:
        return made, dropped
    connection.execute(
        "DELETE FROM workload_events_default WHERE at < %s::timestamp AT TIME ZONE 'UTC'",
        [today - timedelta(days=keep)],
    )
    return made, dropped


def _day_of(name: str) -> date:
    return datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date()


def _make(connection: psycopg.Connection[Any], day: date) -> bool:
    """Create one day's partition; False when the default partition already has events of that day."""
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS:d}".encode())
        ((made,),) = connection.execute("SELECT operator_create_partition(%s)", [day]).fetchall()
    return bool(made)


def maintain_partitions(dsn: str) -> tuple[list[str], list[str]]:
    """Create and drop partitions, delete old scaling decisions and unused counters. Blocking: run it in a thread.

    Returns (partitions made, partitions dropped). Raises StoreUnavailableError, StoreError.
    """
    with translated(), psycopg.connect(dsn, autocommit=True, application_name="niyanta-housekeeping") as connection:
        (today,) = connection.execute("SELECT (now() AT TIME ZONE 'UTC')::date").fetchone() or (date.min,)
        connection.execute(named("counters_prune"))
        connection.execute(named("prune_scaling_decisions"), {"days": KEEP_DAYS})
        return ensure_partitions(connection, today)
