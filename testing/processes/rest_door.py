"""The REST door as users run it: a process, an API key made with the command line, and an HTTP client."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from testing.environment import Environment
from testing.processes.free_ports import free_port
from testing.processes.niyanta import OperatorProcess
from testing.waiting import until

JSON = dict[str, Any]

RESTRICTED_SECURITY_CONTEXT = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""securityContext that the restricted Pod Security standard, and so the REST door, requires of containers."""


def restricted(manifest: JSON) -> JSON:
    """The same manifest, changed so that every container meets the restricted standard."""
    for container in manifest["spec"]["template"]["spec"]["containers"]:
        container["securityContext"] = RESTRICTED_SECURITY_CONTEXT
    return manifest


class RestDoor:
    """A `niyanta api` process, and a client with an API key of `customer`."""

    def __init__(
        self,
        environment: Environment,
        customer: str,
        *,
        role: str = "customer",
        extra_env: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment
        self._extra_env = dict(extra_env or {})
        self._port = free_port()
        self.process = self._start()
        self.client = self.client_of(customer, role=role)
        self.key = self.client.headers["Authorization"].removeprefix("Bearer ")

    def _start(self) -> OperatorProcess:
        name = f"api-{self._port}-{uuid.uuid4().hex[:4]}"
        return self._environment.start_api(name, extra_env={**self._extra_env, "NIYANTA_API_PORT": str(self._port)})

    @property
    def port(self) -> int:
        return self._port

    def client_of(self, customer: str, *, role: str = "customer") -> httpx.Client:
        """A client with a new API key of this customer."""
        made = self._environment.niyanta("apikey", "create", "--customer", customer, "--role", role)
        key = next(word for word in made.split() if word.startswith("nyt_"))
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}", headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    def restart(self) -> None:
        """Kills the process if it still runs, and starts another at the same address."""
        self.process.sigkill()
        self.process = self._start()

    def close(self) -> None:
        self.client.close()
        self.process.terminate()

    def submit(self, manifest: Mapping[str, Any], *, key: str = "") -> str:
        """Posts one manifest; returns its id. Raises AssertionError with the problem's text."""
        headers = {"Idempotency-Key": key} if key else {}
        answer = self.client.post("/v1/workloads", json=manifest, headers=headers)
        if answer.status_code != 202:
            raise AssertionError(f"{answer.status_code}: {answer.text}")
        return str(answer.json()["id"])

    def batch(self, manifests: Iterable[Mapping[str, Any]], *, key: str = "") -> httpx.Response:
        """Posts many manifests as NDJSON."""
        lines = "\n".join(json.dumps(manifest) for manifest in manifests)
        headers = {"Content-Type": "application/x-ndjson"} | ({"Idempotency-Key": key} if key else {})
        return self.client.post("/v1/workloads:batch", content=lines, headers=headers)

    def get(self, path: str, **query: Any) -> JSON:
        """The JSON answer of a GET; raises httpx.HTTPStatusError when it is not 2xx."""
        answer = self.client.get(path, params=query)
        answer.raise_for_status()
        found: JSON = answer.json()
        return found

    def wait(self, id_: str, phase: str, *, timeout: float = 60) -> JSON:
        """Waits until the workload is in that phase; returns it."""

        def reached() -> JSON | None:
            found = self.get(f"/v1/workloads/{id_}")
            return found if phase_of(found) == phase else None

        found = until(reached, what=f"workload {id_} is {phase}", timeout=timeout)
        assert found is not None
        return found


def phase_of(view: JSON) -> str:
    """Phase of a workload in an answer of the REST API."""
    return str(view.get("phase") or view.get("status", {}).get("phase"))
