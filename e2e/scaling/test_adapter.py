"""The metrics adapter behind the API server: requests, discovery, access, the death of a leader, rotated certificates.

It needs a cluster of its own: while an APIService is unavailable, no namespace can be deleted, and other tests delete
namespaces.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from e2e.conftest import QUICK, leads
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster, CommandError, Kind
from testing.cluster.control_plane import which_kind
from testing.environment import RELEASE, Environment
from testing.processes.adapter_service import SERVICE
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.metrics_adapter import (
    POOL,
    REGISTRATION,
    ROOT,
    MetricsPoller,
    ask_directly,
    certificate_end,
    counted_at,
    is_available,
    is_certificate_trusted,
    is_counted,
    metric_path,
    metric_value,
    served_certificate_end,
    serving_certificate,
    trusted_authorities,
)
from testing.scenarios.workloads import GROUP, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

HPA = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"


@pytest.fixture(scope="module")
def adapted() -> Iterator[Environment]:
    """Cluster, chart and two operators behind the adapter's Service, with one pool that has no workers."""
    if which_kind() is not Kind.KWOK:
        pytest.skip("API servers in containers can't reach a local process")
    with Environment.start("adapter", adapter=True) as env:
        pools = f"{GROUP}/namespaces/{env.namespace}/workerpools"
        env.cluster.api.post(pools, pool_manifest(POOL, env.namespace, {"niyanta.test/none": "here"}))
        yield env


@pytest.fixture
def operators(adapted: Environment) -> tuple[OperatorProcess, OperatorProcess]:
    """The leader and a standby, both ready; the APIService is available and the pool counted."""
    running = [process for process in adapted.operators if process.running]
    while len(running) < 2:
        running.append(adapted.start_operator(f"operator-{secrets.token_hex(2)}", extra_env=QUICK))
    leader = until(lambda: next((one for one in running if leads(one)), None), what="one leads", timeout=60)
    until(lambda: is_available(adapted.cluster), what="the APIService is available", timeout=60)
    until(lambda: is_counted(adapted), what="this leader has counted the pool", timeout=60)
    until(lambda: metric_value(adapted.cluster), what="the statistics are served", timeout=60, tolerate=True)
    # The leader may be about to replace a short-lived certificate of the test before.
    until(lambda: is_certificate_trusted(adapted), what="a lasting certificate is trusted", timeout=60, tolerate=True)
    return leader, next(one for one in running if one is not leader)


# --- through the API server ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("operators")
def test_the_api_server_forwards_requests_to_the_adapter(adapted: Environment) -> None:
    cluster = adapted.cluster
    spec = cluster.api.get(REGISTRATION)["spec"]
    assert not spec.get("insecureSkipTLSVerify")
    assert spec["caBundle"]
    for name in ("demand", "workers_needed", "utilization_percent_sum", "queue_depth", "queue_oldest_age_seconds"):
        assert metric_value(cluster, name) == "0", "an empty queue is a value, not an empty list"
    found = json.loads(cluster.kubectl("get", "--raw", f"{ROOT}/namespaces/default/metrics/queue_depth"))
    assert [item["value"] for item in found["items"]] == ["0"]
    with pytest.raises(CommandError, match=r"NotFound.*there is no WorkerPool nope; there are: adapted"):
        cluster.kubectl("get", "--raw", metric_path(pool="nope"))
    with pytest.raises(CommandError, match=r"NotFound.*has no metric length"):
        cluster.kubectl("get", "--raw", metric_path(metric="length"))


@pytest.mark.usefixtures("operators")
def test_its_resources_are_discovered(adapted: Environment) -> None:
    cluster = adapted.cluster
    assert "custom.metrics.k8s.io/v1beta2" in cluster.kubectl("api-versions").split()
    listed = json.loads(cluster.kubectl("get", "--raw", ROOT))
    assert "workerpools.niyanta.io/demand" in {item["name"] for item in listed["resources"]}
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

    def in_aggregated_discovery() -> bool:
        found = cluster.api.request("GET", "/apis", accept=accept)
        groups = {item["metadata"]["name"]: item for item in found["items"]}
        (version,) = groups["custom.metrics.k8s.io"]["versions"]
        resources = {item["resource"]: item for item in version.get("resources", [])}
        return version["freshness"] == "Current" and set(resources) == {"workerpools.niyanta.io", "namespaces"}

    until(in_aggregated_discovery, what="aggregated discovery has it", timeout=90, tolerate=True)
    # Nothing kubectl would list as an object, and nothing that hides the WorkerPool itself.
    names = cluster.kubectl("api-resources", "-o", "name").split()
    assert "workerpools.niyanta.io" in names
    assert not [name for name in names if name.endswith("custom.metrics.k8s.io")]


@pytest.mark.usefixtures("operators")
def test_its_openapi_document_is_aggregated(adapted: Environment) -> None:
    def aggregated() -> bool:
        paths = json.loads(adapted.cluster.kubectl("get", "--raw", "/openapi/v3"))["paths"]
        return "apis/custom.metrics.k8s.io/v1beta2" in paths

    until(aggregated, what="the API server has its OpenAPI document", timeout=180, interval=1)


@pytest.mark.usefixtures("operators")
def test_the_api_server_authorizes_readers(adapted: Environment) -> None:
    cluster = adapted.cluster
    with pytest.raises(CommandError, match="forbidden"):
        cluster.kubectl("get", "--raw", metric_path(), "--as", "stranger")
    # The ClusterRole that Kubernetes gives its own controller is enough.
    assert '"value":"0"' in cluster.kubectl("get", "--raw", metric_path(), "--as", HPA)
    cluster.kubectl("create", "rolebinding", "reader", "-n", "default", "--clusterrole=view", "--user=reader")
    own = f"{ROOT}/namespaces/default/metrics/demand"
    until(lambda: cluster.kubectl("get", "--raw", own, "--as", "reader"), what="a viewer reads", tolerate=True)
    for other in (
        metric_path(),
        f"{ROOT}/namespaces/kube-system/metrics/demand",
        f"{ROOT}/namespaces/*/metrics/demand",
    ):
        with pytest.raises(CommandError, match="forbidden"):
            cluster.kubectl("get", "--raw", other, "--as", "reader")


def test_every_replica_answers_the_front_proxy_alone(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    assert adapted.adapter is not None
    (admin,) = adapted.run.path.glob("kwok/clusters/*/pki/admin.crt")
    for operator in operators:
        port = int(adapted.adapter.operator_env(operator.identity)["NIYANTA_METRICS_ADAPTER_PORT"])
        status, body = ask_directly(adapted, port, metric_path(), admin)
        assert (status, body["items"][0]["value"]) == (200, "0"), operator.identity
        status, body = ask_directly(adapted, port, metric_path())
        assert (status, body["reason"]) == (401, "Unauthorized"), operator.identity


# --- death of a leader, rotation of certificates ---------------------------------------------------------------------


def test_discovery_has_no_gap_when_the_leader_dies(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    """The standby serves the dead leader's statistics for 5 s, answers 503 with their age then, and takes over."""
    leader, standby = operators
    with MetricsPoller(adapted.cluster, ROOT) as discovery, MetricsPoller(adapted.cluster, metric_path()) as values:
        until(lambda: len(values.answers) > 3, what="the poller has answers")
        leader.sigkill()
        killed_at, killed = time.monotonic(), dt.datetime.now(dt.UTC)
        until(lambda: leads(standby), what="the standby leads", timeout=60)
        until(lambda: counted_at(adapted.cluster) > killed, what="it has counted", timeout=60, tolerate=True)
        back = time.monotonic() - killed_at
    assert discovery.statuses() == {200}
    assert values.statuses() <= {200, 503}
    refused = [(at - killed_at, body) for at, status, body in values.answers if status == 503]
    assert all("no leader has written newer ones" in body for _, body in refused)
    assert all(at > 4 for at, _ in refused)
    print(f"\nkilled: 503 from {refused[0][0] if refused else 0:.1f} s on, values again after {back:.1f} s")


def test_a_certificate_is_replaced_while_it_is_used(adapted: Environment) -> None:
    """With a lifetime of 30 s it is replaced every 20 s, and no request fails meanwhile."""
    for operator in adapted.operators:
        operator.terminate()
    quick = {**QUICK, "NIYANTA_METRICS_ADAPTER_CERTIFICATE_LIFETIME": "30"}
    for number in (1, 2):
        adapted.start_operator(f"rotating-{number}", extra_env=quick)
    try:
        cluster = adapted.cluster
        until(lambda: is_available(cluster), what="the APIService is available", timeout=60)
        until(lambda: is_counted(adapted), what="the new leader has counted the pool", timeout=60)
        until(lambda: metric_value(cluster), what="the statistics are served", timeout=60, tolerate=True)

        def serial() -> int:
            return serving_certificate(cluster, adapted.namespace)[0].serial_number

        # The first certificate has the long lifetime that the operators before gave it.
        seen = [serial()]
        with MetricsPoller(cluster, ROOT) as discovery, MetricsPoller(cluster, metric_path()) as values:
            for _ in range(2):
                until(lambda: serial() != seen[-1], what="another certificate", timeout=60, interval=0.2)
                seen.append(serial())
                asked = len(values.answers)
                until(lambda asked=asked: len(values.answers) > asked + 20, what="20 more requests were answered")
        assert discovery.refusals() == []
        assert values.refusals() == []
    finally:  # the tests after this one start operators with other settings
        for operator in adapted.operators:
            operator.terminate()


def test_an_edited_registration_is_restored(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    cluster = adapted.cluster
    right = trusted_authorities(cluster)
    assert right == serving_certificate(cluster, adapted.namespace)[1]
    other = base64.b64encode(right.encode() + right.encode()).decode()
    edits: list[JSON] = [{"caBundle": other}, {"caBundle": None}, {"caBundle": None, "insecureSkipTLSVerify": True}]
    for edit in edits:
        cluster.api.patch(REGISTRATION, {"spec": edit})

        def restored() -> bool:
            spec = cluster.api.get(REGISTRATION)["spec"]
            return trusted_authorities(cluster) == right and not spec.get("insecureSkipTLSVerify")

        until(restored, what=f"{edit} is undone")
    until(lambda: is_available(cluster), what="the APIService is available", timeout=60)
    assert metric_value(cluster) == "0"


def test_a_registration_of_another_service_is_left_alone(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    cluster = adapted.cluster
    right = trusted_authorities(cluster)
    cluster.api.patch(REGISTRATION, {"spec": {"service": {"name": "another"}, "caBundle": None}})
    words = "belongs to the Service niyanta-system/another"
    until(lambda: words in operators[0].log_text(), what="the leader says so")
    assert trusted_authorities(cluster) == ""
    cluster.api.patch(REGISTRATION, {"spec": {"service": {"name": SERVICE}}})
    until(lambda: trusted_authorities(cluster) == right, what="its authorities are restored")
    until(lambda: is_available(cluster), what="the APIService is available", timeout=60)


def test_an_emptied_secret_is_filled_again(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    cluster = adapted.cluster
    before = serving_certificate(cluster, adapted.namespace)[0].serial_number
    with MetricsPoller(cluster, metric_path()) as values:
        cluster.api.patch(f"/api/v1/namespaces/{adapted.namespace}/secrets/{SERVICE}-tls", {"data": None})

        def filled() -> bool:
            with suppress(KeyError, TypeError):
                return serving_certificate(cluster, adapted.namespace)[0].serial_number != before
            return False

        until(filled, what="there is another certificate")
        until(
            lambda: trusted_authorities(cluster) == serving_certificate(cluster, adapted.namespace)[1],
            what="its authority is trusted",
        )
        for operator in operators:
            until(
                lambda one=operator: served_certificate_end(one) == certificate_end(cluster, adapted.namespace),
                what="each replica uses it",
            )
    assert {words for _, _, words in values.answers} == {""}


# --- the chart -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("operators")
def test_an_upgrade_leaves_certificate_and_trust_alone(adapted: Environment) -> None:
    def state() -> tuple[str, int]:
        return trusted_authorities(adapted.cluster), serving_certificate(adapted.cluster, adapted.namespace)[
            0
        ].serial_number

    before = state()
    with MetricsPoller(adapted.cluster, metric_path()) as values:
        adapted.install({"policies": {"authors": {"requireServiceAccountUse": True}}})
        adapted.install()
        assert state() == before
    assert {words for _, _, words in values.answers} == {""}


def begin_namespace_deletion(cluster: Cluster) -> Callable[[], bool]:
    """Creates a namespace and begins its deletion; returns a condition that is true when it is gone."""
    name = f"gone-{secrets.token_hex(3)}"
    cluster.create_namespace(name)
    cluster.delete_namespace(name, wait=False)
    return lambda: cluster.api.find(f"/api/v1/namespaces/{name}") is None


def test_zz_uninstalling_with_all_operators_dead_blocks_no_namespace(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    """Runs near the end, because it removes the release. An unavailable APIService blocks the deletion of namespaces,
    so helm must delete the APIService first."""
    cluster = adapted.cluster
    until(begin_namespace_deletion(cluster), what="a namespace is deleted while the adapter answers", timeout=60)
    for operator in operators:
        operator.sigkill()
    until(lambda: not is_available(cluster), what="the API server notices", timeout=120, interval=0.5)
    gone = begin_namespace_deletion(cluster)
    cluster.uninstall_chart(RELEASE, namespace=adapted.namespace)
    until(gone, what="the blocked namespace is gone", timeout=120, interval=0.5)
    until(begin_namespace_deletion(cluster), what="another namespace is deleted", timeout=60)
    assert cluster.api.find(REGISTRATION) is None


def test_zz_another_server_of_the_group_is_left_alone(adapted: Environment) -> None:
    """Runs after the uninstallation. Another version is left alone, and helm refuses to replace the same one."""
    cluster = adapted.cluster
    for version in ("v1beta1", "v1beta2"):
        name = f"{version}.custom.metrics.k8s.io"
        other: JSON = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": name},
            "spec": {
                "group": "custom.metrics.k8s.io",
                "version": version,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"name": "prometheus-adapter", "namespace": "monitoring"},
            },
        }
        cluster.api.post("/apis/apiregistration.k8s.io/v1/apiservices", other)
        try:
            if version == "v1beta2":
                with pytest.raises(CommandError, match="cannot be imported into the current release"):
                    adapted.install()
                adapted.install({"metricsAdapter": {"enabled": False}})
            else:
                adapted.install()
            spec = cluster.api.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{name}")["spec"]
            assert spec["service"]["name"] == "prometheus-adapter"
            cluster.uninstall_chart(RELEASE, namespace=adapted.namespace)
        finally:
            cluster.api.delete(f"/apis/apiregistration.k8s.io/v1/apiservices/{name}")
