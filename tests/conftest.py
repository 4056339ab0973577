"""Postgres for the tests: one server per run, started when first asked for; a fresh migrated database per test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from e2e.harness.postgres import Postgres
from niyanta.store.migrate import migrate

_TEMPLATE = "niyanta_template"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server that tests share; its database `niyanta_template` has the schema and no rows."""
    with Postgres.create() as server:
        migrate(server.create_database(_TEMPLATE))
        yield server


@pytest.fixture
def dsn(postgres: Postgres) -> Iterator[str]:
    """A database of this test's own, migrated and empty."""
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name, template=_TEMPLATE)
    postgres.drop_database(name)
