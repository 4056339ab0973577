"""Rights of the three roles: migrations own the schema, the operator writes rows, the REST door calls functions.

`niyanta migrate` grants them after the migrations, each time anew, so that later migrations are covered.
`tests/store/postgres/test_roles.py` tries every right on every table and function.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql

from niyanta.store.errors import StoreError, translated

DOOR_READS: Final = (
    *("workloads", "workload_state", "workload_events", "attempts", "queue_counters", "customers", "workers"),
    *("pools", "leader_stats", "leader_figures", "scaling_decisions", "worker_requests", "meta"),
    *("customer_counts", "queue_class_counts", "queue_class_deltas", "class_states"),
)
"""Tables whose rows the REST door shows to its users. It writes to no table."""

_OPERATOR_READS: Final = ("schema_migrations", "meta", "queue_rules")
_OPERATOR_WRITES_NOT: Final = ("schema_migrations", "meta")
"""Tables that only migrations write."""


class RoleError(StoreError):
    """A role does not exist, or owns the schema itself."""


def grant_roles(dsn: str, *, door: str = "", operator: str = "") -> None:
    """Grant the rights of these roles, and revoke every other right on the schema. Repeatable.

    `dsn` is that of the migrations' role. Raises RoleError, StoreUnavailableError, StoreError.
    """
    if not door and not operator:
        return
    with translated(), psycopg.connect(dsn, application_name="niyanta-migrate") as connection:
        for role in filter(None, (door, operator)):
            _revoke(connection, role)
        if door:
            _grant_door(connection, door)
        if operator:
            _grant_operator(connection, operator)


def _revoke(connection: psycopg.Connection[Any], role: str) -> None:
    ((owner, exists),) = connection.execute(
        "SELECT current_user, EXISTS (SELECT 1 FROM pg_roles WHERE rolname = %s)", [role]
    ).fetchall()
    if not exists:
        raise RoleError(f"there is no role {role}: create it first (docs/postgres.md)")
    if role == owner:
        raise RoleError(f"{role} runs the migrations and owns the schema; the other roles must be different ones")
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        _run(connection, f"REVOKE ALL ON ALL {kind} IN SCHEMA {{schema}} FROM {{role}}", role)
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        # Rights that an earlier release's instructions gave on all future tables.
        _run(connection, f"ALTER DEFAULT PRIVILEGES IN SCHEMA {{schema}} REVOKE ALL ON {kind} FROM {{role}}", role)
    _run(connection, "REVOKE ALL ON SCHEMA {schema} FROM {role}", role)
    _run(connection, "GRANT USAGE ON SCHEMA {schema} TO {role}", role)


def _grant_door(connection: psycopg.Connection[Any], role: str) -> None:
    for table in DOOR_READS:
        _run(connection, "GRANT SELECT ON {table} TO {role}", role, table)
    _grant_functions(connection, role, "door")


def _grant_operator(connection: psycopg.Connection[Any], role: str) -> None:
    for (table,) in connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition"
    ).fetchall():
        if table in _OPERATOR_WRITES_NOT:
            continue
        _run(connection, "GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}", role, table)
    for table in _OPERATOR_READS:
        _run(connection, "GRANT SELECT ON {table} TO {role}", role, table)
    # Maintenance deletes rows of the default partition itself.
    _run(connection, "GRANT SELECT, DELETE ON {table} TO {role}", role, "workload_events_default")
    _run(connection, "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}", role)
    # It may write the rows anyway, so the door's functions give it nothing more.
    for prefix in ("operator", "door"):
        _grant_functions(connection, role, prefix)


def _grant_functions(connection: psycopg.Connection[Any], role: str, prefix: str) -> None:
    found = connection.execute(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
        " AND starts_with(proname, %s)",
        [f"{prefix}_"],
    ).fetchall()
    for (signature,) in found:
        statement = sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(signature), sql.Identifier(role))
        connection.execute(statement)


def _run(connection: psycopg.Connection[Any], statement: str, role: str, table: str = "") -> None:
    (schema,) = connection.execute("SELECT current_schema()").fetchone() or ("public",)
    parts = {"schema": sql.Identifier(schema), "role": sql.Identifier(role), "table": sql.Identifier(table or role)}
    connection.execute(sql.SQL(statement).format(**parts))
