"""Rows of earlier releases are found, and migration 0010 gives their specs the present names."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from niyanta.resources.old_form import new_spec
from niyanta.settings import Settings
from niyanta.store.errors import StoreError
from niyanta.store.postgres.migrate import migrate, migrations
from niyanta.store.postgres.old_rows import OldRow, OldRows, find_old_rows, missing_migrations, names_migrated_at
from niyanta.store.postgres.pool import open_pool
from testing.processes.postgres import Postgres
from tests.resources.old_specs import SPECS

pytestmark = pytest.mark.store

OLD = {"priority": 10, "maxRetries": 3, "affinity": {"hard": {"gpu": {"count": 1}, "workerIds": ["n1"]}}}


@pytest.fixture
def old_dsn(postgres: Postgres) -> Iterator[str]:
    """A database as the release before 0010 left it, without rows."""
    dsn = postgres.create_database("old_rows")
    migrate(dsn, known=[migration for migration in migrations() if migration.version < 10])
    yield dsn
    postgres.drop_database("old_rows")


def insert(dsn: str, spec: dict[str, Any], *, sized: bool = True) -> str:
    """A pending row with this spec; returns its id."""
    id_ = str(uuid.uuid4())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO workloads (id, door, namespace, name, customer_id, generation, spec, class_id, replicas,"
            " spec_bytes) SELECT %s, 'rest', 'team', 'job', 'acme', 1, spec, 'c', 1,"
            " CASE WHEN %s THEN octet_length(spec::text) END FROM (SELECT %s::jsonb AS spec) AS given",
            [id_, sized, Jsonb(spec)],
        )
        connection.execute(
            "INSERT INTO workload_state (id, customer_id, class_id, status, priority, tier_weight, queue_key,"
            " queued_at, created_at, door) VALUES (%s, 'acme', 'c', 'PENDING', 10, 1, 0, now(), now(), 'rest')",
            [id_],
        )
    return id_


def specs(dsn: str) -> dict[str, tuple[dict[str, Any], bool | None]]:
    """Id -> the spec, and True if its recorded size is right (None if none is recorded)."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT id::text, spec, spec_bytes = octet_length(spec::text) FROM workloads")
        return {id_: (spec, sized) for id_, spec, sized in rows.fetchall()}


def test_rows_get_the_names_that_objects_get(old_dsn: str) -> None:
    given = {insert(old_dsn, old): old for old, _, _ in SPECS}
    unsized = insert(old_dsn, OLD, sized=False)
    assert migrate(old_dsn)[0] == "0010_api_names.sql"
    found = specs(old_dsn)
    for id_, old in given.items():
        assert found[id_] == (new_spec(old), True), old
    assert found[unsized] == (
        {"priority": 10, "backoffLimit": 3, "gpu": {"count": 1}, "affinity": {"hard": {"nodeNames": ["n1"]}}},
        None,
    )
    assert find_old_rows(old_dsn, most=10) == OldRows((), 0)


def test_rows_in_the_old_form_are_listed_up_to_a_bound(old_dsn: str) -> None:
    first, *_ = [insert(old_dsn, OLD) for _ in range(3)]
    insert(old_dsn, {"backoffLimit": 3})
    assert find_old_rows(old_dsn, most=1) == OldRows((OldRow("team", "job", first, "PENDING"),), 3)


def test_a_database_without_a_schema_has_no_old_rows(postgres: Postgres) -> None:
    assert find_old_rows(postgres.dsn, most=1) == OldRows((), 0)


def test_rows_are_not_rewritten_under_a_leader_of_the_old_release(old_dsn: str) -> None:
    id_ = insert(old_dsn, OLD)
    with psycopg.connect(old_dsn, autocommit=True) as connection:
        connection.execute("UPDATE leadership SET epoch = 1, holder = 'old', expires_at = now() + interval '1 minute'")
        with pytest.raises(StoreError, match="stop it first"):
            migrate(old_dsn)
        assert specs(old_dsn)[id_] == (OLD, True)
        connection.execute("UPDATE leadership SET expires_at = '-infinity'")
    assert "0010_api_names.sql" in migrate(old_dsn)


@pytest.mark.parametrize("old", [old for old, _, paths in SPECS if paths])
def test_rows_in_the_old_form_are_refused_afterwards(dsn: str, old: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        insert(dsn, old)


async def test_an_operator_finds_the_migrations_that_are_missing(old_dsn: str) -> None:
    started = datetime.now(UTC)
    async with await open_pool(Settings(dsn=old_dsn, db_pool_min=1)) as pool:
        assert (await missing_migrations(pool))[0] == "0010_api_names.sql"
        assert await names_migrated_at(pool) is None
        migrate(old_dsn)
        assert await missing_migrations(pool) == []
        assert (await names_migrated_at(pool) or datetime.min.replace(tzinfo=UTC)) > started
