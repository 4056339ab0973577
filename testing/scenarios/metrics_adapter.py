"""The custom metrics API that operators serve behind the API server, as a client and its certificates show it.

For an environment with the metrics adapter. `POOL` is the WorkerPool that the metrics are about.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import urllib3
from cryptography import x509

from testing.cluster.api_client import JSON, ApiError
from testing.cluster.cluster import Cluster
from testing.environment import Environment
from testing.processes.adapter_service import SERVICE
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import OperatorDatabase, metric

ROOT = "/apis/custom.metrics.k8s.io/v1beta2"
REGISTRATION = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta2.custom.metrics.k8s.io"
POOL = "adapted"


def is_certificate_trusted(env: Environment) -> bool:
    """True when the certificate lasts for more than a day and the APIService trusts its authorities."""
    certificate, authorities = serving_certificate(env.cluster, env.namespace)
    lasts = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC) > dt.timedelta(days=1)
    return lasts and trusted_authorities(env.cluster) == authorities


def is_counted(env: Environment) -> bool:
    """True when every replica has statistics of the present leader, not the last ones of its predecessor."""
    text = "SELECT 1 FROM leader_figures f, leadership l WHERE (f.figures ->> 'epoch')::bigint = l.epoch"
    running = [one for one in env.operators if one.running]
    # Statistics of the predecessor are older: more than 3 s pass between two leaders.
    ages = [metric(one.metrics(), "niyanta_adapter_figures_age_seconds") for one in running]
    return bool(OperatorDatabase(env.dsn).query(text)) and all(0 < age < 2.5 for age in ages)


def is_available(cluster: Cluster) -> bool:
    """True when the API server reaches the adapter."""
    conditions = cluster.api.get(REGISTRATION)["status"].get("conditions", [])
    return any((one["type"], one["status"]) == ("Available", "True") for one in conditions)


def metric_path(namespace: str = "niyanta-system", metric: str = "demand", pool: str = POOL) -> str:
    """Path of one metric of a WorkerPool."""
    return f"{ROOT}/namespaces/{namespace}/workerpools.niyanta.io/{pool}/{metric}"


def metric_value(cluster: Cluster, metric: str = "demand") -> str:
    """The quantity that `kubectl get --raw` shows for a metric of `POOL`."""
    (item,) = json.loads(cluster.kubectl("get", "--raw", metric_path(metric=metric)))["items"]
    return str(item["value"])


def counted_at(cluster: Cluster) -> dt.datetime:
    """Time at which a leader computed the metric that is served now."""
    (item,) = json.loads(cluster.kubectl("get", "--raw", metric_path()))["items"]
    return dt.datetime.fromisoformat(item["timestamp"])


def serving_certificate(cluster: Cluster, namespace: str) -> tuple[x509.Certificate, str]:
    """The certificate in the Secret, and the authorities beside it (PEM)."""
    data = cluster.api.get(f"/api/v1/namespaces/{namespace}/secrets/{SERVICE}-tls")["data"]
    return x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"])), base64.b64decode(data["ca.crt"]).decode()


def certificate_end(cluster: Cluster, namespace: str) -> float:
    """End of the certificate in the Secret, in seconds since the epoch."""
    return serving_certificate(cluster, namespace)[0].not_valid_after_utc.timestamp()


def served_certificate_end(operator: OperatorProcess) -> float | None:
    """End of the certificate that this replica serves, in seconds since the epoch."""
    return metric(operator.metrics(), "niyanta_adapter_certificate_expiry_timestamp_seconds")


def trusted_authorities(cluster: Cluster) -> str:
    """The caBundle of the APIService (PEM)."""
    return base64.b64decode(cluster.api.get(REGISTRATION)["spec"].get("caBundle", "")).decode()


def ask_directly(env: Environment, port: int, where: str, certificate: Path | None = None) -> tuple[int, JSON]:
    """GET from one replica, past the API server: as the front proxy with its certificate, or without one."""
    context = ssl.create_default_context(cadata=serving_certificate(env.cluster, env.namespace)[1])
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    name = f"{SERVICE}.{env.namespace}.svc"
    headers = {"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"}
    with urllib3.HTTPSConnectionPool(
        "127.0.0.1", port, ssl_context=context, server_hostname=name, assert_hostname=name, retries=False
    ) as pool:
        answer = pool.request("GET", where, headers=headers, timeout=60)
    return answer.status, json.loads(answer.data)


@dataclass
class MetricsPoller:
    """Polls a path through the API server in a thread, and keeps the answers; a context manager."""

    cluster: Cluster
    where: str
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    """(monotonic time, HTTP status, message of a refusal)"""

    def __enter__(self) -> MetricsPoller:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _poll(self) -> None:
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
