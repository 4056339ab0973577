"""Errors of client commands, with their exit codes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class Exit(enum.IntEnum):
    """Exit codes; `docs/cli.md` lists them."""

    OK = 0
    FAILED = 1
    """A workload failed or was cancelled while the command waited for it."""
    USAGE = 2
    REFUSED = 3
    UNAVAILABLE = 4
    TIMEOUT = 5
    INTERRUPTED = 130


MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "Success. With `--wait`: every workload succeeded.",
    Exit.FAILED: "A workload failed or was cancelled while the command waited for it, whatever it waited for.",
    Exit.USAGE: "Invalid usage: an option, a file or the configuration.",
    Exit.REFUSED: "The server refused: invalid manifest, unknown workload or worker, no permission, over a limit.",
    Exit.UNAVAILABLE: "The server was unreachable or failed (5xx) until `retry_seconds` had passed.",
    Exit.TIMEOUT: "`--timeout` expired before the awaited state was reached; workloads and drains continue.",
    Exit.INTERRUPTED: "Interrupted by Ctrl-C; submitted workloads continue.",
}


class ClientError(Exception):
    """Ends a command with exit code `code`, a message and further lines (`notes`)."""

    code = Exit.USAGE

    def __init__(self, message: str, *notes: str) -> None:
        super().__init__(message)
        self.notes = notes


class UsageError(ClientError):
    """An option, a file or the configuration is invalid."""


class UnavailableError(ClientError):
    """The server is unreachable or gave no valid response."""

    code = Exit.UNAVAILABLE


class WaitTimeoutError(ClientError):
    """The awaited state was not reached within the timeout."""

    code = Exit.TIMEOUT


class RequestEndedError(ClientError):
    """The leader could not carry out a request about a worker, or a later request took its place."""

    code = Exit.REFUSED


class RefusedError(ClientError):
    """The server's problem details (RFC 9457). `status` is the HTTP status, `problem` the whole document."""

    code = Exit.REFUSED

    def __init__(self, status: int, problem: Mapping[str, Any], *notes: str) -> None:
        super().__init__(describe(status, problem), *field_lines(problem), *notes)
        self.status = status
        self.problem = dict(problem)


def describe(status: int, problem: Mapping[str, Any]) -> str:
    """Title and detail in one line; without the detail if `field_lines` has lines."""
    title = str(problem.get("title") or f"HTTP {status}")
    detail = "" if problem.get("errors") else str(problem.get("detail") or "")
    return f"{title}: {detail}" if detail and detail != title else title


def field_lines(problem: Mapping[str, Any]) -> list[str]:
    """One line for each invalid field."""
    found = [item for item in problem.get("errors") or () if isinstance(item, Mapping)]
    return [f"{item.get('field') or '(root)'}: {item.get('message') or ''}" for item in found]
