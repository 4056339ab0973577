"""KEDA as local processes: its operator, and its external metrics adapter behind an APIService.

Both run with the administrator's credentials: it is our ScaledObject that is tried, not KEDA's own roles.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from e2e.cluster import build
from e2e.harness.cluster import Cluster
from e2e.harness.environment import Environment
from e2e.harness.ports import free_ports
from e2e.harness.waiting import until

NAMESPACE = "keda"
ADAPTER = "keda-metrics-apiserver"
API_SERVICE = "v1beta1.external.metrics.k8s.io"
MODULE = build.MODULE / "keda"


class Keda:
    """KEDA in an environment; its processes end with the environment's run."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._bin = build.ensure_tools(build.KEDA)
        self._certificates = env.run.sub("keda")
        self._log = env.log_dir / "keda.log"

    def start(self) -> None:
        """Installs the custom resources and the APIService, starts both processes and waits until they answer."""
        cluster = self._env.cluster
        definitions = str(module_folder() / "config" / "crd" / "bases")
        cluster.kubectl("apply", "--server-side", "-f", definitions)
        cluster.kubectl("wait", "--for", "condition=established", "--timeout=60s", "-f", definitions)
        cluster.create_namespace(NAMESPACE)
        authority = write_certificates(self._certificates)
        health, grpc, secure, metrics = free_ports(4)
        self._process(
            "keda-operator",
            f"--health-probe-bind-address=127.0.0.1:{health}",
            f"--metrics-service-bind-address=127.0.0.1:{grpc}",
            f"--cert-dir={self._certificates}",
            "--enable-prometheus-metrics=false",
            "--enable-webhook-patching=false",
            "--enable-apiservice-patching=false",
        )
        config = cluster.kubeconfig
        self._process(
            "keda-adapter",
            "--bind-address=127.0.0.1",
            f"--secure-port={secure}",
            f"--port={metrics}",
            f"--metrics-service-address=127.0.0.1:{grpc}",
            *(f"--{kind}-kubeconfig={config}" for kind in ("lister", "authentication", "authorization")),
            f"--cert-dir={self._certificates}",
            f"--tls-cert-file={self._certificates / 'tls.crt'}",
            f"--tls-private-key-file={self._certificates / 'tls.key'}",
        )
        cluster.apply(*_api_service(secure, authority))
        until(lambda: _available(cluster), what=f"KEDA's metrics are served (log: {self._log})", timeout=120)

    def _process(self, name: str, *arguments: str) -> None:
        with self._log.open("ab") as log:
            child = subprocess.Popen(
                [str(self._bin / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "KUBECONFIG": str(self._env.cluster.kubeconfig), **_environment()},
                cwd=self._certificates,
            )
        self._env.run.adopt(name, child.pid)


def _environment() -> Mapping[str, str]:
    return {"POD_NAMESPACE": NAMESPACE, "WATCH_NAMESPACE": "", "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE}


def module_folder() -> Path:
    """KEDA's source in Go's module cache, where its custom resource definitions are."""
    command = ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/kedacore/keda/v2"]
    done = subprocess.run(
        command, cwd=MODULE, env=build.build_environment(), capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())


def write_certificates(folder: Path) -> bytes:
    """ca.crt, tls.crt and tls.key for KEDA's operator and adapter; returns the authority's certificate (PEM)."""
    now = datetime.now(UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KEDA of the tests")])

    def certificate(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    authority = (
        certificate(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName(name) for name in (f"{ADAPTER}.{NAMESPACE}.svc", "localhost")]
    names_and_address = x509.SubjectAlternativeName([*names, x509.IPAddress(ip_address("127.0.0.1"))])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    leaf = (
        certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ADAPTER)]), key.public_key())
        .add_extension(names_and_address, critical=False)
        .add_extension(usage, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    parts = {"ca.crt": authority.public_bytes(pem), "tls.crt": leaf.public_bytes(pem), "tls.key": private}
    for name, text in parts.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(text)
    return parts["ca.crt"]


def _api_service(port: int, authority: bytes) -> tuple[dict[str, object], dict[str, object]]:
    service: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": ADAPTER, "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    api: dict[str, object] = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API_SERVICE},
        "spec": {
            "service": {"name": ADAPTER, "namespace": NAMESPACE, "port": port},
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "caBundle": base64.b64encode(authority).decode(),
        },
    }
    return service, api


def _available(cluster: Cluster) -> bool:
    found = cluster.api.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}")
    conditions = {item["type"]: item["status"] for item in found.get("status", {}).get("conditions", [])}
    return conditions.get("Available") == "True"
