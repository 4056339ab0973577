"""What the store raises: driver errors never leave this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg


class StoreError(Exception):
    """Something the store didn't expect: a bug, or a schema that doesn't fit. Retrying won't help."""


class StoreUnavailableError(StoreError):
    """Postgres can't answer now (gone, starting, full, too slow). Whether a commit took place is unknown: ask again."""


class StaleEpochError(StoreError):
    """Another process leads, or the lease ran out: nothing of this process may be written any more."""


class ConflictError(StoreError):
    """Lost a race against a concurrent transaction; nothing was written and the call may be repeated."""


# Not OperationalError in psycopg's hierarchy, although only the server's state is to blame.
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg.IdleInTransactionSessionTimeout,
    pg.TransactionTimeout,
    pg.ReadOnlySqlTransaction,
)
_CONFLICT = (pg.SerializationFailure, pg.DeadlockDetected, pg.UniqueViolation)


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into this module's."""
    try:
        yield
    except _CONFLICT as error:
        raise ConflictError(str(error)) from error
    except _UNAVAILABLE as error:
        raise StoreUnavailableError(str(error).strip() or type(error).__name__) from error
    except psycopg.Error as error:
        raise StoreError(f"{type(error).__name__}: {error}") from error


def too_slow(error: StoreError) -> bool:
    """Whether the server gave up on a statement that took too long (and so is there, and would be slow again)."""
    return isinstance(error.__cause__, pg.QueryCanceled)
