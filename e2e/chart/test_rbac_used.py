"""The operator's ClusterRole and Roles allow exactly what it uses, by the API server's audit log of a run.

The run makes the operator use each of its permissions once. A verb that a run no longer uses is to be removed from the
chart; a request that RBAC refuses shows here as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.chart.conftest import OPERATOR
from e2e.conftest import NODE_LABEL, QUICK, leads
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Kind, NodeSpec
from testing.cluster.control_plane import which_kind
from testing.environment import Environment
from testing.processes.rest_door import RestDoor, restricted
from testing.scenarios.placement import POOLS
from testing.scenarios.scaled_pool import ScaledPool
from testing.scenarios.workloads import GROUP, OperatorDatabase, Workloads, customer_manifest, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

NAME = "audited"
"""Name of the Customer, its namespace and the pool."""

Permission = tuple[str, str, str, str]
"""Group, resource with subresource, verb, and the object's name or `*`."""

OF_KUBERNETES: Permission = ("", "configmaps", "get", "extension-apiserver-authentication")
"""Of a Role that Kubernetes has for servers like the metrics adapter."""


@pytest.fixture(scope="module")
def env() -> Iterator[Environment]:
    """An environment with an audit log, and with everything enabled that adds permissions."""
    if which_kind() is not Kind.KWOK:
        pytest.skip("needs a control plane of kwokctl, which writes an audit log")
    values = {"defaultCustomer": {"enabled": True}}
    with Environment.start("rbac", audit=True, adapter=True, chart_values=values) as environment:
        yield environment


@pytest.fixture(scope="module")
def work(env: Environment) -> Workloads:
    """A Customer, a pool with a worker, and an operator that leads."""
    env.cluster.create_namespace(NAME)
    env.cluster.create_nodes([NodeSpec("audited-0", labels={NODE_LABEL: NAME})])
    env.cluster.api.post(f"{GROUP}/customers", customer_manifest(NAME, NAME))
    env.cluster.api.post(POOLS, pool_manifest(NAME, env.namespace, {NODE_LABEL: NAME}))
    everything = {"NIYANTA_DEFAULT_CUSTOMER": "true", "NIYANTA_REQUIRE_AUTHORS_POLICY": "true"}
    operator = env.start_operator(extra_env={**QUICK, **everything})
    until(lambda: leads(operator), what="the operator leads")
    return Workloads(env.cluster, OperatorDatabase(env.dsn), NAME, NAME)


@pytest.fixture(scope="module")
def granted(env: Environment) -> set[Permission]:
    """Permissions of the release's roles for the operator."""
    place = ("-n", env.namespace)
    roles = [
        env.cluster.get("clusterrole", "niyanta-operator"),
        env.cluster.get("clusterrole", "niyanta-metrics-adapter"),
        env.cluster.get("role", "niyanta-operator", *place),
        env.cluster.get("role", "niyanta-metrics-adapter", *place),
    ]
    return {
        (group, resource, verb, name)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }


def permission(event: JSON, granted: set[Permission]) -> Permission:
    """The permission that the request of an audit event needed, as a rule grants it, by name or for all."""
    what = event["objectRef"]
    resource = "/".join(part for part in (what["resource"], what.get("subresource", "")) if part)
    named = (what.get("apiGroup", ""), resource, event["verb"], what.get("name", ""))
    return named if named in granted else (*named[:3], "*")


def run_to_the_end(work: Workloads) -> None:
    """Its pod is created, released and deleted; its object is deleted after its time to live."""
    work.apply("short", life={"run_for": "1s"}, ttlSecondsAfterFinished=1)
    until(lambda: work.find("short") is None, what="the finished Workload is deleted", timeout=90)


def lose_an_object(work: Workloads) -> None:
    """A deleted Workload is looked up afresh, and with it the definition of its kind."""
    work.apply("deleted")
    work.wait("deleted", "Running")
    uid = work.uid("deleted")
    work.delete("deleted")
    work.database.wait_status(uid, "CANCELLED")


def find_the_name_taken(work: Workloads) -> None:
    """A pod of the name of the first attempt exists, so the operator reads it."""
    uid = work.apply("taken", suspend=True)
    work.wait("taken", "Suspended")
    container = {"name": "main", "image": "registry.invalid/none"}
    name = f"taken-{uid[:8]}-1-0"
    work.cluster.api.post(
        f"/api/v1/namespaces/{NAME}/pods",
        {"metadata": {"name": name}, "spec": {"schedulerName": "none", "containers": [container]}},
    )
    work.edit("taken", suspend=False)
    until(lambda: _requests(work, "pods", "get"), what="the pod of that name is read")
    work.delete("taken")


def submit_by_rest(env: Environment, work: Workloads) -> None:
    """A submission gets its object; a drain cordons the worker."""
    door = RestDoor(env, NAME)
    try:
        id_ = door.submit(restricted(work.manifest("submitted", life={"run_for": "1s"})))
        door.wait(id_, "Succeeded")
        admin = door.client_of(NAME, role="admin")
        assert admin.post("/v1/workers/audited-0/drain").status_code == 202
        node = "/api/v1/nodes/audited-0"
        until(lambda: env.cluster.api.get(node)["spec"].get("unschedulable"), what="the worker is cordoned")
    finally:
        door.close()


def scale(work: Workloads) -> None:
    """The pool gets a provider and adopts its workers' number, grows, and shrinks."""
    pool = ScaledPool(work, NAME)
    pool.simulate_workers()
    until(lambda: pool.decisions("ReplicasAdopted"), what="the pool is adopted")
    pool.kubectl_scale(2)
    pool.wait_nodes(2)
    pool.kubectl_scale(0)
    pool.wait_nodes(0)


def change_the_leader(env: Environment) -> None:
    """The next leader raises the fence."""
    (first,) = (process for process in env.operators if not process.identity.startswith("api"))
    second = env.start_operator(extra_env=QUICK)
    first.terminate()
    until(lambda: leads(second), what="the second operator leads")
    fence = f"/api/v1/namespaces/{env.namespace}/configmaps/niyanta-fence"
    until(lambda: env.cluster.api.get(fence)["data"]["epoch"] == "2", what="the fence is raised")


def _requests(work: Workloads, resource: str, verb: str) -> list[JSON]:
    events = work.cluster.audit_events()
    return [
        event for event in events if event["verb"] == verb and event.get("objectRef", {}).get("resource") == resource
    ]


def test_the_operator_uses_all_of_its_permissions_and_no_others(
    env: Environment, work: Workloads, granted: set[Permission]
) -> None:
    run_to_the_end(work)
    lose_an_object(work)
    find_the_name_taken(work)
    submit_by_rest(env, work)
    scale(work)
    change_the_leader(env)
    events = [event for event in env.cluster.audit_events() if event["user"]["username"] == OPERATOR]
    refused = [
        event for event in events if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
    ]
    assert refused == []
    used = {permission(event, granted | {OF_KUBERNETES}) for event in events if "objectRef" in event}
    assert sorted(granted - used) == [], "permissions that the chart grants and the operator doesn't use"
    assert sorted(used - granted) == [OF_KUBERNETES]
