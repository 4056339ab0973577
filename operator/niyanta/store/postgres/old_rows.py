"""Rows and schemas of earlier releases: `niyanta migrate --check` lists the rows, and an operator asks at its start for
migrations that are missing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import psycopg

from niyanta.store.errors import translated
from niyanta.store.postgres.migrate import migrations
from niyanta.store.postgres.pool import Pool
from niyanta.store.postgres.queries import sql


@dataclass(frozen=True, slots=True)
class OldRow:
    """A workload whose stored spec has names of an earlier release. `phase` is as in `lifecycle.Phase`, in capitals."""

    namespace: str
    name: str
    id: str
    phase: str


@dataclass(frozen=True, slots=True)
class OldRows:
    """The oldest of these rows, and the number of all."""

    first: tuple[OldRow, ...]
    total: int


def find_old_rows(dsn: str, *, most: int) -> OldRows:
    """Up to `most` rows in the old form; a database without a schema has none. Reads every spec, which takes some
    seconds for a million rows. Raises StoreUnavailableError, StoreError."""
    with translated(), psycopg.connect(dsn, autocommit=True, application_name="niyanta-migrate") as connection:
        (exists,) = connection.execute("SELECT to_regclass('workload_state') IS NOT NULL").fetchone() or (False,)
        if not exists:
            return OldRows((), 0)
        found = connection.execute(sql("old_rows"), {"most": most}).fetchall()
    rows = tuple(OldRow(*record[:4]) for record in found)
    return OldRows(rows, int(found[0][4]) if found else 0)


async def missing_migrations(pool: Pool) -> list[str]:
    """Names of this release's migrations that the database lacks. Raises StoreUnavailableError, StoreError."""
    applied = {version for (version,) in await pool.fetch("applied_migrations")}
    return [migration.name for migration in migrations() if migration.version not in applied]


async def names_migrated_at(pool: Pool) -> datetime | None:
    """When migration 0010 gave this database the present names; None if it didn't yet. Raises StoreUnavailableError,
    StoreError."""
    found = await pool.fetch("names_migrated_at")
    return found[0][0] if found else None
