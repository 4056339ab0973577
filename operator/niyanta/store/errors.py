"""Exceptions of the store, to which driver errors are translated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg

from niyanta.containment import SharedFaultError


class StoreError(Exception):
    """An unexpected error: a bug, or a schema of another release. Retrying does not help."""


class StoreUnavailableError(StoreError, SharedFaultError):
    """Postgres doesn't answer now (down, starting, full, too slow). A commit may have taken place: repeat the call."""


class StaleEpochError(StoreError, SharedFaultError):
    """Another process leads, or the lease ran out: this process may not write any more."""


class ConflictError(StoreError, SharedFaultError):
    """Lost a race against a concurrent transaction; nothing was written and the call may be repeated."""


class RowEncodingError(StoreError):
    """A value can't be written as JSON: an integer over 64 bits, too many levels, or text that is no Unicode."""


# The last three are not OperationalError in psycopg, although the cause is the server's state.
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
    """True when the server cancelled a statement that took too long. The server is up; a retry would be slow too."""
    return isinstance(error.__cause__, pg.QueryCanceled)
