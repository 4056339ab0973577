"""Stores the WAL position of the last change, so that later commands read at least that change.

If Postgres has read replicas, `niyanta submit x && niyanta list` must show x, whichever API process answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from niyanta.lsn import parse

KEPT_SECONDS = 600.0
"""Longer than the lag of any replica that serves reads."""


def state_folder(environ: Mapping[str, str]) -> Path:
    """Folder niyanta/ in XDG_STATE_HOME (default ~/.local/state)."""
    base = environ.get("XDG_STATE_HOME", "")
    # The XDG specification says to ignore relative paths.
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "niyanta"


class ReadPosition:
    """The last position of one server. Errors of reading and writing its file are ignored."""

    def __init__(self, url: str, environ: Mapping[str, str] | None = None) -> None:
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        self._path: Path | None = None
        with contextlib.suppress(RuntimeError):  # a user without a home directory
            self._path = state_folder(os.environ if environ is None else environ) / f"position-{digest}"
        self._position = self._read()

    @property
    def position(self) -> str:
        """Position to send with reads; empty when there is none."""
        return self._position

    def note(self, position: str) -> None:
        """Store the position that a response carried."""
        with contextlib.suppress(ValueError):
            # A lower position is valid too: the database may have been restored or replaced.
            parse(position)
            self._position = position
            self._write(position)

    def _read(self) -> str:
        if self._path is None:
            return ""
        with contextlib.suppress(OSError, ValueError):
            age = datetime.now(UTC).timestamp() - self._path.stat().st_mtime
            text = self._path.read_text(encoding="ascii").strip()
            parse(text)
            return text if age < KEPT_SECONDS else ""
        return ""

    def _write(self, position: str) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = self._path.with_suffix(f".{os.getpid()}")
            partial.write_text(position, encoding="ascii")
            partial.replace(self._path)
