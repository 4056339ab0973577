"""The adapter's certificate: valid for its Service, replaced in time, and never with a key that could sign others."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from cryptography import x509

from niyanta.custom_metrics.certificate import (
    ServingCertificate,
    ends_at,
    from_data,
    issue,
    joined,
    problem,
    service_names,
    to_data,
)

pytestmark = pytest.mark.unit

NAMES = service_names("adapter", "niyanta-system")
DAYS = dt.timedelta(days=90)
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def made() -> ServingCertificate:
    return issue(NAMES, lifetime=DAYS, now=NOW)


def cause(
    held: ServingCertificate | None, *, after: dt.timedelta = dt.timedelta(), names: tuple[str, ...] = NAMES
) -> str:
    return problem(held, names, lifetime=DAYS, now=NOW + after)


def test_it_is_for_every_name_of_the_service(made: ServingCertificate) -> None:
    certificate = x509.load_pem_x509_certificate(made.certificate)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(found.get_values_for_type(x509.DNSName)) == {
        "adapter",
        "adapter.niyanta-system",
        "adapter.niyanta-system.svc",
        "adapter.niyanta-system.svc.cluster.local",
    }


def test_it_signs_nothing_and_its_authority_only_once(made: ServingCertificate) -> None:
    certificate = x509.load_pem_x509_certificate(made.certificate)
    authority = x509.load_pem_x509_certificate(made.authorities)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert made.key.count(b"PRIVATE KEY-----") == 2, "one key, begun and ended"


def test_it_is_replaced_after_two_thirds_of_its_lifetime(made: ServingCertificate) -> None:
    assert cause(made) == ""
    assert cause(made, after=dt.timedelta(days=59)) == ""
    assert cause(made, after=dt.timedelta(days=60)).startswith("it ends")
    assert ends_at(made.certificate) == NOW + DAYS


def test_a_shorter_lifetime_is_obeyed_at_once(made: ServingCertificate) -> None:
    shorter = problem(made, NAMES, lifetime=dt.timedelta(days=30), now=NOW)
    assert shorter.startswith("it would last until")


def test_what_cannot_be_used_is_replaced(made: ServingCertificate) -> None:
    other = issue(NAMES, lifetime=DAYS, now=NOW)
    assert cause(None) == "no certificate exists yet"
    assert cause(made, names=(*NAMES, "renamed.elsewhere.svc")) == "it isn't for renamed.elsewhere.svc"
    assert cause(replace(made, key=other.key)) == "its key belongs to another certificate"
    for broken in (
        replace(made, authorities=other.authorities),
        replace(made, certificate=b"what"),
        replace(made, key=b"what"),
        replace(made, authorities=b""),
    ):
        assert cause(broken).startswith("it can't be used")


def test_a_bundle_has_each_authority_once_and_none_that_is_over(made: ServingCertificate) -> None:
    other = issue(NAMES, lifetime=dt.timedelta(days=1), now=NOW)
    both = joined(made.authorities, other.authorities + made.authorities, now=NOW)
    assert both == made.authorities + other.authorities
    assert joined(made.authorities, both, now=NOW + dt.timedelta(days=2)) == made.authorities
    assert joined(made.authorities, b"-----BEGIN CERTIFICATE-----\nno\n", now=NOW) == made.authorities


def test_a_secret_holds_it(made: ServingCertificate) -> None:
    assert from_data(to_data(made)) == made
    assert from_data(None) is None
    assert from_data({**to_data(made), "tls.key": ""}) is None
    assert from_data({**to_data(made), "tls.key": "%%%"}) is None
