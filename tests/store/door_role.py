"""A role with the rights of the REST door, for tests that run as the door does in production."""

from __future__ import annotations

from functools import cache

import psycopg

from niyanta.store.postgres.roles import grant_roles

_DOOR = "tested_door"


@cache
def door_dsn(dsn: str) -> str:
    """The DSN of the role, in the same database; the role is made and given its rights once."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [_DOOR]).fetchone():
            connection.execute(f"CREATE ROLE {_DOOR} LOGIN".encode())
    grant_roles(dsn, door=_DOOR)
    return dsn.replace("postgres@", f"{_DOOR}@")
