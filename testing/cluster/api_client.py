"""A small synchronous Kubernetes client for tests: raw JSON in and out, thread-safe, on one connection pool."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

JSON = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_CONNECTIONS = 16


class ApiError(RuntimeError):
    """The API server refused a request; `status` is the HTTP code, and the message is the server's. `details` are those
    of the Status, with its causes."""

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        try:
            parsed = json.loads(body)
            words, details = parsed.get("message", body), parsed.get("details") or {}
        except (ValueError, AttributeError):
            words, details = body, {}
        super().__init__(f"{method} {path}: {status} {words}")
        self.status = status
        self.details: JSON = details


class Api:
    """Requests to one API server with the credentials of a kubeconfig file."""

    def __init__(self, kubeconfig: Path) -> None:
        settings = client.Configuration()
        config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
        self.server: str = settings.host
        self.ca_file: str | None = settings.ssl_ca_cert
        self._headers = {"Accept": "application/json"}
        for key in ("BearerToken", "authorization"):
            if token := settings.get_api_key_with_prefix(key):
                self._headers["Authorization"] = token
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            block=True,
            ca_certs=settings.ssl_ca_cert,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
            cert_reqs="CERT_REQUIRED" if settings.verify_ssl else "CERT_NONE",
            retries=urllib3.Retry(connect=3, read=0, redirect=0, status=0, backoff_factor=0.2),
        )

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 60,
    ) -> JSON:
        """One request; returns the answer as JSON (a text that is not JSON as {"text": ...}). A body of bytes is sent
        as it is, and its answer returned as text, which Python may be unable to parse.

        Raises:
            ApiError: the answer is not 2xx.
        """
        url = self.server + path + ("?" + urlencode(query) if query else "")
        headers = {**self._headers, "Accept": accept}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self._pool.request(method, url, body=data, headers=headers, timeout=timeout)
        text = answer.data.decode()
        if not 200 <= answer.status < 300:
            raise ApiError(method, path, answer.status, text)
        if isinstance(body, bytes):
            return {"text": text}
        try:
            parsed = json.loads(text)
        except ValueError:
            return {"text": text}
        return parsed if isinstance(parsed, dict) else {"items": parsed}

    def stream(self, path: str) -> Iterator[bytes]:
        """Chunks of a watch, with the query in `path`, until the server ends it."""
        answer = self._pool.request(
            "GET", self.server + path, headers=self._headers, preload_content=False, timeout=urllib3.Timeout(read=700)
        )
        try:
            if answer.status != 200:
                raise ApiError("GET", path, answer.status, answer.data.decode())
            yield from answer.stream(2**16)
        finally:
            answer.close()

    def get(self, path: str, **query: str) -> JSON:
        return self.request("GET", path, query=query)

    def find(self, path: str) -> JSON | None:
        """Like `get`, but None for 404."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, **query: str) -> list[JSON]:
        """All items of a list, read in pages."""
        found: list[JSON] = []
        page: dict[str, str] = {"limit": "5000", **query}
        while True:
            answer = self.get(path, **page)
            found.extend(answer.get("items") or [])
            following = answer.get("metadata", {}).get("continue")
            if not following:
                return found
            page["continue"] = following

    def post(self, path: str, body: JSON) -> JSON:
        return self.request("POST", path, body)

    def patch(self, path: str, body: object, *, content_type: str = MERGE_PATCH) -> JSON:
        return self.request("PATCH", path, body, content_type=content_type)

    def delete(self, path: str, body: JSON | None = None, *, missing_ok: bool = True) -> None:
        try:
            self.request("DELETE", path, body)
        except ApiError as error:
            if error.status != 404 or not missing_ok:
                raise


def in_parallel(function: Callable[[T], R], arguments: Iterable[T]) -> list[R]:
    """Calls `function` on every argument, a few at a time; raises the first error after all calls have ended."""
    with ThreadPoolExecutor(max_workers=min(_CONNECTIONS, 4 * (os.cpu_count() or 1))) as pool:
        return [future.result() for future in [pool.submit(function, argument) for argument in arguments]]
