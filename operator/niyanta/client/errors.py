"""What can go wrong, each with the exit code that scripts see."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class Exit(enum.IntEnum):
    """Exit codes; `docs/cli.md` lists them."""

    OK = 0
    FAILED = 1
    """A workload that was waited for failed or was cancelled."""
    USAGE = 2
    REFUSED = 3
    UNAVAILABLE = 4
    TIMEOUT = 5
    INTERRUPTED = 130


MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "Done. With `--wait`: every workload succeeded.",
    Exit.FAILED: "A workload that was waited for failed or was cancelled.",
    Exit.USAGE: "Wrong usage: an option, a file or the configuration.",
    Exit.REFUSED: "The server refused: wrong manifest, unknown workload, no permission, over a limit (4xx).",
    Exit.UNAVAILABLE: "No usable answer from the server (connection, 5xx) until the time for retries was up.",
    Exit.TIMEOUT: "`--timeout` was over before the workloads had finished; they go on.",
    Exit.INTERRUPTED: "Interrupted by Ctrl-C; what was submitted goes on.",
}


class ClientError(Exception):
    """Ends a command: `code` is its exit code, the message is for people, `notes` are further lines."""

    code = Exit.USAGE

    def __init__(self, message: str, *notes: str) -> None:
        super().__init__(message)
        self.notes = notes


class UsageError(ClientError):
    """An option, a file or the configuration is wrong."""


class UnavailableError(ClientError):
    """No usable answer."""

    code = Exit.UNAVAILABLE


class WaitTimeoutError(ClientError):
    """Not finished in time."""

    code = Exit.TIMEOUT


class RefusedError(ClientError):
    """The server's problem details (RFC 9457). `status` is the HTTP status, `problem` the whole document."""

    code = Exit.REFUSED

    def __init__(self, status: int, problem: Mapping[str, Any], *notes: str) -> None:
        super().__init__(describe(status, problem), *field_lines(problem), *notes)
        self.status = status
        self.problem = dict(problem)


def describe(status: int, problem: Mapping[str, Any]) -> str:
    """One line: title and detail; the detail is left to the fields' lines where there are some."""
    title = str(problem.get("title") or f"HTTP {status}")
    detail = "" if problem.get("errors") else str(problem.get("detail") or "")
    return f"{title}: {detail}" if detail and detail != title else title


def field_lines(problem: Mapping[str, Any]) -> list[str]:
    """One line for each field that is complained about."""
    found = [item for item in problem.get("errors") or () if isinstance(item, Mapping)]
    return [f"{item.get('field') or '(root)'}: {item.get('message') or ''}" for item in found]
