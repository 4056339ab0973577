"""Mistakes and limits of users: customers, quotas, refused pods, empty pools, unusual quantities.

The API server and the operator decide all of it; kubelets are simulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from kubernetes.utils.quantity import parse_quantity

from e2e.conftest import QUICK
from testing.cluster.cluster import CommandError
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import GROUP, Workloads, customer_manifest, metric, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

Nodes = Callable[..., list[str]]
REFUSED = {"verb": "create", "resource": "pods"}


class Customers:
    """Customers of one test; removed at its end."""

    def __init__(self, workloads: Workloads, prefix: str) -> None:
        self._api = workloads.cluster.api
        self.prefix = prefix
        self.names: set[str] = set()

    def add(self, name: str, *namespaces: str, **spec: Any) -> str:
        full = f"{self.prefix}-{name}"
        self._api.post(f"{GROUP}/customers", customer_manifest(full, *namespaces, **spec))
        self.names.add(full)
        return full

    def edit(self, name: str, **spec: Any) -> None:
        self._api.patch(f"{GROUP}/customers/{name}", {"spec": spec})

    def delete(self, name: str) -> None:
        self._api.delete(f"{GROUP}/customers/{name}")


@pytest.fixture
def customers(workloads: Workloads, unique: str) -> Iterator[Customers]:
    made = Customers(workloads, unique)
    yield made
    for name in made.names:
        made.delete(name)


# --- customers -------------------------------------------------------------------------------------------------------


def test_an_unknown_customer_holds_until_it_appears(
    workloads: Workloads, customers: Customers, nodes: Nodes, unique: str
) -> None:
    nodes(1)
    uid = workloads.apply("early", customer=f"{unique}-acme")
    status = workloads.wait("early", "Held", reason="UnknownCustomer")
    assert f"there is no Customer {unique}-acme" in status["message"]
    workloads.wait_event(uid, "Held")
    assert not workloads.pods(uid)
    # The Customer appears for another namespace, of which the tenant learns nothing: the Workload stays held.
    customers.add("acme", "elsewhere")
    assert workloads.status("early") == status
    customers.edit(f"{unique}-acme", namespaces=[workloads.namespace])
    workloads.wait("early", "Running")
    assert workloads.status("early")["customer"] == f"{unique}-acme"


def test_a_namespace_that_the_customer_does_not_list_holds(
    workloads: Workloads, customers: Customers, nodes: Nodes
) -> None:
    nodes(1)
    name = customers.add("strict", "elsewhere")
    workloads.apply("intruder", customer=name)
    status = workloads.wait("intruder", "Held", reason="UnknownCustomer")
    assert f"there is no Customer {name} for namespace {workloads.namespace}" in status["message"]


def test_a_namespace_without_a_customer_holds_until_it_has_one(
    workloads: Workloads, customers: Customers, nodes: Nodes, unique: str
) -> None:
    """In a namespace of two customers, a Workload must name one of them."""
    nodes(1)
    customers.delete(unique)  # the one that the fixture made
    until(lambda: workloads.cluster.api.find(f"{GROUP}/customers/{unique}") is None, what="no Customer is left")
    workloads.apply("unowned")
    workloads.wait("unowned", "Held", reason="NoCustomer")
    one = customers.add("one", workloads.namespace)
    workloads.wait("unowned", "Running")
    two = customers.add("two", workloads.namespace)
    workloads.apply("ambiguous")
    status = workloads.wait("ambiguous", "Held", reason="AmbiguousCustomer")
    assert one not in status["message"]
    assert two not in status["message"]
    customers.delete(two)
    workloads.wait("ambiguous", "Running")


def test_deleting_a_customer_holds_pending_workloads_and_leaves_running_ones(
    workloads: Workloads, customers: Customers, nodes: Nodes
) -> None:
    nodes(1, cpu="2")
    name = customers.add("leaving", workloads.namespace)
    running = workloads.apply("runs", customer=name, cpu="2")
    workloads.wait("runs", "Running")
    waiting = workloads.apply("waits", customer=name, cpu="2")
    workloads.wait_message("waits", "Unschedulable")
    customers.delete(name)
    workloads.wait("waits", "Held", reason="UnknownCustomer")
    assert workloads.status("runs")["phase"] == "Running"
    assert len(workloads.live_pods(running)) == 1
    # Room alone does not release it.
    workloads.delete("runs")
    workloads.wait_no_pods(running)
    workloads.apply("other", cpu="2", life={"run_for": "10ms"}, customer=customers.prefix)
    workloads.wait("other", "Succeeded")
    assert workloads.database.row(waiting)["status"] == "HELD"  # type: ignore[index]
    customers.add("leaving", workloads.namespace)
    workloads.wait("waits", "Running")


def test_a_suspended_workload_is_held_for_its_customer_when_it_resumes(
    workloads: Workloads, nodes: Nodes, unique: str
) -> None:
    """Ownership of a Workload that is created suspended is checked when it resumes."""
    nodes(1)
    uid = workloads.apply("sly", suspend=True, customer=f"{unique}-unknown")
    workloads.wait("sly", "Suspended")
    workloads.edit("sly", suspend=False)
    workloads.wait("sly", "Held", reason="UnknownCustomer")
    assert not workloads.pods(uid)
    assert "Place" not in [event["event"] for event in workloads.database.events(uid)]


def test_the_next_leader_applies_changes_of_customers(
    env: Environment, workloads: Workloads, customers: Customers, nodes: Nodes, operator: OperatorProcess, unique: str
) -> None:
    """One Customer is created and one deleted while no operator runs; the next leader releases and holds workloads."""
    name = customers.add("old", workloads.namespace)
    workloads.apply("released", customer=f"{unique}-new")
    workloads.apply("held", customer=name)
    workloads.wait("released", "Held")
    workloads.wait_message("held", "Unschedulable")
    assert operator.terminate() == 0
    customers.add("new", workloads.namespace)
    customers.delete(name)
    nodes(1)
    env.start_operator(extra_env=QUICK)
    workloads.wait("released", "Running")
    workloads.wait("held", "Held", reason="UnknownCustomer")


# --- limits of the namespace -----------------------------------------------------------------------------------------


def quota(workloads: Workloads, name: str = "quota", **hard: str) -> str:
    """Creates a ResourceQuota and waits until it is enforced; returns its path."""
    path = f"/api/v1/namespaces/{workloads.namespace}/resourcequotas"
    workloads.cluster.api.post(path, {"metadata": {"name": name}, "spec": {"hard": hard}})
    found = f"{path}/{name}"
    until(lambda: "used" in workloads.cluster.api.get(found).get("status", {}), what="the quota counts")
    return found


def test_a_workload_waits_for_a_full_quota(workloads: Workloads, nodes: Nodes) -> None:
    nodes(2)
    path = quota(workloads, pods="1")
    first = workloads.apply("first")
    workloads.wait("first", "Running")
    second = workloads.apply("second", backoffLimit=0)
    status = workloads.wait_message("second", "QuotaExceeded", "exceeded quota: quota")
    assert status["phase"] in ("Pending", "Scheduled")
    workloads.delete("first")
    workloads.wait_no_pods(first)
    workloads.wait("second", "Running")
    assert workloads.database.row(second)["failures"] == 0  # type: ignore[index]
    workloads.cluster.api.delete(path)


def test_a_group_beyond_a_quota_runs_all_or_none(workloads: Workloads, nodes: Nodes) -> None:
    """The quota allows two pods of three: they are deleted again, until it allows all three."""
    nodes(3)
    path = quota(workloads, pods="2")
    uid = workloads.apply("group", replicas=3, backoffLimit=0)
    workloads.wait_message("group", "QuotaExceeded", "exceeded quota")
    until(lambda: not workloads.pods(uid), what="the pods within the quota are deleted", interval=0.02)
    events = {event["event"] for event in workloads.database.events(uid)}
    assert "Start" not in events
    workloads.cluster.api.patch(path, {"spec": {"hard": {"pods": "3"}}})
    workloads.wait("group", "Running")
    assert len(workloads.live_pods(uid)) == 3


def test_default_requests_of_a_limit_range_are_counted(workloads: Workloads, nodes: Nodes) -> None:
    """The template has no requests and the namespace's default is 3 CPUs, so that a worker of 4 takes one pod."""
    nodes(1, cpu="4")
    limits = [{"type": "Container", "defaultRequest": {"cpu": "3"}, "default": {"cpu": "3"}}]
    path = f"/api/v1/namespaces/{workloads.namespace}/limitranges"
    workloads.apply("unlimited", cpu="", memory="", suspend=True)  # accepted before the LimitRange exists
    workloads.wait("unlimited", "Suspended")
    workloads.cluster.api.post(path, {"metadata": {"name": "defaults"}, "spec": {"limits": limits}})
    first = workloads.apply("first", cpu="", memory="")
    workloads.wait("first", "Running")
    (pod,) = workloads.pods(first)
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "3"}
    workloads.apply("second", cpu="", memory="")
    workloads.wait_message("second", "Unschedulable", "cpu")
    workloads.edit("unlimited", suspend=False)
    workloads.wait_message("unlimited", "Unschedulable", "cpu")


def test_a_pod_waits_while_its_namespace_forbids_it(workloads: Workloads, nodes: Nodes) -> None:
    """Pod Security `restricted` refuses the pod at creation: the Workload waits with the server's message."""
    nodes(1)
    path = f"/api/v1/namespaces/{workloads.namespace}"
    level = "pod-security.kubernetes.io/enforce"
    workloads.cluster.api.patch(path, {"metadata": {"labels": {level: "restricted"}}})
    uid = workloads.apply("loose", backoffLimit=0)
    workloads.wait_message("loose", "PodForbidden", "violates PodSecurity")
    assert not workloads.pods(uid)
    workloads.cluster.api.patch(path, {"metadata": {"labels": {level: None}}})
    workloads.wait("loose", "Running")


def test_a_pod_that_the_api_server_refuses_fails_the_workload_after_one_request(
    workloads: Workloads, nodes: Nodes, operator: OperatorProcess
) -> None:
    """The schema of Workload accepts the environment variable, and the validation of Pod refuses it."""
    nodes(1)
    before = metric(operator.metrics(), "niyanta_kubernetes_request_seconds_count", **REFUSED, code="422")
    body = workloads.manifest("broken", backoffLimit=5)
    body["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A=B", "value": "x"}]
    (uid,) = workloads.apply_all(body)
    status = workloads.wait("broken", "Failed", reason="PodRefused")
    assert "spec.containers[0].env" in status["message"]
    assert "Invalid value" in status["message"]
    assert status["attempts"] == 1
    after = metric(operator.metrics(), "niyanta_kubernetes_request_seconds_count", **REFUSED, code="422")
    assert after - before == 1, "one create was tried"
    assert [e["event"] for e in workloads.database.events(uid)] == ["Accepted", "Place", "Fail"]
    workloads.wait_event(uid, "Failed")


def test_a_misspelt_field_of_a_container_is_an_error_and_not_dropped(workloads: Workloads) -> None:
    """A template may have fields that Niyanta does not model, and none that Pod does not have."""
    body = workloads.manifest("typo")
    body["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    with pytest.raises(CommandError, match=r"\.spec\.template\.spec\.containers\[0\]\.imagePullPolcy"):
        workloads.apply_all(body)


# --- pools and amounts -----------------------------------------------------------------------------------------------


def test_a_pool_that_selects_no_node_has_a_condition(env: Environment, workloads: Workloads, unique: str) -> None:
    name = f"{unique}-empty"
    path = f"{GROUP}/namespaces/{env.namespace}/workerpools"
    workloads.cluster.api.post(path, pool_manifest(name, env.namespace, {"no": unique}))

    def conditions() -> dict[str, Any]:
        status = workloads.cluster.api.get(f"{path}/{name}").get("status", {})
        return {condition["type"]: condition for condition in status.get("conditions", [])}

    ready = until(lambda: conditions().get("Ready"), what="the pool has a status", interval=0.3)
    assert (ready["status"], ready["reason"]) == ("False", "NoNodeSelected")
    workloads.apply("hopes", hard={"pools": [name]})
    workloads.wait_message("hopes", "Unschedulable", "workers")
    workloads.cluster.api.delete(f"{path}/{name}")


AMOUNTS = [
    # cpu and memory as written, and what they are
    ("100m", "128974848", Decimal("0.1"), 128974848),
    ("0.5", "1e3", Decimal("0.5"), 1000),
    ("1e0", "1Gi", Decimal(1), 2**30),
    ("1.5", "129M", Decimal("1.5"), 129_000_000),
    ("0.1", "0.5Gi", Decimal("0.1"), 2**29),
    ("1u", "123Mi", Decimal("0.000001"), 123 * 2**20),
]


def test_unusual_quantities_are_counted_as_kubernetes_counts_them(workloads: Workloads, nodes: Nodes) -> None:
    """All on one worker whose CPU is exactly their sum (in thousandths, rounded up each): no other pod fits."""
    thousandths = sum(math.ceil(cpu * 1000) for _, _, cpu, _ in AMOUNTS)
    memory = sum(bytes_ for _, _, _, bytes_ in AMOUNTS)
    (node,) = nodes(1, cpu=f"{thousandths}m", memory=str(memory))
    labels = {"example.com/" + "k" * 63: "v" * 63, "empty": "", "a.b-c_d": "0"}
    workloads.cluster.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}})
    manifests = [
        workloads.manifest(f"n{i}", cpu=cpu, memory=memory, hard={"workerTags": labels})
        for i, (cpu, memory, _, _) in enumerate(AMOUNTS)
    ]
    workloads.apply_all(*manifests)
    for i, (_, _, cpu, memory) in enumerate(AMOUNTS):
        workloads.wait(f"n{i}", "Running")
        (pod,) = workloads.pods(workloads.uid(f"n{i}"))
        stored = pod["spec"]["containers"][0]["resources"]["requests"]
        assert parse_quantity(stored["memory"]) == memory
        assert math.ceil(parse_quantity(stored["cpu"]) * 1000) == math.ceil(cpu * 1000)
    workloads.apply("more", cpu="1m", memory="0")
    workloads.wait_message("more", "Unschedulable", "cpu")
    found = workloads.database.query("SELECT used, allocatable FROM workers WHERE name = %(name)s", name=node)

    def counted() -> bool:
        nonlocal found
        found = workloads.database.query("SELECT used, allocatable FROM workers WHERE name = %(name)s", name=node)
        return bool(found) and all(
            found[0]["used"].get(kind) == found[0]["allocatable"][kind] for kind in ("cpu", "memory")
        )

    until(counted, what=f"the worker's row shows it full (last: {found})", timeout=60)
