"""One tenant that does all that its rights and the schema allow against everybody else, for a bounded time.

Every loop is bounded in count and by `stop`; all traffic goes to the control plane and the REST door of one test.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from testing.cluster.api_client import JSON, Api, ApiError, in_parallel
from testing.processes.rest_door import RestDoor, restricted
from testing.scenarios.tenant import Tenant

WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


UNPLACEABLE = (4, 5)
"""Kinds of `TenantAttack.manifest` that no worker can take."""

FEW_OBJECTS = 200
"""Objects among which some are unplaceable without `wall`."""


class TenantAttack:
    """Threads of the hostile tenant; as a context manager it stops and joins them.

    Attributes:
        created: number of Workload objects that the API server accepted.
        refused: its messages for the others, without repetitions.
        errors: unexpected exceptions of the threads.
    """

    def __init__(
        self, tenant: Tenant, door: RestDoor, victim: str, *, objects: int, sockets: int, wall: bool = False
    ) -> None:
        """`objects`: Workload objects and REST submissions to create; `victim`: the other tenant's Customer and
        namespace; `wall`: all of them can be placed nowhere, and no two are alike."""
        self._tenant = tenant
        self._door = door
        self._victim = victim
        self._objects = objects
        self._sockets = sockets
        self._wall = wall
        self._user: Api = tenant.user()
        self._admin = tenant.workloads.cluster.api
        self._stop = threading.Event()
        self.created = 0
        self.refused: set[str] = set()
        self.errors: list[BaseException] = []
        parts = (self._flood_objects, self._flood_submissions, self._hold_sockets)
        self._threads = [threading.Thread(target=self._guard, args=(part,), daemon=True) for part in parts]

    def __enter__(self) -> TenantAttack:
        self._refuse_pods()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=120)
        self._admin.delete(f"{WEBHOOKS}/{self._tenant.name}")

    def _guard(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:
            self.errors.append(error)

    # --- what it sends ------------------------------------------------------------------------------------------------

    def manifest(self, number: int) -> JSON:
        """One Workload of the flood: each is of a kind of its own: unplaceable, failing, or against everybody."""
        name = self._tenant.name
        kinds: tuple[JSON, ...] = (
            {"anti": [{"workloadSelector": {}, "topologyKey": "kubernetes.io/os", "scope": "Customer"}]},
            {"anti": [{"workloadSelector": {}, "topologyKey": "kubernetes.io/os", "scope": "Namespace"}]},
            {"anti": [{"customers": [self._victim], "scope": "Cluster"}]},
            {"anti": [{"types": [f"t{number}-{term}"]} for term in range(8)]},
            {"hard": {"nodeNames": [f"{self._victim}-0"]}},
            {"hard": {"pools": [self._victim]}},
            {"hard": {"pools": [name]}},
        )
        kind = number % len(kinds)
        if self._wall:
            kind = UNPLACEABLE[number % len(UNPLACEABLE)]
        elif kind in UNPLACEABLE and number >= FEW_OBJECTS:
            kind = len(kinds) - 1
        spec: JSON = {"affinity": kinds[kind], "priority": 100, "replicas": 1 + number % 3}
        if number % 11 == 0:
            spec["customer"] = self._victim
        container = {
            "name": "main",
            "image": "registry.invalid/none",
            "resources": {"requests": {"cpu": f"{1 + number % 900}m"}},
        }
        pod: JSON = {"containers": [container]}
        if number % 5 == 0:
            pod["tolerations"] = [{"operator": "Exists"}]
        if number % 13 == 0:
            pod["priorityClassName"] = "system-node-critical"
        return {
            "apiVersion": "niyanta.io/v1alpha1",
            "kind": "Workload",
            "metadata": {"name": f"f{number}", "namespace": name, "labels": {"app": f"a{number}"}},
            "spec": {**spec, "template": {"spec": pod}},
        }

    def _flood_objects(self) -> None:
        for start in range(0, self._objects, 50):
            if self._stop.is_set():
                return
            in_parallel(self._create, range(start, min(start + 50, self._objects)))

    def _create(self, number: int) -> None:
        try:
            self._user.post(self._tenant.path, self.manifest(number))
            self.created += 1
        except ApiError as error:  # refused by the schema or a policy
            self.refused.add(str(error).partition(":")[2][:300])

    def _flood_submissions(self) -> None:
        for start in range(0, self._objects, 500):
            if self._stop.is_set():
                return
            lines = [
                json.dumps(restricted(self.manifest(number)))
                for number in range(start, min(start + 500, self._objects))
            ]
            with suppress(Exception):  # throttled, or cut off
                self._door.client.post(
                    "/v1/workloads:batch",
                    content="\n".join(lines),
                    headers={"Content-Type": "application/x-ndjson"},
                    timeout=60,
                )

    def _hold_sockets(self) -> None:
        """Sockets that send a body or a header a byte at a time, and silent ones."""
        held: list[socket.socket] = []
        key = self._door.key
        begun = (
            f"POST /v1/workloads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n{"
        ).encode()
        starts = (begun, b"POST /v1/workloads HTTP/1.1\r\nHost: x\r\n", b"")
        try:
            while not self._stop.wait(0.1):
                while len(held) < self._sockets and not self._stop.is_set():
                    with suppress(OSError):
                        opened = socket.create_connection(("127.0.0.1", self._door.port), timeout=5)
                        opened.sendall(starts[len(held) % len(starts)])
                        held.append(opened)
                        continue
                    break
                held = [each for each in held if _drip(each)]
        finally:
            for each in held:
                each.close()

    def delete_everything(self) -> None:
        """Delete all Workload objects of the tenant at once."""
        self._user.request("DELETE", self._tenant.path, timeout=120)

    def _refuse_pods(self) -> None:
        """A webhook of the tenant's own that never answers, for pods of its namespace."""
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        webhook = {
            "name": "hangs.example.com",
            "clientConfig": {"url": "https://127.0.0.1:9/none"},
            "rules": [rule],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self._tenant.name}},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 1,
        }
        self._admin.post(WEBHOOKS, {"metadata": {"name": self._tenant.name}, "webhooks": [webhook]})


def _drip(held: socket.socket) -> bool:
    """Send one more byte; False if the connection is closed."""
    try:
        held.sendall(b" ")
    except OSError:
        return False
    return True
