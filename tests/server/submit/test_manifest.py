"""Verdicts of the REST door on manifests: the Customer's lists, terms and namespaces, and the bounds of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from niyanta.engine.types import Scope
from niyanta.resources.ownership import TermUse
from niyanta.server.problems import INVALID, NOT_ALLOWED, POD_SECURITY, REFERENCE, Problem
from niyanta.server.submit import manifest as manifests
from niyanta.server.submit.manifest import ManifestReader
from niyanta.store.rows import CustomerRow, WorkloadIntake
from tests.server.make import manifest

pytestmark = pytest.mark.unit

VAULT_TOKEN = {"audience": "vault", "path": "token"}
LISTS: dict[str, Any] = {
    "topologyKeys": ["example.com/rack"],
    "tolerations": [{"key": "gpu", "operator": "Exists", "value": "", "effect": ""}],
    "priorityClasses": ["urgent"],
    "configMaps": ["settings"],
    "csiDrivers": ["secrets-store.csi.k8s.io"],
    "tokenAudiences": ["vault"],
    "listOfALaterRelease": ["x"],
}


def acme(**fields: Any) -> CustomerRow:
    return CustomerRow("acme", "Standard", namespaces=("acme",), **fields)


def read(body: Mapping[str, Any], row: CustomerRow | None = None, **reader: Any) -> WorkloadIntake:
    return ManifestReader(operator_namespace="niyanta-system", **reader).read(body, row or acme(), tier_weight=10)


def with_pod(**pod: Any) -> dict[str, Any]:
    found = manifest()
    found["spec"]["template"]["spec"].update(pod)
    return found


def anti(**term: Any) -> dict[str, Any]:
    return manifest(affinity={"anti": [{"types": ["a"], **term}]})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (with_pod(tolerations=[{"key": "gpu", "value": "a100"}]), "tolerations[0]"),
        (with_pod(priorityClassName="urgent"), "priorityClassName"),
        (with_pod(volumes=[{"name": "v", "configMap": {"name": "settings"}}]), "volumes[0].configMap.name"),
        (with_pod(volumes=[{"name": "v", "csi": {"driver": "secrets-store.csi.k8s.io"}}]), "volumes[0].csi.driver"),
        (
            with_pod(volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": VAULT_TOKEN}]}}]),
            "volumes[0].projected.sources[0].serviceAccountToken.audience",
        ),
    ],
)
def test_the_lists_of_the_customer_bind_submissions(body: dict[str, Any], field: str) -> None:
    with pytest.raises(Problem) as refusal:
        read(body)
    assert refusal.value.kind is REFERENCE
    assert [error["field"] for error in refusal.value.errors] == [f"spec.template.spec.{field}"]
    assert read(body, acme(template_lists=LISTS)).customer == "acme"


@pytest.mark.parametrize(
    ("pod", "field", "message"),
    [
        ({"hostnam": "a"}, "hostnam", "unknown field"),
        ({"hostAliases": [{"ip": "10.0.0.1", "names": []}]}, "hostAliases[0].names", "unknown field"),
        ({"activeDeadlineSeconds": "5"}, "activeDeadlineSeconds", "integer"),
        ({"volumes": [{"name": "v", "nfs": {"path": "/"}}]}, "volumes[0].nfs.server", "Required value"),
    ],
)
def test_fields_without_a_model_are_checked_by_the_pod_api(pod: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(Problem) as refusal:
        read(with_pod(**pod))
    (error,) = refusal.value.errors
    assert refusal.value.kind is INVALID
    assert error["field"] == f"spec.template.spec.{field}"
    assert message in error["message"]


@pytest.mark.parametrize("lists", [{"tolerations": "all"}, {"tolerations": [{"key": 1}]}, {"configMaps": ["*"]}])
def test_lists_that_cannot_be_read_allow_nothing(lists: dict[str, Any]) -> None:
    row = acme(template_lists=lists, secrets=("pull",))
    with pytest.raises(Problem):
        read(with_pod(imagePullSecrets=[{"name": "pull"}]), row)
    assert read(manifest(), row)


def test_terms_may_use_listed_topology_keys_and_scopes() -> None:
    rack = anti(topologyKey="example.com/rack")
    with pytest.raises(Problem) as refusal:
        read(rack)
    assert refusal.value.kind is NOT_ALLOWED
    assert refusal.value.errors[0]["field"] == "spec.affinity.anti[0].topologyKey"
    assert refusal.value.detail.count("topologyKey:") == 1
    assert read(rack, acme(template_lists=LISTS))
    assert read(rack, topology_keys={"example.com/rack"})
    with pytest.raises(Problem) as refusal:
        read(anti(scope="Cluster"))
    assert refusal.value.errors[0]["field"] == "spec.affinity.anti[0].scope"
    assert read(anti(scope="Cluster"), acme(allow_cluster_scope=True))


def test_a_priority_above_the_customers_maximum_is_refused() -> None:
    row = acme(limits={"maxPriority": 40})
    assert read(manifest(priority=40), row).priority == 40
    with pytest.raises(Problem) as refusal:
        read(manifest(priority=41), row)
    assert (refusal.value.kind, refusal.value.kind.status) == (NOT_ALLOWED, 422)
    (error,) = refusal.value.errors
    assert error["field"] == "spec.priority"
    assert error["message"].startswith("41 is above maxPriority 40 of Customer acme;")


def test_scope_customer_of_a_wildcard_customer_has_the_class_of_scope_namespace() -> None:
    wildcard = CustomerRow("acme", "Standard", namespaces=("*", "acme"))
    reader = ManifestReader(operator_namespace="niyanta-system")
    ids = {
        (scope, row.namespaces): reader.read(anti(scope=scope), row, tier_weight=1).class_id
        for scope in ("Namespace", "Customer")
        for row in (acme(), wildcard)
    }
    assert ids["Customer", ("acme",)] != ids["Namespace", ("acme",)]
    assert ids["Customer", ("*", "acme")] == ids["Namespace", ("acme",)]


def test_a_wildcard_is_no_namespace_to_submit_to() -> None:
    row = CustomerRow("default", "Standard", namespaces=("*",))
    with pytest.raises(Problem) as refusal:
        read(manifest(), row)
    assert refusal.value.kind is NOT_ALLOWED


def test_the_restricted_standard_is_a_verdict_of_its_own() -> None:
    with pytest.raises(Problem) as refusal:
        read(with_pod(hostPID=True, serviceAccountName="admin"))
    assert refusal.value.kind is POD_SECURITY


def test_a_changed_customer_counts_at_once() -> None:
    reader = ManifestReader(operator_namespace="niyanta-system")
    body = with_pod(serviceAccountName="run")
    assert reader.read(body, acme(service_accounts=("run",)), tier_weight=1)
    with pytest.raises(Problem):
        reader.read(body, acme(), tier_weight=1)
    assert reader.read(body, acme(service_accounts=("run",)), tier_weight=1)


def test_the_cache_keeps_no_specs_and_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_CACHED_BYTES", 10_000)
    reader = ManifestReader(operator_namespace="niyanta-system")
    for number in range(20):
        body = anti(topologyKey="topology.kubernetes.io/zone")
        body["spec"]["template"]["metadata"] = {"annotations": {"a": f"{number:02}" + "x" * 2000}}
        reader.read(body, acme(), tier_weight=1)
    cached = list(reader._compiled.values())
    assert 2 <= len(cached) <= 4
    assert sum(item.size for item in cached) <= 10_000
    assert cached[0].terms == (TermUse("spec.affinity.anti[0]", Scope.NAMESPACE, "topology.kubernetes.io/zone"),)
    assert not [name for name in manifests.CompiledSpec.__slots__ if name in ("spec", "template")]
