"""Errors as RFC 9457 problem details. `type` URIs are stable: clients may depend on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

PREFIX = "urn:niyanta:problem:"
MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 50
"""Most errors listed; the detail counts all."""
MAX_TEXT = 2000
"""Most characters of a text, which may quote what the caller sent."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A type of problem: the last part of its URI, HTTP status, title."""

    name: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        return PREFIX + self.name


BAD_REQUEST = ProblemType("bad-request", 400, "The request is malformed")
UNAUTHORIZED = ProblemType("unauthorized", 401, "No valid API key was given")
FORBIDDEN = ProblemType("forbidden", 403, "The API key may not do this")
NOT_FOUND = ProblemType("not-found", 404, "Not found")
METHOD = ProblemType("method-not-allowed", 405, "This path doesn't support the method")
TIMEOUT = ProblemType("request-timeout", 408, "The request body didn't arrive in time")
NAME_TAKEN = ProblemType("name-taken", 409, "An unfinished workload of the customer has this name")
KEY_REUSED = ProblemType("idempotency-key-reused", 409, "The Idempotency-Key belongs to another request")
WRONG_PHASE = ProblemType("wrong-phase", 409, "The workload's phase doesn't allow this")
OTHER_DOOR = ProblemType("kubernetes-door", 409, "The workload was created through Kubernetes")
CONFLICT = ProblemType("conflict", 409, "Another request changed the same object")
TOO_LARGE = ProblemType("too-large", 413, "The request is too large")
MEDIA = ProblemType("unsupported-media-type", 415, "This media type isn't supported")
INVALID = ProblemType("invalid-manifest", 422, "The manifest is invalid")
POD_SECURITY = ProblemType("pod-security", 422, "The template doesn't meet the restricted Pod Security standard")
REFERENCE = ProblemType("reference-not-allowed", 422, "The template uses something that the Customer doesn't list")
NOT_ALLOWED = ProblemType("customer-not-allowed", 422, "The Customer doesn't allow this")
QUEUE_FULL = ProblemType("queue-full", 429, "The customer's queue is full")
RATE_LIMITED = ProblemType("rate-limited", 429, "Too many submissions per second")
TOO_MANY = ProblemType("too-many-requests", 429, "Too many requests at once")
INTERNAL = ProblemType("internal", 500, "Internal error")
UNAVAILABLE = ProblemType("unavailable", 503, "The service is temporarily unavailable")
STALE_FIGURES = ProblemType("stale-figures", 503, "The pool statistics are out of date")
AT_CAPACITY = ProblemType("at-capacity", 503, "The queue of all customers together is full")

KINDS: tuple[ProblemType, ...] = tuple(value for value in list(globals().values()) if isinstance(value, ProblemType))


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 - the name that RFC 9457 gives it
    """An error response, as an exception. `retry_after` is in seconds; `errors` are {field, message}."""

    kind: ProblemType
    detail: str
    errors: Sequence[Mapping[str, str]] = ()
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The problem details object."""
        found: dict[str, Any] = {
            "type": self.kind.uri,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": _bounded(self.detail),
        }
        if self.errors:
            found["errors"] = [
                {name: _bounded(text) for name, text in error.items()} for error in self.errors[:MAX_ERRORS]
            ]
        if self.retry_after is not None:
            found["retryAfterSeconds"] = math.ceil(self.retry_after)
        return found

    def response(self) -> Response:
        """The HTTP response."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.kind is UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(orjson.dumps(self.body()), self.kind.status, headers, MEDIA_TYPE)


def _bounded(text: str) -> str:
    """At most MAX_TEXT characters of a text, without lone surrogates: JSON has none."""
    found = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
    return found if found.isascii() else found.encode(errors="replace").decode()
