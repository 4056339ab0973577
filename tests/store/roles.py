"""Roles with the rights of the processes, for tests that run as the processes do in production."""

from __future__ import annotations

from functools import cache

import psycopg

from niyanta.store.postgres.roles import grant_roles

_DOOR, _OPERATOR = "tested_door", "tested_operator"


@cache
def _with_roles(dsn: str) -> str:
    """The DSN, after both roles have been made and given their rights in this database; once for each database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for role in (_DOOR, _OPERATOR):
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    grant_roles(dsn, door=_DOOR, operator=_OPERATOR)
    return dsn


def door_dsn(dsn: str) -> str:
    """The DSN of the REST door's role in the same database."""
    return _with_roles(dsn).replace("postgres@", f"{_DOOR}@")


def operator_dsn(dsn: str) -> str:
    """The DSN of the operator's role in the same database."""
    return _with_roles(dsn).replace("postgres@", f"{_OPERATOR}@")
