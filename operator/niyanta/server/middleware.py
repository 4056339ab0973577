"""Middleware around every request: limits of requests in flight, metrics, and security headers for browsers."""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from niyanta.server.limits.budgets import LIMITED, InflightBudgets, RequestBudget, attach
from niyanta.server.problems import BAD_REQUEST, NOT_FOUND, UNAVAILABLE, Problem
from niyanta.settings import Settings

SECONDS = Histogram(
    "niyanta_api_request_seconds",
    "Time from the first byte of a request to the end of its answer",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
ANSWERS = Counter("niyanta_api_answers_total", "Answers by status", ["method", "route", "status"])
IN_FLIGHT = Gauge("niyanta_api_requests_in_hand", "Requests in flight")

_METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))
_UNLIMITED = frozenset(("/healthz",))
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
]


class InflightLimiter:
    """Measures requests, refuses (503) those beyond `api_max_inflight`, and gives each of the others a budget that is
    charged to its customer (429)."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._most = settings.api_max_inflight
        self._budgets = InflightBudgets(settings)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        budget = RequestBudget(self._budgets)
        attach(scope, budget)
        self._in_flight += 1
        IN_FLIGHT.set(self._in_flight)
        try:
            if self._in_flight > self._most and scope["path"] not in _UNLIMITED:
                LIMITED.labels("requests").inc()
                problem = Problem(UNAVAILABLE, "too many requests in flight in this process", retry_after=1)
                await problem.response()(scope, receive, sending)
            elif "\0" in scope["path"] or b"%00" in scope["query_string"]:
                # Postgres refuses texts with NUL, and no name, id or cursor contains it.
                kind = NOT_FOUND if "\0" in scope["path"] else BAD_REQUEST
                problem = Problem(kind, "the path or the query contains a NUL character")
                await problem.response()(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        finally:
            budget.release()
            self._in_flight -= 1
            IN_FLIGHT.set(self._in_flight)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "none")
            SECONDS.labels(method, route).observe(time.monotonic() - started)
            ANSWERS.labels(method, route, str(status)).inc()
