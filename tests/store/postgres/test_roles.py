"""Every right of every role on every table, sequence and function, read from the catalog: new ones are covered."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from niyanta.cli import main
from niyanta.store.postgres.migrate import Migration, migrate, migrations
from niyanta.store.postgres.partitions import ensure_partitions, maintain_partitions
from niyanta.store.postgres.roles import DOOR_READS, RoleError, grant_roles
from testing.processes.postgres import Postgres

pytestmark = pytest.mark.store

_VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
_ROLES = {"door": "matrix_door", "operator": "matrix_operator"}
_LATER = Migration(
    9000,
    "9000_later.sql",
    "CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY);"
    " CREATE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION later() FROM PUBLIC;",
)


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[str]:
    """A database that a role of its own migrates, before and after the grants."""
    name = "roles"
    admin = postgres.create_database(name)
    with psycopg.connect(admin, autocommit=True) as connection:
        for role in ("matrix_owner", *_ROLES.values()):
            connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute("ALTER DATABASE roles OWNER TO matrix_owner")
    owner = admin.replace("postgres@", "matrix_owner@")
    migrate(owner)
    with psycopg.connect(owner, autocommit=True) as connection:
        # As the instructions of earlier releases said.
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO matrix_door")
        connection.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT INSERT ON TABLES TO matrix_door")
    grant_roles(owner, **_ROLES)
    migrate(owner, known=[*migrations(), _LATER])
    grant_roles(owner, **_ROLES)
    yield owner
    postgres.drop_database(name)
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        for role in ("matrix_owner", *_ROLES.values()):
            connection.execute(f"DROP ROLE {role}")


def _rows(dsn: str, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement, params).fetchall()


def _table_rights(dsn: str, role: str) -> dict[str, set[str]]:
    rows = _rows(
        dsn,
        "SELECT c.relname, v.verb FROM pg_class c CROSS JOIN unnest(%s::text[]) AS v (verb)"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
        "   AND has_table_privilege(%s, c.oid, v.verb)",
        list(_VERBS),
        role,
    )
    rights: dict[str, set[str]] = {}
    for table, verb in rows:
        rights.setdefault(table, set()).add(verb)
    return rights


def _functions(dsn: str, role: str) -> set[str]:
    rows = _rows(
        dsn,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " AND has_function_privilege(%s, oid, 'EXECUTE')",
        role,
    )
    return {name for (name,) in rows}


def test_the_door_reads_what_it_serves_and_writes_to_no_table(database: str) -> None:
    assert _table_rights(database, "matrix_door") == {table: {"SELECT"} for table in DOOR_READS}
    columns = _rows(
        database,
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND has_any_column_privilege('matrix_door', c.oid, 'INSERT, UPDATE, REFERENCES')",
    )
    assert columns == []
    sequences = _rows(
        database,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND CASE WHEN relkind = 'S' THEN has_sequence_privilege('matrix_door', oid, 'USAGE, SELECT, UPDATE') END",
    )
    assert sequences == []
    for table in ("leadership", "api_keys", "idempotency", "rest_names", "worker_drains", "schema_migrations"):
        assert table not in DOOR_READS
    assert "class_states" in DOOR_READS
    assert "queue_classes" not in DOOR_READS, "the door compiles no class"


def test_each_role_calls_only_its_functions(database: str) -> None:
    everything = {
        name for (name,) in _rows(database, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    }
    assert _functions(database, "matrix_door") == {name for name in everything if name.startswith("door_")}
    assert _functions(database, "matrix_operator") == {
        name for name in everything if name.startswith(("operator_", "door_"))
    }


def test_the_operator_writes_rows_and_owns_nothing(database: str) -> None:
    tables = {
        name
        for (name,) in _rows(
            database,
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition",
        )
    }
    rows = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    expected = dict.fromkeys(tables, rows) | {table: {"SELECT"} for table in ("schema_migrations", "meta")}
    expected["workload_events_default"] = {"SELECT", "DELETE"}
    assert _table_rights(database, "matrix_operator") == expected


@pytest.mark.parametrize("role", list(_ROLES.values()))
def test_no_role_makes_objects_or_becomes_another(database: str, role: str) -> None:
    statement = "SELECT has_schema_privilege(%s, 'public', 'CREATE'), pg_has_role(%s, 'matrix_owner', 'MEMBER')"
    ((creates, member),) = _rows(database, statement, role, role)
    assert (creates, member) == (False, False)


def test_functions_have_a_fixed_path_and_run_as_their_owner(database: str) -> None:
    rows = _rows(
        database,
        "SELECT proname, prosecdef, proconfig, pg_get_userbyid(proowner) FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace AND proname ~ '^(door|operator)_'",
    )
    assert len(rows) > 10
    for name, definer, config, owner in rows:
        assert (definer, config, owner) == (True, ["search_path=pg_catalog, public, pg_temp"], "matrix_owner"), name


def test_the_operator_keeps_the_partitions(database: str) -> None:
    operator = database.replace("matrix_owner@", "matrix_operator@")
    maintain_partitions(operator)
    day = date(2020, 1, 1)
    with psycopg.connect(operator, autocommit=True) as connection:
        made, _ = ensure_partitions(connection, day, ahead=0)
        assert len(made) == 1
        _, dropped = ensure_partitions(connection, day + timedelta(days=31), ahead=0)
        assert dropped == made
        with pytest.raises(psycopg.DatabaseError, match="too young"):
            connection.execute("SELECT operator_drop_partition((now() AT TIME ZONE 'UTC')::date)")


def test_a_role_that_does_not_exist_or_owns_the_schema_is_an_error(database: str) -> None:
    with pytest.raises(RoleError, match="no role nobody"):
        grant_roles(database, door="nobody")
    with pytest.raises(RoleError, match="owns the schema"):
        grant_roles(database, operator="matrix_owner")


def test_the_command_migrates_with_its_own_connection_and_grants(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIYANTA_DSN", "postgresql://nowhere.invalid/none")
    monkeypatch.setenv("NIYANTA_MIGRATE_DSN", database)
    monkeypatch.setenv("NIYANTA_OPERATOR_ROLE", "matrix_operator")
    done = CliRunner().invoke(main.app, ["migrate", "--door-role", "matrix_door"])
    assert done.exit_code == 0, done.output
    assert "granted: rights of the door to matrix_door" in done.output
    assert "granted: rights of the operator to matrix_operator" in done.output
    refused = CliRunner().invoke(main.app, ["migrate", "--door-role", "nobody"])
    assert refused.exit_code == 2


def test_the_rest_door_connects_with_its_own_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIYANTA_DSN", "postgresql://operator@db/niyanta")
    assert main._door_settings().dsn == "postgresql://operator@db/niyanta"
    monkeypatch.setenv("NIYANTA_API_DSN", "postgresql://door@db/niyanta")
    assert main._door_settings().dsn == "postgresql://door@db/niyanta"
