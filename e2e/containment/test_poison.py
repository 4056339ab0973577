"""Hostile input through both doors, as rows and as forged pods: the leader lives on with the same epoch, and a
bystander in another namespace is placed, also after a restart of everything.

The corpus is in `testing/scenarios/hostile_input.py` and `hostile_rows.py`. `make poison` runs this with a bystander
after each single input, and checks that it is placed within 5 seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from e2e.conftest import QUICK, leads
from e2e.containment.conftest import LONG, PLACED_WITHIN_SECONDS
from testing.cluster.api_client import JSON, Api, ApiError
from testing.cluster.control_plane import Kind
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.processes.rest_door import RestDoor, restricted
from testing.scenarios import hostile_input
from testing.scenarios.hostile_rows import HostileRows, hostile_rows
from testing.scenarios.tenant import Tenant
from testing.scenarios.workloads import WORKLOAD_UID
from testing.waiting import until

pytestmark = pytest.mark.e2e


class Witness:
    """Places the bystander's work and knows the leader; prints the longest time to a placement at the end."""

    def __init__(self, env: Environment, operator: OperatorProcess, bystander: Tenant) -> None:
        self._env = env
        self._operator = operator
        self._bystander = bystander
        self._epoch = self._current_epoch()
        self.seconds: list[float] = []

    def _current_epoch(self) -> int:
        return int(self._bystander.workloads.database.leader()["epoch"])

    def check(self, after: str) -> None:
        """The same leader leads, and the bystander is placed."""
        try:
            self.seconds.append(self._bystander.place(timeout=PLACED_WITHIN_SECONDS))
        except AssertionError as error:
            raise AssertionError(f"after {after}: {error}\n{self._operator.log_tail()}") from None
        assert self._operator.running, f"after {after}: the operator has exited\n{self._operator.log_tail()}"
        assert self._current_epoch() == self._epoch, f"after {after}: another process leads"

    def check_each(self, after: str) -> None:
        """Like `check`, in the long form alone."""
        if LONG:
            self.check(after)

    def check_after_restart(self, door: RestDoor | None = None) -> None:
        """Restart everything and place the bystander's work: operator, REST door, API server, Postgres."""
        self._operator.sigkill()
        if self._env.cluster.kind is Kind.KWOK:
            self._env.cluster.restart_api_server()
        self._env.postgres.stop()
        self._env.postgres.start()
        fresh = self._env.start_operator(extra_env=QUICK)
        if door is not None:
            door.restart()
        until(lambda: leads(fresh), what="the new operator leads", timeout=60)
        self._bystander.place()
        assert fresh.running
        print(f"\nbystander placed {len(self.seconds)} times; longest {max(self.seconds):.2f} s")


@pytest.fixture
def witness(env: Environment, operator: OperatorProcess, bystander: Tenant) -> Witness:
    return Witness(env, operator, bystander)


def status_of(request: Callable[[], object]) -> int:
    """HTTP status of a request to the API server; 200 for any success."""
    try:
        request()
    except ApiError as error:
        return error.status
    return 200


def phases(tenant: Tenant) -> dict[str, str]:
    """Phase of every Workload object of a tenant; empty before the first status. Read by kubectl, because Python's own
    decoder can't read all of them."""
    columns = "custom-columns=NAME:.metadata.name,PHASE:.status.phase"
    text = tenant.workloads.cluster.kubectl(
        "get", "workloads.niyanta.io", "-n", tenant.name, "-o", columns, "--no-headers"
    )
    found = dict(line.split() for line in text.splitlines())
    return {name: "" if phase == "<none>" else phase for name, phase in found.items()}


def test_objects(hostile: Tenant, witness: Witness) -> None:
    """The corpus as Workload objects, by a user with no more rights than `edit` in one namespace."""
    user = hostile.user()
    accepted = []
    for name, body in hostile_input.documents(hostile.name, prefix="k"):
        status = status_of(lambda body=body: user.request("POST", hostile.path, body))  # type: ignore[misc]
        assert status in (200, 400, 413, 422), f"{name}: {status}"
        if status == 200:
            accepted.append(name)
        witness.check_each(name)
    assert len(accepted) > 20, "the API server refuses the corpus itself"
    witness.check("all objects")
    until(
        lambda: not [name for name, phase in phases(hostile).items() if not phase],
        what=f"every accepted object has a phase: {phases(hostile)}",
        timeout=120,
        interval=1,
    )
    assert set(accepted) <= phases(hostile).keys()
    witness.check_after_restart()


def test_submissions(hostile: Tenant, bystander: Tenant, door: RestDoor, witness: Witness) -> None:
    """The corpus as submissions by REST, one by one and as a batch, with one API key."""
    other = door.client_of(bystander.name)
    bodies = list(hostile_input.documents(hostile.name, prefix="r"))
    for name, body in bodies:
        response = door.client.post("/v1/workloads", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code < 500, f"{name}: {response.text[:500]}"
        witness.check_each(name)
    lines = b"\n".join(body for _, body in bodies)
    response = door.client.post(
        "/v1/workloads:batch", content=lines, headers={"Content-Type": "application/x-ndjson"}, timeout=120
    )
    assert response.status_code < 500, response.text[:500]
    witness.check("all submissions")
    submit_and_wait(other, bystander, "by-rest")
    assert door.process.running
    witness.check_after_restart(door)
    submit_and_wait(door.client_of(bystander.name), bystander, "by-rest-again")


def submit_and_wait(client: httpx.Client, tenant: Tenant, name: str) -> None:
    """Submit one Workload of a tenant by REST and wait until it is placed."""
    manifest = restricted(tenant.workloads.manifest(name, cpu="10m", memory="8Mi"))
    response = client.post("/v1/workloads", json=manifest)
    assert response.status_code == 202, response.text
    id_ = response.json()["id"]

    def placed() -> bool:
        view = client.get(f"/v1/workloads/{id_}").raise_for_status().json()
        return str(view.get("phase") or view["status"]["phase"]) in ("Scheduled", "Running", "Succeeded")

    until(placed, what="the bystander's submission is placed", timeout=60)


@pytest.fixture
def rows(env: Environment, hostile: Tenant, door: RestDoor) -> Iterator[HostileRows]:
    """Writes rows like that of a suspended submission of the hostile tenant."""
    manifest = restricted(hostile.workloads.manifest("template", cpu="10m", memory="8Mi"))
    made = HostileRows(env.dsn, door.submit(manifest))
    yield made
    made.remove()


def test_rows(hostile: Tenant, bystander: Tenant, door: RestDoor, rows: HostileRows, witness: Witness) -> None:
    """Rows that nobody but the database's owner can write. None becomes a pod outside the hostile tenant's
    namespace."""
    node = f"{bystander.name}-0"
    written = 0
    for row in hostile_rows(victim=bystander.name, node=node):
        written += rows.write(row) is not None
        witness.check_each(row.name)
    assert written > 25, "Postgres itself refuses the corpus"
    witness.check("all rows")
    forged = [
        pod["metadata"]
        for pod in hostile.workloads.cluster.api.items("/api/v1/pods")
        if pod["metadata"].get("labels", {}).get("niyanta.io/workload-id") in rows.ids
        and pod["metadata"]["namespace"] != hostile.name
    ]
    assert forged == []
    witness.check_after_restart(door)


# --- forged pods -----------------------------------------------------------------------------------------------------


def forged_pod(labels: JSON, *, owner: JSON | None = None) -> JSON:
    """A pod of a user's own that says it is Niyanta's."""
    metadata: JSON = {"generateName": "forged-", "labels": labels}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    return {"metadata": metadata, "spec": {"containers": [{"name": "main", "image": "registry.invalid/none"}]}}


@pytest.fixture
def user(hostile: Tenant) -> Api:
    """A user who may also write statuses and bindings of pods in the namespace, as a badly chosen role allows."""
    api = hostile.user()
    cluster = hostile.workloads.cluster
    base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{hostile.name}"
    rules = [
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch", "update"]},
        {"apiGroups": [""], "resources": ["pods/binding", "bindings"], "verbs": ["create"]},
    ]
    cluster.api.post(f"{base}/roles", {"metadata": {"name": "careless"}, "rules": rules})
    binding = {
        "metadata": {"name": "careless"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "careless"},
        "subjects": [{"kind": "ServiceAccount", "name": "user", "namespace": hostile.name}],
    }
    cluster.api.post(f"{base}/rolebindings", binding)
    return api


def test_forged_pods(hostile: Tenant, bystander: Tenant, user: Api, witness: Witness) -> None:
    """Nobody but the operator sets keys under niyanta.io/ on pods: not at creation, by status, or by a binding. A pod
    that names a Workload as its owner, without the keys, is left alone."""
    hostile.place(life={"run_for": "600s"})
    mine = hostile.workloads.pods()[0]
    keys = {key: value for key, value in mine["metadata"]["labels"].items() if key.startswith("niyanta.io/")}
    assert WORKLOAD_UID in keys
    pods = f"/api/v1/namespaces/{hostile.name}/pods"
    plain = user.post(pods, forged_pod({"app": "x"}))["metadata"]["name"]
    labelled = {"metadata": {"labels": keys}}
    attempts: dict[str, Callable[[], object]] = {
        "create": lambda: user.post(pods, forged_pod(keys)),
        "create with an owner": lambda: user.post(pods, forged_pod(keys, owner=mine["metadata"]["ownerReferences"][0])),
        "patch": lambda: user.patch(f"{pods}/{plain}", labelled),
        "patch of the status": lambda: user.patch(f"{pods}/{plain}/status", labelled),
        "binding": lambda: user.post(
            f"{pods}/{plain}/binding",
            {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": plain, "annotations": keys, "labels": keys},
                "target": {"kind": "Node", "name": f"{hostile.name}-0"},
            },
        ),
        "removal": lambda: user.patch(
            f"{pods}/{mine['metadata']['name']}", {"metadata": {"labels": dict.fromkeys(keys)}}
        ),
    }
    answers = {name: status_of(request) for name, request in attempts.items()}
    assert set(answers.values()) <= {403, 422}, answers
    owner = {**mine["metadata"]["ownerReferences"][0], "blockOwnerDeletion": False}
    stranger = user.post(pods, forged_pod({"app": "y"}, owner=owner))["metadata"]["name"]
    witness.check("forged pods")
    assert user.find(f"{pods}/{plain}") is not None
    assert user.find(f"{pods}/{stranger}") is not None
    assert user.find(f"{pods}/{mine['metadata']['name']}") is not None
    witness.check_after_restart()
