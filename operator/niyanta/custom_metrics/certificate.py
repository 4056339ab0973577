"""The metrics adapter's serving certificate: how it is issued, checked, and stored in a Secret.

Pure except for random numbers; `now` is an argument. Each certificate has an authority of its own, whose key is
discarded after signing, so that no key in the Secret can sign. `certificate_rotation` (leader) issues,
`certificate_watcher` (every replica) loads.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SKEW = dt.timedelta(hours=1)
"""Time before its issue from which a certificate is valid, because clocks differ."""

RENEW_AT = 2 / 3
"""Share of its lifetime after which a certificate is replaced."""

CERTIFICATE, KEY, AUTHORITIES = "tls.crt", "tls.key", "ca.crt"
"""Keys of the Secret, named as Kubernetes' own TLS Secrets name them."""


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """A certificate in PEM. `authorities`: its own authority, then earlier ones whose certificates replicas may still
    serve."""

    certificate: bytes
    key: bytes
    authorities: bytes


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """DNS names of a Service inside the cluster. API servers connect to the second one."""
    return tuple(
        f"{service}{rest}" for rest in ("", f".{namespace}.svc", f".{namespace}", f".{namespace}.svc.cluster.local")
    )


def issue(names: Iterable[str], *, lifetime: dt.timedelta, now: dt.datetime) -> ServingCertificate:
    """A certificate for `names` from a new authority."""
    wanted = tuple(names)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # Each authority has another name, so that clients can tell two of them in one bundle apart.
    issuer = _name(f"niyanta-metrics-adapter-{x509.random_serial_number():040x}"[:64])
    authority = (
        _builder(issuer, issuer, authority_key.public_key(), lifetime, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _builder(_name("niyanta-metrics-adapter"), issuer, key.public_key(), lifetime, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in wanted]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return ServingCertificate(
        certificate=certificate.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authorities=authority.public_bytes(Encoding.PEM),
    )


def problem(held: ServingCertificate | None, names: Iterable[str], *, lifetime: dt.timedelta, now: dt.datetime) -> str:
    """The reason for which a new certificate is needed; "" if none is needed."""
    if held is None:
        return "no certificate exists yet"
    try:
        certificate = x509.load_pem_x509_certificate(held.certificate)
        authority = x509.load_pem_x509_certificates(held.authorities)[0]
        key = load_pem_private_key(held.key, password=None)
        certificate.verify_directly_issued_by(authority)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        return f"it can't be used: {error or type(error).__name__}"
    if _public(key.public_key()) != _public(certificate.public_key()):
        return "its key belongs to another certificate"
    missing = set(names) - set(alternatives.get_values_for_type(x509.DNSName))
    if missing:
        return f"it isn't for {', '.join(sorted(missing))}"
    end = certificate.not_valid_after_utc
    if now >= end - lifetime * (1 - RENEW_AT):
        return f"it ends {end:%Y-%m-%d %H:%M:%S} UTC"
    if end > now + lifetime + SKEW:  # the setting was made shorter
        return f"it would last until {end:%Y-%m-%d %H:%M:%S} UTC"
    return ""


def ends_at(certificate: bytes) -> dt.datetime:
    """Time at which a certificate expires. Raises ValueError if it is not a certificate."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def joined(first: bytes, others: bytes, *, now: dt.datetime) -> bytes:
    """A bundle of `first` and `others` in this order, without duplicates and expired certificates."""
    found: dict[bytes, None] = {}
    for bundle in (first, others):
        try:
            certificates = x509.load_pem_x509_certificates(bundle) if bundle.strip() else []
        except ValueError:  # the Secret was edited
            continue
        for certificate in certificates:
            if certificate.not_valid_after_utc > now:
                found[certificate.public_bytes(Encoding.PEM)] = None
    return b"".join(found)


def to_data(held: ServingCertificate) -> dict[str, str]:
    """The certificate as a Secret's `data`."""
    parts = {CERTIFICATE: held.certificate, KEY: held.key, AUTHORITIES: held.authorities}
    return {name: base64.b64encode(part).decode() for name, part in parts.items()}


def from_data(data: Mapping[str, str] | None) -> ServingCertificate | None:
    """The certificate in a Secret's `data`; None if a part is missing."""
    try:
        certificate, key, authorities = (
            base64.b64decode((data or {}).get(name, ""), validate=True) for name in (CERTIFICATE, KEY, AUTHORITIES)
        )
    except binascii.Error:
        return None
    if not (certificate and key and authorities):
        return None
    return ServingCertificate(certificate, key, authorities)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: dt.timedelta, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _public(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]
