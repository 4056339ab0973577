"""The bearer token that /metrics may require, from a file."""

from __future__ import annotations

import hmac
import time
from pathlib import Path

TOKEN_READ_SECONDS = 10.0
"""Time after which the file with the token is read again, because it may be rotated."""


class MetricsToken:
    """The token in a file; without a path, no token is required. A file that can't be read refuses everybody."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._token = b""
        self._read_at = float("-inf")

    def problem(self, authorization: str) -> str:
        """The reason for refusing a request with this Authorization header; "" if it may be answered."""
        if not self._path:
            return ""
        now = time.monotonic()
        if now - self._read_at > TOKEN_READ_SECONDS:
            self._token = self._read()
            self._read_at = now
        if not self._token:
            return "the token of /metrics can't be read"
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token):
            return "send the header Authorization: Bearer with the token of /metrics"
        return ""

    def _read(self) -> bytes:
        try:
            return Path(self._path).read_bytes().strip()
        except OSError:
            return b""
