"""Requests to the REST door, with retries while it is unreachable, for at most `retry_seconds`.

Every request here may safely be sent twice: reads, idempotent changes, and submissions with an Idempotency-Key.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from niyanta import __version__
from niyanta.client.config import Config
from niyanta.client.errors import RefusedError, UnavailableError, UsageError
from niyanta.client.read_position import ReadPosition
from niyanta.client.tables import items_of
from niyanta.lsn import HEADER

Params = Mapping[str, str | int | list[str]]

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 5.0
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
MAX_PAGE = 500


class Api:
    """A client of one server. `notify` is called, at most once per request, when it is retried for longer."""

    def __init__(
        self, config: Config, *, notify: Callable[[str], None], transport: httpx.BaseTransport | None = None
    ) -> None:
        self._config = config
        self._notify = notify
        self._read_position = ReadPosition(config.url)
        headers = {"User-Agent": f"niyanta/{__version__}", "Accept": "application/json"}
        if config.key:
            headers["Authorization"] = f"Bearer {config.key}"
        self._http = httpx.Client(
            base_url=config.url, headers=headers, timeout=TIMEOUT, verify=certificates(config), transport=transport
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, params: Params | None = None) -> Any:
        """The JSON response; raises RefusedError or UnavailableError."""
        return self._send("GET", path, params=params).json()

    def post(self, path: str, body: Any = None, *, key: str = "") -> Any:
        """POST of JSON; `key` is the Idempotency-Key. None for an empty response."""
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        answer = self._send("POST", path, content=content, kind="application/json", key=key)
        return answer.json() if answer.content else None

    def post_lines(self, path: str, items: list[Any], *, key: str) -> list[Any]:
        """POST of NDJSON; returns one result per item."""
        content = b"".join(json.dumps(item, separators=(",", ":")).encode() + b"\n" for item in items)
        answer = self._send("POST", path, content=content, kind="application/x-ndjson", key=key)
        if "ndjson" in answer.headers.get("Content-Type", ""):
            return [json.loads(line) for line in answer.text.splitlines() if line.strip()]
        return items_of(answer.json())

    def pages(self, path: str, params: Params | None = None, *, limit: int | None = None) -> Iterator[Any]:
        """Items of a list, from all its pages, at most `limit`."""
        query: dict[str, Any] = dict(params or {})
        left = limit
        while left is None or left > 0:
            query["limit"] = MAX_PAGE if left is None else min(left, MAX_PAGE)
            page = self.get(path, query)
            found = items_of(page)
            yield from found if left is None else found[:left]
            cursor = page.get("next") if isinstance(page, dict) else None
            if not cursor:  # an empty page need not be the last
                return
            query["cursor"] = cursor
            left = None if left is None else left - len(found)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        content: bytes | None = None,
        kind: str = "",
        key: str = "",
    ) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        if method == "GET" and self._read_position.position:
            headers[HEADER] = self._read_position.position
        if content is not None:
            headers["Content-Type"] = kind
        deadline = time.monotonic() + self._config.retry_seconds
        delay = FIRST_DELAY_SECONDS
        notified = False
        while True:
            answer: httpx.Response | None = None
            try:
                answer = self._http.request(method, path, params=params, content=content, headers=headers)
                if answer.is_success:
                    self._read_position.note(answer.headers.get(HEADER, ""))
                    return self._require_json(answer)
                if answer.status_code not in RETRIED_STATUSES:
                    raise self._refusal(answer)
                trouble = f"{answer.status_code} {answer.reason_phrase}".strip()
            except httpx.TransportError as error:
                if _is_certificate_error(error):
                    raise UnavailableError(f"{self._config.url}: its certificate is not trusted: {error}") from None
                trouble = str(error) or type(error).__name__
            except httpx.InvalidURL as error:
                raise UnavailableError(f"{self._config.url}{path}: {error}") from None
            asked = retry_after(answer) if answer is not None else None
            pause = asked if asked is not None else random.uniform(delay / 2, delay)  # noqa: S311 - jitter
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)
            if time.monotonic() + pause > deadline:
                raise self._exhausted(answer, trouble, asked)
            if not notified and (pause > 1 or delay > 1):
                self._notify(f"{self._config.url}: {trouble}; retrying for up to {self._config.retry_seconds:g} s")
                notified = True
            time.sleep(pause)

    def _require_json(self, answer: httpx.Response) -> httpx.Response:
        if answer.content and "json" not in answer.headers.get("Content-Type", ""):
            kind = answer.headers.get("Content-Type", "no content type")
            raise UnavailableError(f"{answer.url} is not the REST door of Niyanta: it answered with {kind}")
        return answer

    def _refusal(self, answer: httpx.Response) -> RefusedError | UnavailableError:
        if answer.status_code >= 500 or answer.status_code < 400:
            message = f"{self._config.url}: {answer.status_code} {answer.reason_phrase}"
            return UnavailableError(message, problem_of(answer).get("detail") or answer.text[:200])
        notes = []
        if answer.status_code == 401:
            key = self._config.key
            notes.append(
                "the API key is not accepted"
                if key
                else "no API key: set NIYANTA_API_KEY, or `key` in the configuration file"
            )
        return RefusedError(answer.status_code, problem_of(answer), *notes)

    def _exhausted(
        self, answer: httpx.Response | None, trouble: str, asked: float | None
    ) -> RefusedError | UnavailableError:
        if answer is None:
            return UnavailableError(f"{self._config.url}: {trouble}")
        notes = (
            [] if asked is None else [f"the server asks to wait for {asked:g} s (a larger --retry-seconds allows it)"]
        )
        if answer.status_code == 429:
            return RefusedError(429, problem_of(answer), *notes)
        detail = problem_of(answer).get("detail")
        return UnavailableError(f"{self._config.url}: {trouble}" + (f": {detail}" if detail else ""), *notes)


def certificates(config: Config) -> ssl.SSLContext | bool:
    """TLS context with the CA file, or with the system's certificates; False for plain HTTP, where none are needed."""
    if config.url.startswith("http://"):
        return False
    try:
        return ssl.create_default_context(cafile=config.ca_file or None)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(f"{config.ca_file} is not a file of PEM certificates: {error}") from None


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The problem details of a response; made from the status if it has none (a proxy's page)."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    if isinstance(found, dict) and ("title" in found or "detail" in found):
        return found
    return {"title": f"{answer.status_code} {answer.reason_phrase}".strip(), "status": answer.status_code}


def retry_after(answer: httpx.Response) -> float | None:
    """Retry-After in seconds; None if it is absent or invalid."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        sent = parsedate_to_datetime(answer.headers["Date"])
        return max(0.0, (until - sent).total_seconds())
    except (ValueError, TypeError, KeyError):
        return None


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
