"""Migrations are applied once, by the first process, and changed files are rejected."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from niyanta.store.errors import StoreError, StoreUnavailableError
from niyanta.store.postgres.migrate import Migration, MigrationError, migrate, migrations
from niyanta.store.postgres.partitions import ensure_partitions, maintain_partitions, partition_name
from testing.processes.postgres import Postgres

pytestmark = pytest.mark.store


@pytest.fixture
def empty_dsn(postgres: Postgres) -> Iterator[str]:
    yield postgres.create_database("empty")
    postgres.drop_database("empty")


def _partitions(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid"
            " WHERE inhparent = 'workload_events'::regclass"
        )
        return {name for (name,) in rows}


def test_several_processes_at_once_apply_each_migration_once(empty_dsn: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        applied = list(threads.map(migrate, [empty_dsn] * 6))
    assert sorted(name for names in applied for name in names) == [migration.name for migration in migrations()]
    assert migrate(empty_dsn) == []
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM meta").fetchone() == (1,)
        assert connection.execute("SELECT epoch, holder FROM leadership").fetchall() == [(0, "")]


def test_a_migration_that_was_changed_after_it_was_applied_is_refused(dsn: str) -> None:
    first, *rest = migrations()
    changed = Migration(first.version, first.name, first.text + "\n-- better")
    with pytest.raises(MigrationError, match=first.name):
        migrate(dsn, known=[changed, *rest])


def test_a_migration_that_fails_leaves_nothing_behind(empty_dsn: str) -> None:
    bad = Migration(9000, "9000_bad.sql", "CREATE TABLE half (a int); SELECT 1 / 0;")
    with pytest.raises(StoreError, match="division"):
        migrate(empty_dsn, known=[bad])
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT to_regclass('half')").fetchone() == (None,)
    good = Migration(9000, "9000_bad.sql", "CREATE TABLE half (a int);")
    assert migrate(empty_dsn, known=[*migrations(), good])[-1] == good.name


def test_a_schema_newer_than_this_release_is_accepted(empty_dsn: str) -> None:
    later = Migration(9000, "9000_later.sql", "ALTER TABLE workloads ADD COLUMN hint text;")
    migrate(empty_dsn, known=[*migrations(), later])
    assert migrate(empty_dsn) == []


def test_without_a_server_the_error_names_the_cause() -> None:
    with pytest.raises(StoreUnavailableError):
        migrate("postgresql://postgres@127.0.0.1:1/x?connect_timeout=2")


def test_events_have_partitions_a_week_ahead(fresh_dsn: str) -> None:
    migrated = _day_of_migration(fresh_dsn)
    days = {partition_name(migrated + timedelta(days=offset)) for offset in range(8)}
    assert _partitions(fresh_dsn) == days | {"workload_events_default"}
    maintain_partitions(fresh_dsn)
    assert partition_name(datetime.now(UTC).date() + timedelta(days=7)) in _partitions(fresh_dsn)
    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        assert ensure_partitions(connection, migrated) == ([], [])


def _day_of_migration(dsn: str) -> date:
    """The day of the oldest partition: today, or yesterday if the run began before midnight."""
    oldest = min(_partitions(dsn) - {"workload_events_default"})
    day = datetime.strptime(oldest.removeprefix("workload_events_"), "%Y%m%d").replace(tzinfo=UTC)
    assert datetime.now(UTC) - day < timedelta(days=2)
    return day.date()


def test_events_older_than_thirty_days_are_dropped(fresh_dsn: str) -> None:
    start = date(2020, 1, 1)
    insert = "INSERT INTO workload_events (workload_id, at, event, to_phase) VALUES (gen_random_uuid(), %s, 'x', 'y')"
    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        made, _ = ensure_partitions(connection, start, ahead=3)
        assert len(made) == 4
        for day in (start, start + timedelta(days=1), start - timedelta(days=1)):
            connection.execute(insert, [datetime(day.year, day.month, day.day, 23, 59, tzinfo=UTC)])
        _, dropped = ensure_partitions(connection, start + timedelta(days=31), ahead=0)
        assert dropped == [partition_name(start)]
        left = connection.execute("SELECT at::date, tableoid::regclass::text FROM workload_events").fetchall()
        assert left == [(start + timedelta(days=1), partition_name(start + timedelta(days=1)))]


def test_a_day_whose_events_came_before_its_partition_is_left_alone(fresh_dsn: str) -> None:
    day = date(2019, 5, 5)
    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO workload_events (workload_id, at, event, to_phase)"
            " VALUES (gen_random_uuid(), '2019-05-05 12:00+00', 'x', 'y')"
        )
        made, _ = ensure_partitions(connection, day, ahead=1)
        assert made == [partition_name(day + timedelta(days=1))]
        assert connection.execute("SELECT count(*) FROM workload_events").fetchone() == (1,)


def test_maintenance_gives_up_when_a_lock_is_held(fresh_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    today = _day_of_migration(fresh_dsn)
    with psycopg.connect(fresh_dsn) as reader, psycopg.connect(fresh_dsn, autocommit=True) as keeper:
        keeper.execute(
            "CREATE TABLE workload_events_20200101 PARTITION OF workload_events"
            " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')"
        )
        reader.execute("SELECT count(*) FROM workload_events")
        monkeypatch.setattr("niyanta.store.postgres.partitions.LOCK_TIMEOUT_MS", 200)
        assert ensure_partitions(keeper, today) == ([], [])
        reader.rollback()
        assert ensure_partitions(keeper, today) == ([], ["workload_events_20200101"])
