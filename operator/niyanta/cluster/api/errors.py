"""Typed errors of requests to the API server, and their classification.

`client` raises them. Callers decide by `error_kind(error)` and show `error.message`, which quotes text of users (values
of a refused manifest, a webhook's answer): no decision depends on what it contains.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec

from niyanta.cluster.api.kinds import FENCE_POLICY

LONGEST_MESSAGE = 4_096
"""Characters of an API server's message that are kept; it may quote a whole field."""

FENCE_REFUSAL = f"ValidatingAdmissionPolicy '{FENCE_POLICY}' with binding '{FENCE_POLICY}' denied request: "
QUOTA_REFUSALS = ("exceeded quota: ", "status unknown for quota: ")


class ErrorKind(enum.Enum):
    """Kinds of failed requests, by the reaction that they require."""

    ALREADY_EXISTS = "AlreadyExists"
    CONFLICT = "Conflict"
    """The object has another version or UID than the request names, or the server itself met a conflict (status of a
    quota). Read again."""
    NOT_FOUND = "NotFound"
    """The object doesn't exist, or on a create its namespace doesn't (`details["kind"] == "namespaces"`)."""
    GONE = "Gone"
    """The resource version or continue token is too old: list again."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    FORBIDDEN = "Forbidden"
    """Refused by RBAC, PodSecurity, a LimitRange or another admission rule. A later attempt may succeed, an immediate
    one doesn't."""
    FENCED = "Fenced"
    """This process may no longer write."""
    FENCE_REFUSED = "FenceRefused"
    """The fence policy refused: a newer leader may exist, or the fence is damaged. Read the fence again."""
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    INVALID = "Invalid"
    TOO_MANY = "TooMany"
    """Still throttled after the client's own repetitions; the server requests a pause of `retry_after` seconds."""
    UNAVAILABLE = "Unavailable"
    """The request was not sent, or not authenticated."""
    UNKNOWN_OUTCOME = "UnknownOutcome"
    """The request may have been carried out: read before writing again."""


class ApiError(Exception):
    """A request that failed. `status` is the HTTP status, 0 without an answer; `details` is the Status' details."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.retry_after = retry_after

    @property
    def causes(self) -> list[Mapping[str, Any]]:
        """The Status' causes: mappings with `reason`, `message` and `field`."""
        causes = self.details.get("causes")
        return [cause for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []


class NotSentError(ApiError):
    """The request wasn't sent, because no connection could be made."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "NotSent", message)


class OutcomeUnknownError(ApiError):
    """The request was sent but not answered: it may have been carried out, or may be carried out later."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "OutcomeUnknown", message)


class WritesClosedError(ApiError):
    """The request wasn't sent, because this process has lost leadership."""

    def __init__(self) -> None:
        super().__init__(0, "WritesClosed", "this process does not hold leadership")


class ApiStatus(msgspec.Struct, frozen=True, gc=False):
    """`kind: Status`, as in error answers and ERROR events of a watch."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: dict[str, Any] | None = None


_status = msgspec.json.Decoder(ApiStatus)


def error_from(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The error for an HTTP response. A body that isn't a Status (from a proxy) becomes the message."""
    try:
        parsed = _status.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        parsed = ApiStatus(message=body[:500].decode(errors="replace"))
    return ApiError(
        status,
        parsed.reason,
        shown_text(parsed.message, LONGEST_MESSAGE),
        details=parsed.details,
        retry_after=_seconds(retry_after, parsed.details),
    )


def shown_text(text: str, longest: int) -> str:
    """The beginning of a text from outside, as Postgres can store it: without NUL characters."""
    return text[:longest].replace("\0", "")


def _seconds(header: str | None, details: Mapping[str, Any] | None) -> float | None:
    if header and header.strip().isdigit():
        return float(header)
    asked = (details or {}).get("retryAfterSeconds")
    return float(asked) if isinstance(asked, int | float) and asked > 0 else None


def error_kind(error: ApiError) -> ErrorKind:
    """The kind of an error. The order of checks matters: admission shares the statuses 403 and 422 with other
    refusals."""
    if isinstance(error, WritesClosedError):
        return ErrorKind.FENCED
    if isinstance(error, OutcomeUnknownError):
        return ErrorKind.UNKNOWN_OUTCOME
    if error.status in (401, 0):
        return ErrorKind.UNAVAILABLE
    if error.status in (403, 422):
        return _refused(error)
    if error.status >= 500:
        # A server that gave up waiting for etcd or a webhook may still carry the write out.
        return ErrorKind.UNKNOWN_OUTCOME
    simple = {404: ErrorKind.NOT_FOUND, 410: ErrorKind.GONE, 429: ErrorKind.TOO_MANY}
    if error.status == 409:
        return ErrorKind.ALREADY_EXISTS if error.reason == "AlreadyExists" else ErrorKind.CONFLICT
    return simple.get(error.status, ErrorKind.INVALID)


def _refused(error: ApiError) -> ErrorKind:
    """The kind of a 403 or 422. Quotas and admission policies have no reason or cause of their own; they are known by
    the beginning of the message, which the API server writes, up to the point where text from outside may follow."""
    if error.message.startswith(f"{_forbidden(error)}{FENCE_REFUSAL}"):
        return ErrorKind.FENCE_REFUSED
    if error.status == 422:
        if any(cause.get("field") == "metadata.uid" for cause in error.causes):
            return ErrorKind.CONFLICT
        return ErrorKind.INVALID
    if any(cause.get("reason") == "NamespaceTerminating" for cause in error.causes):
        return ErrorKind.NAMESPACE_TERMINATING
    if error.message.startswith(tuple(f"{_forbidden(error)}{begin}" for begin in QUOTA_REFUSALS)):
        return ErrorKind.QUOTA_EXCEEDED
    return ErrorKind.FORBIDDEN


def _forbidden(error: ApiError) -> str:
    """The beginning of the API server's message about a request that admission refused, such as
    `pods "name" is forbidden: `; a name has no quotes."""
    details = error.details
    kind, group = str(details.get("kind") or ""), str(details.get("group") or "")
    return f'{kind}{"." if group else ""}{group} "{details.get("name") or ""}" is forbidden: '
