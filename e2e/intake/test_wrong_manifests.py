"""The API server refuses wrong manifests with the field's name, without a running operator: the newest one, and the
oldest one that is supported (only with `make e2e-oldest`, which builds it).

The cluster has the CRDs alone, so that only they can refuse a manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from niyanta.resources.compile.pod import build_pod
from niyanta.resources.compile.pod_resources import NamespaceDefaults, pod_requests
from niyanta.resources.compile.requirements import parse_workload
from niyanta.resources.models.base import InvalidManifestError, parse
from niyanta.resources.models.pod_template import PodSpec
from niyanta.resources.schema.pod_definitions import DEFINITIONS_FILE, pod_definitions
from testing.cluster.api_client import ApiError
from testing.cluster.build import OLDEST_API_SERVER, default_bin
from testing.cluster.cluster import Cluster, CommandError
from testing.cluster.template_schema import extract, render
from testing.processes.run_directory import REPO
from tests.resources.manifest_bases import BASES, MAIN_CONTAINER, MODELS, POD, changed
from tests.resources.manifest_updates import (
    CHANGES_ALLOWED,
    CHANGES_REFUSED,
    TEMPLATE_BEFORE,
    TEMPLATE_CHANGES,
    template_after,
)
from tests.resources.right_manifests import RIGHT
from tests.resources.wrong_manifests import UNSEEN, WRONG, Case

LIMIT_RANGE = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "defaults", "namespace": "default"},
    "spec": {"limits": [{"type": "Container", "default": {"memory": "2Gi"}, "min": {"cpu": "50m"}}]},
}
CRDS = REPO / "crds"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(False, id="newest", marks=pytest.mark.e2e),
        pytest.param(True, id="oldest", marks=pytest.mark.oldest),
    ],
)
def bare(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with the CRDs alone."""
    if request.param and not (default_bin() / OLDEST_API_SERVER).exists():
        pytest.skip("`make e2e-oldest` builds the oldest API server")
    with Cluster.create("manifests", oldest=request.param) as cluster:
        if request.param:  # no controller makes it
            cluster.kubectl("create", "serviceaccount", "default")
        cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRDS))
        yield cluster


PATHS = {
    "Workload": "/apis/niyanta.io/v1alpha1/namespaces/default/workloads",
    "WorkerPool": "/apis/niyanta.io/v1alpha1/namespaces/default/workerpools",
    "Customer": "/apis/niyanta.io/v1alpha1/customers",
    "Pod": "/api/v1/namespaces/default/pods",
}


def create(cluster: Cluster, manifest: dict[str, Any]) -> dict[str, Any]:
    """The object that `kubectl create` would store, after defaulting; it is not stored."""
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    return cluster.api.request("POST", PATHS[manifest["kind"]], manifest, query=query)


def test_the_crds_are_accepted_and_established(bare: Cluster) -> None:
    for crd in bare.get("crd")["items"]:
        if crd["spec"]["group"] == "niyanta.io":
            conditions = {c["type"]: c["status"] for c in crd["status"]["conditions"]}
            assert conditions["Established"] == "True"
            assert conditions.get("NonStructuralSchema", "False") == "False"


def test_the_templates_schema_is_what_the_server_publishes(bare: Cluster) -> None:
    version = bare.api.get("/version")["gitVersion"]
    if version != pod_definitions().kubernetes:
        pytest.skip(f"the schema was extracted from {pod_definitions().kubernetes}, and this is {version}")
    published = render(extract(bare.api.get("/openapi/v3/api/v1"), version))
    assert published == DEFINITIONS_FILE.read_text(encoding="utf-8"), "make template-schema"


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_manifest_is_refused_with_its_field(bare: Cluster, case: Case) -> None:
    with pytest.raises(ApiError) as refusal:
        create(bare, case.manifest)
    assert re.search(r"is invalid|strict decoding error", str(refusal.value))
    assert case.field in str(refusal.value)


@pytest.mark.parametrize("case", RIGHT, ids=str)
def test_a_right_manifest_is_accepted_by_the_server_and_the_models(bare: Cluster, case: Case) -> None:
    parse(MODELS[case.kind], create(bare, case.manifest))


@pytest.mark.parametrize("case", UNSEEN, ids=str)
def test_errors_that_cel_can_not_find_pass_the_server(bare: Cluster, case: Case) -> None:
    create(bare, case.manifest)


def test_defaults_of_the_server_are_those_of_the_models(bare: Cluster) -> None:
    for kind in ("Workload", "WorkerPool", "Customer"):
        stored = create(bare, BASES[kind])
        server = parse(MODELS[kind], {**BASES[kind], "spec": stored["spec"]})
        assert server == parse(MODELS[kind], BASES[kind])


@pytest.fixture(scope="module")
def stored(bare: Cluster) -> dict[str, Any]:
    """A workload that exists, with an unmodelled field in its template."""
    manifest = changed(BASES["Workload"], {"metadata.name": "stored", "spec.template.spec": TEMPLATE_BEFORE})
    bare.kubectl("create", "-f", "-", input=yaml.safe_dump(manifest))
    return manifest


def replace(cluster: Cluster, manifest: dict[str, Any]) -> None:
    cluster.kubectl("replace", "-f", "-", input=yaml.safe_dump(manifest))


@pytest.mark.parametrize("name", CHANGES_ALLOWED)
def test_mutable_fields_may_change(bare: Cluster, stored: dict[str, Any], name: str) -> None:
    replace(bare, changed(stored, {f"spec.{name}": CHANGES_ALLOWED[name]}))


@pytest.mark.parametrize("name", CHANGES_REFUSED)
def test_immutable_fields_may_not_change(bare: Cluster, stored: dict[str, Any], name: str) -> None:
    edited = changed(stored, {f"spec.{name}": CHANGES_REFUSED[name]})
    with pytest.raises(CommandError, match=f"spec.{name}.*can't be changed after creation"):
        replace(bare, edited)


@pytest.mark.parametrize("change", TEMPLATE_CHANGES)
def test_the_template_may_not_change(bare: Cluster, stored: dict[str, Any], change: str) -> None:
    edited = changed(stored, {"spec.template.spec": template_after(change)})
    with pytest.raises(CommandError, match=r"spec.template.*can't be changed after creation"):
        replace(bare, edited)


def test_printer_columns_and_field_selectors_work(bare: Cluster) -> None:
    manifest = changed(BASES["Workload"], {"metadata.name": "shown"})
    bare.kubectl("create", "-f", "-", input=yaml.safe_dump(manifest))
    status = {"phase": "Running", "customer": "acme", "effectivePriority": 105, "pods": "2/2", "placement": "2 workers"}
    status |= {"score": 87, "reason": "Placed"}
    patch = json.dumps({"status": status})
    bare.kubectl("patch", "nwl", "shown", "--subresource=status", "--type=merge", "-p", patch)
    header, line = bare.kubectl("get", "nwl", "--field-selector=status.customer=acme,status.phase=Running").splitlines()
    assert header.split() == ["NAME", "PHASE", "PODS", "CUSTOMER", "PRIORITY", "PLACEMENT", "AGE", "REASON"]
    assert line.split()[:7] == ["shown", "Running", "2/2", "acme", "105", "2", "workers"]
    assert line.split()[8] == "Placed"


def test_an_unknown_field_of_the_template_is_named_by_kubectl_and_pruned_for_others(bare: Cluster) -> None:
    container = {**MAIN_CONTAINER, "commnad": ["x"]}
    manifest = changed(BASES["Workload"], {"metadata.name": "pruned", f"{POD}.containers": [container]})
    with pytest.raises(CommandError, match=r'unknown field "spec\.template\.spec\.containers\[0\]\.commnad"'):
        bare.kubectl("create", "-f", "-", input=yaml.safe_dump(manifest))
    bare.kubectl("create", "--validate=ignore", "-f", "-", input=yaml.safe_dump(manifest))
    assert bare.get("nwl", "pruned")["spec"]["template"]["spec"]["containers"] == [MAIN_CONTAINER]


def test_a_pod_with_a_field_that_the_server_does_not_know_is_refused_with_its_name(bare: Cluster) -> None:
    """As pods are created, with strict validation: nothing is dropped from a template by an older server."""
    spec = {"containers": [MAIN_CONTAINER], "fieldOfALaterRelease": 1}
    with pytest.raises(ApiError, match=r'unknown field "spec\.fieldOfALaterRelease') as refusal:
        create(bare, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "strict"}, "spec": spec})
    assert refusal.value.status == 400


def test_a_wrong_status_is_refused(bare: Cluster, stored: dict[str, Any]) -> None:
    wrong = '{"status": {"phase": "Sleeping"}}'
    with pytest.raises(CommandError, match=r"status\.phase"):
        bare.kubectl("patch", "nwl", stored["metadata"]["name"], "--subresource=status", "--type=merge", "-p", wrong)


def test_a_pool_scales_by_its_scale_subresource(bare: Cluster) -> None:
    """Values beyond maxReplicas are accepted for autoscalers with a larger maximum; the operator keeps to it."""
    manifest = changed(BASES["WorkerPool"], {"spec.replicas": 1, "spec.maxReplicas": 5})
    bare.kubectl("create", "-f", "-", input=yaml.safe_dump(manifest))
    bare.kubectl("scale", "nwp", "pool", "--replicas=4")
    assert bare.get("nwp", "pool")["spec"]["replicas"] == 4
    bare.kubectl("scale", "nwp", "pool", "--replicas=6")
    assert bare.get("nwp", "pool")["spec"]["replicas"] == 6
    with pytest.raises(CommandError, match="replicas"):
        bare.kubectl("patch", "nwp", "pool", "--type=merge", "-p", '{"spec": {"replicas": -1}}')


def test_the_fields_are_explained(bare: Cluster) -> None:
    text = bare.kubectl("explain", "workloads.niyanta.io.spec.gpu.count")
    assert "Devices per pod" in text
    text = bare.kubectl("explain", "workloads.niyanta.io.spec.template.spec.containers")
    assert "imagePullPolicy\t<string>" in text
    assert "livenessProbe\t<Object>" in text


def test_a_refusal_reads_alike_at_both_doors(bare: Cluster) -> None:
    """The models and the API server name the same field with the same message."""
    for case in WRONG:
        if case.kind == "Workload" and ("anti" in case.name or "volume cinder" in case.name):
            with pytest.raises(InvalidManifestError) as ours:
                parse_workload(case.manifest)
            with pytest.raises(ApiError) as theirs:
                create(bare, case.manifest)
            assert ours.value.field in str(theirs.value)
            if "must not" not in ours.value.message and ours.value.value is None:
                assert ours.value.message in str(theirs.value)


@pytest.mark.parametrize("case", [case for case in RIGHT if case.kind == "Workload"], ids=str)
def test_pods_of_right_manifests_are_accepted_and_request_what_was_counted(bare: Cluster, case: Case) -> None:
    """Against the API server's own defaulting, a LimitRange's included."""
    bare.kubectl("apply", "-f", "-", input=yaml.safe_dump(LIMIT_RANGE))
    defaults = NamespaceDefaults.from_limit_ranges([bare.get("limitrange", "defaults")])
    spec = parse_workload(case.manifest).spec
    pod = build_pod(
        workload_name="job",
        namespace="default",
        uid="0b821f4a-ee5f-46c9-a7eb-30d5fa0fadb4",
        spec=spec,
        customer="acme",
        attempt=1,
        index=0,
        worker="node-1",
        pool="pool",
        worker_gpu_resource="nvidia.com/gpu",
        epoch=1,
    )
    made = create(bare, pod)
    assert made["spec"]["nodeName"] == "node-1"
    counted = pod_requests(spec.template.spec, defaults)
    server = pod_requests(parse(PodSpec, _modelled(made["spec"])), NamespaceDefaults())
    server.pop("nvidia.com/gpu", None)  # injected, counted apart
    assert counted == server


def _modelled(spec: dict[str, Any]) -> dict[str, Any]:
    """The fields of a pod's spec that determine its requests."""
    return {key: spec[key] for key in ("containers", "initContainers", "resources") if key in spec}
