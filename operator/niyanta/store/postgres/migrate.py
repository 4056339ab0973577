"""Schema migrations: plain numbered SQL files, each applied once, in one transaction, under an advisory lock.

Run by `niyanta migrate` (an init container) before anything else connects. A release expands the schema and contracts
it one release later, so a schema newer than this code works.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date
from importlib.resources import files

import psycopg

from niyanta.store.errors import StoreError, translated
from niyanta.store.postgres.indexes import SINCE_VERSION, build_indexes
from niyanta.store.postgres.partitions import ensure_partitions

_LOCK = 0x4E49_5941_4E54_4101
"""Advisory lock key: a constant that nothing else in this database uses."""
_NAME = re.compile(r"(\d{4})_\w+\.sql")
_TABLE = """CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"""


class MigrationError(StoreError):
    """The file of an applied migration was changed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of store/migrations/. `checksum` is the SHA-256 of its text."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations of this release, in order."""
    found = []
    for file in files("niyanta.store").joinpath("migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), file.name, file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def migrate(dsn: str, *, known: list[Migration] | None = None) -> list[str]:
    """Apply missing migrations to the database at `dsn`, create event partitions and build indexes; returns the
    names applied.

    Safe to repeat and to run in several processes at once. `known` defaults to `migrations()`. Raises MigrationError,
    StoreUnavailableError, StoreError (a migration failed and was rolled back).
    """
    known = migrations() if known is None else known
    applied = []
    with translated(), psycopg.connect(dsn, autocommit=True, application_name="niyanta-migrate") as connection:
        for migration in known:
            # A lock of the transaction also works through a transaction pooler and ends with this process.
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
                connection.execute(_TABLE)
                if _apply(connection, migration):
                    applied.append(migration.name)
        (today,) = connection.execute("SELECT (now() AT TIME ZONE 'UTC')::date").fetchone() or (date.min,)
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            ensure_partitions(connection, today)
        if any(migration.version >= SINCE_VERSION for migration in known):
            build_indexes(connection)
    return applied


def _apply(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> bool:
    """Apply one migration unless it was applied before; True when it is applied now."""
    row = connection.execute(
        "SELECT checksum FROM schema_migrations WHERE version = %s", [migration.version]
    ).fetchone()
    if row is not None:
        if row[0] != migration.checksum:
            raise MigrationError(f"{migration.name} was changed after it had been applied")
        return False
    connection.execute(migration.text.encode())
    connection.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
        [migration.version, migration.name, migration.checksum],
    )
    return True
