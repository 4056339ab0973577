"""The metrics adapter on a real control plane: through the aggregator, over a leader's death and over rotations.

A cluster of its own: while nobody answers for an APIService, no namespace can be deleted, and other tests delete some.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import urllib3
from cryptography import x509

from e2e.conftest import QUICK, leads
from niyanta.custom_metrics.certificate_rotation import API_SERVICE
from testing.cluster.api_client import JSON, ApiError
from testing.cluster.cluster import Cluster, CommandError, Kind
from testing.cluster.control_plane import which_kind
from testing.environment import RELEASE, Environment
from testing.processes.adapter_service import SERVICE
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import GROUP, Database, metric, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

ROOT = "/apis/custom.metrics.k8s.io/v1beta2"
REGISTRATION = f"/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}"
HPA = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
POOL = "adapted"


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
    until(lambda: available(adapted.cluster), what="the APIService is available", timeout=60)
    until(lambda: counted(adapted), what="this leader has counted the pool", timeout=60)
    until(lambda: value(adapted.cluster), what="that is served", timeout=60, tolerate=True)
    # The leader may be about to replace a certificate of the test before.
    until(lambda: settled(adapted), what="certificate and trust agree for long", timeout=60, tolerate=True)
    return leader, next(one for one in running if one is not leader)


def settled(env: Environment) -> bool:
    certificate, authorities = serving(env.cluster, env.namespace)
    lasts = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC) > dt.timedelta(days=1)
    return lasts and bundle(env.cluster) == authorities


def counted(env: Environment) -> bool:
    """Whether every replica has figures of who leads now, not the last of the leader before."""
    text = "SELECT 1 FROM leader_figures f, leadership l WHERE (f.figures ->> 'epoch')::bigint = l.epoch"
    running = [one for one in env.operators if one.running]
    # Between two leaders pass more than 3 s, in which nobody counts.
    ages = [metric(one.metrics(), "niyanta_adapter_figures_age_seconds") for one in running]
    return bool(Database(env.dsn).query(text)) and all(0 < age < 2.5 for age in ages)


def available(cluster: Cluster) -> bool:
    conditions = cluster.api.get(REGISTRATION)["status"].get("conditions", [])
    return any((one["type"], one["status"]) == ("Available", "True") for one in conditions)


def path(namespace: str = "niyanta-system", metric: str = "demand", pool: str = POOL) -> str:
    return f"{ROOT}/namespaces/{namespace}/workerpools.niyanta.io/{pool}/{metric}"


def value(cluster: Cluster, metric: str = "demand") -> str:
    (item,) = json.loads(cluster.kubectl("get", "--raw", path(metric=metric)))["items"]
    return str(item["value"])


def counted_at(cluster: Cluster) -> dt.datetime:
    """When a leader counted what is told now."""
    (item,) = json.loads(cluster.kubectl("get", "--raw", path()))["items"]
    return dt.datetime.fromisoformat(item["timestamp"])


def serving(cluster: Cluster, namespace: str) -> tuple[x509.Certificate, str]:
    """The certificate in the Secret, and the authorities beside it as PEM."""
    data = cluster.api.get(f"/api/v1/namespaces/{namespace}/secrets/{SERVICE}-tls")["data"]
    return x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"])), base64.b64decode(data["ca.crt"]).decode()


def ends_at(cluster: Cluster, namespace: str) -> float:
    return serving(cluster, namespace)[0].not_valid_after_utc.timestamp()


def expiry(operator: OperatorProcess) -> float | None:
    """When the certificate ends that this replica answers with."""
    return metric(operator.metrics(), "niyanta_adapter_certificate_expiry_timestamp_seconds")


def bundle(cluster: Cluster) -> str:
    return base64.b64decode(cluster.api.get(REGISTRATION)["spec"].get("caBundle", "")).decode()


def ask_directly(env: Environment, port: int, where: str, certificate: Path | None = None) -> tuple[int, JSON]:
    """One replica, not through the API server: as the front proxy with its certificate, or as a stranger."""
    context = ssl.create_default_context(cadata=serving(env.cluster, env.namespace)[1])
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    name = f"{SERVICE}.{env.namespace}.svc"
    headers = {"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"}
    with urllib3.HTTPSConnectionPool(
        "127.0.0.1", port, ssl_context=context, server_hostname=name, assert_hostname=name, retries=False
    ) as pool:
        answer = pool.request("GET", where, headers=headers, timeout=10)
    return answer.status, json.loads(answer.data)


@dataclass
class MetricsPoller:
    """Asks again and again through the API server, and remembers what it was told."""

    cluster: Cluster
    where: str
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    """(monotonic time, HTTP status, words of a refusal)"""

    def __enter__(self) -> MetricsPoller:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.2):
            status, words = 200, ""
            try:
                self.cluster.api.get(self.where)
            except ApiError as error:
                status, words = error.status, str(error)
            self.answers.append((time.monotonic(), status, words))

    def statuses(self) -> set[int]:
        return {status for _, status, _ in self.answers}

    def refusals(self) -> list[tuple[int, str]]:
        return [(status, words) for _, status, words in self.answers if status != 200]


# --- through the API server ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("operators")
def test_the_api_server_passes_questions_on(adapted: Environment) -> None:
    cluster = adapted.cluster
    spec = cluster.api.get(REGISTRATION)["spec"]
    assert not spec.get("insecureSkipTLSVerify")
    assert spec["caBundle"]
    for name in ("demand", "workers_needed", "utilization_percent_sum", "queue_depth", "queue_oldest_age_seconds"):
        assert value(cluster, name) == "0", "an empty queue is a value, not an empty list"
    found = json.loads(cluster.kubectl("get", "--raw", f"{ROOT}/namespaces/default/metrics/queue_depth"))
    assert [item["value"] for item in found["items"]] == ["0"]
    with pytest.raises(CommandError, match=r"NotFound.*there is no WorkerPool nope; there are: adapted"):
        cluster.kubectl("get", "--raw", path(pool="nope"))
    with pytest.raises(CommandError, match=r"NotFound.*has no metric length"):
        cluster.kubectl("get", "--raw", path(metric="length"))


@pytest.mark.usefixtures("operators")
def test_it_is_discovered(adapted: Environment) -> None:
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
def test_its_openapi_document_is_taken(adapted: Environment) -> None:
    def taken() -> bool:
        paths = json.loads(adapted.cluster.kubectl("get", "--raw", "/openapi/v3"))["paths"]
        return "apis/custom.metrics.k8s.io/v1beta2" in paths

    until(taken, what="the API server has its OpenAPI document", timeout=180, interval=1)


@pytest.mark.usefixtures("operators")
def test_the_api_server_decides_who_may_read(adapted: Environment) -> None:
    cluster = adapted.cluster
    with pytest.raises(CommandError, match="forbidden"):
        cluster.kubectl("get", "--raw", path(), "--as", "somebody")
    # What Kubernetes gives its own controller is enough.
    assert '"value":"0"' in cluster.kubectl("get", "--raw", path(), "--as", HPA)
    cluster.kubectl("create", "rolebinding", "reader", "-n", "default", "--clusterrole=view", "--user=reader")
    own = f"{ROOT}/namespaces/default/metrics/demand"
    until(lambda: cluster.kubectl("get", "--raw", own, "--as", "reader"), what="a viewer reads", tolerate=True)
    for other in (path(), f"{ROOT}/namespaces/kube-system/metrics/demand", f"{ROOT}/namespaces/*/metrics/demand"):
        with pytest.raises(CommandError, match="forbidden"):
            cluster.kubectl("get", "--raw", other, "--as", "reader")


def test_every_replica_answers_the_front_proxy_and_nobody_else(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    assert adapted.adapter is not None
    (admin,) = adapted.run.path.glob("kwok/clusters/*/pki/admin.crt")
    for operator in operators:
        port = int(adapted.adapter.operator_env(operator.identity)["NIYANTA_METRICS_ADAPTER_PORT"])
        status, body = ask_directly(adapted, port, path(), admin)
        assert (status, body["items"][0]["value"]) == (200, "0"), operator.identity
        status, body = ask_directly(adapted, port, path())
        assert (status, body["reason"]) == (401, "Unauthorized"), operator.identity


# --- death and rotation ----------------------------------------------------------------------------------------------


def test_a_dead_leader_is_followed_without_a_gap_in_discovery(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    """The standby answers from the dead leader's figures for 5 s, says then how old they are, and goes on as leader."""
    leader, standby = operators
    with MetricsPoller(adapted.cluster, ROOT) as discovery, MetricsPoller(adapted.cluster, path()) as values:
        until(lambda: len(values.answers) > 3, what="it is being asked")
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
    """A lifetime of 30 s: replaced every 20 s, and no question fails while that happens."""
    for operator in adapted.operators:
        operator.terminate()
    quick = {**QUICK, "NIYANTA_METRICS_ADAPTER_CERTIFICATE_LIFETIME": "30"}
    for number in (1, 2):
        adapted.start_operator(f"rotating-{number}", extra_env=quick)
    try:
        cluster = adapted.cluster
        until(lambda: available(cluster), what="the APIService is available", timeout=60)
        until(lambda: counted(adapted), what="the new leader has counted the pool", timeout=60)
        until(lambda: value(cluster), what="that is served", timeout=60, tolerate=True)

        def serial() -> int:
            return serving(cluster, adapted.namespace)[0].serial_number

        # The first has the long lifetime of the operators before.
        seen = [serial()]
        with MetricsPoller(cluster, ROOT) as discovery, MetricsPoller(cluster, path()) as values:
            for _ in range(2):
                until(lambda: serial() != seen[-1], what="another certificate", timeout=60, interval=0.2)
                seen.append(serial())
                asked = len(values.answers)
                until(lambda asked=asked: len(values.answers) > asked + 20, what="it goes on being asked")
        assert discovery.refusals() == []
        assert values.refusals() == []
    finally:  # the tests after this one bring operators of their own
        for operator in adapted.operators:
            operator.terminate()


def test_an_edited_registration_is_put_right(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    cluster = adapted.cluster
    right = bundle(cluster)
    assert right == serving(cluster, adapted.namespace)[1]
    other = base64.b64encode(right.encode() + right.encode()).decode()
    edits: list[JSON] = [{"caBundle": other}, {"caBundle": None}, {"caBundle": None, "insecureSkipTLSVerify": True}]
    for edit in edits:
        cluster.api.patch(REGISTRATION, {"spec": edit})

        def put_right() -> bool:
            spec = cluster.api.get(REGISTRATION)["spec"]
            return bundle(cluster) == right and not spec.get("insecureSkipTLSVerify")

        until(put_right, what=f"{edit} is undone", timeout=30)
    until(lambda: available(cluster), what="the APIService is available", timeout=60)
    assert value(cluster) == "0"


def test_a_registration_that_leads_elsewhere_is_left_alone(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    cluster = adapted.cluster
    right = bundle(cluster)
    cluster.api.patch(REGISTRATION, {"spec": {"service": {"name": "another"}, "caBundle": None}})
    words = "belongs to niyanta-system/another"
    until(lambda: words in operators[0].log_text(), what="the leader says so", timeout=30)
    assert bundle(cluster) == ""
    cluster.api.patch(REGISTRATION, {"spec": {"service": {"name": SERVICE}}})
    until(lambda: bundle(cluster) == right, what="it is looked after again", timeout=30)
    until(lambda: available(cluster), what="the APIService is available", timeout=60)


def test_an_emptied_secret_is_filled_again(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    cluster = adapted.cluster
    before = serving(cluster, adapted.namespace)[0].serial_number
    with MetricsPoller(cluster, path()) as values:
        cluster.api.patch(f"/api/v1/namespaces/{adapted.namespace}/secrets/{SERVICE}-tls", {"data": None})

        def filled() -> bool:
            with suppress(KeyError, TypeError):
                return serving(cluster, adapted.namespace)[0].serial_number != before
            return False

        until(filled, what="there is another certificate", timeout=30)
        until(lambda: bundle(cluster) == serving(cluster, adapted.namespace)[1], what="its authority is trusted")
        for operator in operators:
            until(lambda one=operator: expiry(one) == ends_at(cluster, adapted.namespace), what="each replica uses it")
    assert {words for _, _, words in values.answers} == {""}


# --- the chart -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("operators")
def test_an_upgrade_leaves_certificate_and_trust_alone(adapted: Environment) -> None:
    def state() -> tuple[str, int]:
        return bundle(adapted.cluster), serving(adapted.cluster, adapted.namespace)[0].serial_number

    before = state()
    with MetricsPoller(adapted.cluster, path()) as values:
        adapted.install({"defaultCustomer": {"enabled": False}})
        adapted.install()
        assert state() == before
    assert {words for _, _, words in values.answers} == {""}


def deletes_in_peace(cluster: Cluster) -> Callable[[], bool]:
    """Begins deleting a new namespace; the function returned says whether it is gone."""
    name = f"gone-{secrets.token_hex(3)}"
    cluster.create_namespace(name)
    cluster.delete_namespace(name, wait=False)
    return lambda: cluster.api.find(f"/api/v1/namespaces/{name}") is None


def test_zz_uninstalling_with_all_operators_dead_blocks_no_namespace(
    adapted: Environment, operators: tuple[OperatorProcess, OperatorProcess]
) -> None:
    """The last test here: the release goes. Nobody answers for the APIService by then, which keeps namespaces from
    going; helm takes the APIService away first."""
    cluster = adapted.cluster
    until(deletes_in_peace(cluster), what="a namespace goes while the adapter answers", timeout=60)
    for operator in operators:
        operator.sigkill()
    until(lambda: not available(cluster), what="the API server notices", timeout=120, interval=0.5)
    gone = deletes_in_peace(cluster)
    cluster.uninstall_chart(RELEASE, namespace=adapted.namespace)
    until(gone, what="the namespace that waited is gone", timeout=120, interval=0.5)
    until(deletes_in_peace(cluster), what="another one goes as well", timeout=60)
    assert cluster.api.find(REGISTRATION) is None


def test_zz_another_server_of_the_group_is_left_alone(adapted: Environment) -> None:
    """After the uninstallation: somebody else's APIService, of either version, refuses the chart by name."""
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
            with pytest.raises(CommandError) as refusal:
                adapted.install()
            message = str(refusal.value)
            assert f"served by the Service monitoring/prometheus-adapter already (APIService {name})" in message
            assert "set metricsAdapter.enabled to false" in message
            adapted.install({"metricsAdapter": {"enabled": False}})
            spec = cluster.api.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{name}")["spec"]
            assert spec["service"]["name"] == "prometheus-adapter"
            cluster.uninstall_chart(RELEASE, namespace=adapted.namespace)
        finally:
            cluster.api.delete(f"/apis/apiregistration.k8s.io/v1/apiservices/{name}")
