"""Certificates and the APIService of an API that a local process serves behind the API server."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testing.cluster.cluster import Cluster
from testing.waiting import until


@dataclass(frozen=True)
class AggregatedApi:
    """A version of an API group that a local port serves under the name of a Service."""

    group: str
    version: str
    service: str
    namespace: str
    port: int

    @property
    def name(self) -> str:
        """Name of the APIService."""
        return f"{self.version}.{self.group}"

    def apply(self, cluster: Cluster, authority: bytes) -> None:
        """Applies Service and APIService; the API server then trusts this authority (PEM) alone."""
        where = {"name": self.service, "namespace": self.namespace}
        service: Mapping[str, Any] = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": where,
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": self.port}]},
        }
        api: Mapping[str, Any] = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": self.name},
            "spec": {
                "service": {**where, "port": self.port},
                "group": self.group,
                "version": self.version,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": base64.b64encode(authority).decode(),
            },
        }
        cluster.apply(service, api)

    def wait(self, cluster: Cluster, log: Path) -> None:
        """Waits until the API server reaches it."""

        def available() -> bool:
            found = cluster.api.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{self.name}")
            conditions = {item["type"]: item["status"] for item in found.get("status", {}).get("conditions", [])}
            return conditions.get("Available") == "True"

        until(available, what=f"{self.name} is served (log: {log})", timeout=120)


def write_certificates(folder: Path, *services: str) -> bytes:
    """Writes ca.crt, tls.crt and tls.key for Services (`name.namespace.svc`); returns the authority as PEM."""
    now = datetime.now(UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the tests")])

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
    names = [x509.DNSName(name) for name in (*services, "localhost")]
    names_and_address = x509.SubjectAlternativeName([*names, x509.IPAddress(ip_address("127.0.0.1"))])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    leaf = (
        certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, services[0])]), key.public_key())
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
