"""Postgres for the tests: one server per run, started at its first use; an empty migrated database per test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from niyanta.store.postgres.migrate import migrate
from testing.processes.postgres import Postgres

_TEMPLATE = "niyanta_template"
_numbers = itertools.count()

_EMPTY = """
DELETE FROM workload_events; DELETE FROM attempts; DELETE FROM workloads; DELETE FROM queue_counters;
DELETE FROM customers; DELETE FROM workers; DELETE FROM pools; DELETE FROM worker_requests; DELETE FROM rest_names;
DELETE FROM scaling_decisions; DELETE FROM worker_drains; DELETE FROM idempotency; DELETE FROM api_keys;
DELETE FROM rate_windows;
DELETE FROM queue_class_deltas; DELETE FROM queue_class_counts; DELETE FROM customer_counts; DELETE FROM class_states;
DELETE FROM queue_classes; DELETE FROM visible_label_keys;
UPDATE leader_stats SET stats = '{}', updated_at = '-infinity';
UPDATE leader_figures SET figures = '{}', updated_at = '-infinity';
UPDATE leadership SET epoch = 0, holder = '', expires_at = '-infinity';
"""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server that tests share; its database `niyanta_template` has the schema and no rows."""
    with Postgres.create() as server:
        migrate(server.create_database(_TEMPLATE))
        yield server


@pytest.fixture
def fresh_dsn(postgres: Postgres) -> Iterator[str]:
    """The DSN of a new, migrated, empty database (takes 0.3 s), for tests that change more than rows."""
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name, template=_TEMPLATE)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def _shared_dsn(postgres: Postgres) -> str:
    return postgres.create_database("test_shared", template=_TEMPLATE)


@pytest.fixture
def dsn(_shared_dsn: str) -> str:
    """The DSN of a migrated database without rows, which tests use one after the other."""
    with psycopg.connect(_shared_dsn, autocommit=True) as connection:
        connection.execute(_EMPTY)
    return _shared_dsn
