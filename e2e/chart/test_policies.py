"""The operator's own user may do only what placement and scaling need, and authors of Workloads may create pods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from e2e.chart.conftest import DSN, NAMESPACE, NODE, MakePod, Renderer, TokenApi
from e2e.chart.test_access import may
from testing.cluster.api_client import JSON, Api, ApiError
from testing.cluster.cluster import Cluster
from testing.processes.rest_door import RESTRICTED_SECURITY_CONTEXT
from testing.waiting import until

pytestmark = pytest.mark.e2e

FENCES = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
WORKLOADS = "/apis/niyanta.io/v1alpha1/namespaces/tenant/workloads"
NODES = "/api/v1/nodes"
RBAC = "rbac.authorization.k8s.io"
DRY = {"dryRun": "All"}
OFF = "off-limits"
"""A namespace without the label niyanta.io/enabled."""


@pytest.fixture(autouse=True, scope="module")
def prepared(installed: Cluster, as_operator: Api) -> Iterator[None]:
    """A fence that every pod of these tests passes, and a namespace without the label."""
    if installed.api.find(f"{FENCES}/niyanta-fence") is None:
        as_operator.post(FENCES, {"metadata": {"name": "niyanta-fence"}, "data": {"epoch": "1"}})
    installed.create_namespace(OFF, enabled=False)
    yield
    installed.delete_namespace(OFF, wait=False)


def refusal(api: Api, method: str, path: str, body: JSON | None = None, **options: Any) -> str:
    """The server's message about a dry run of the request; empty when it accepts it."""
    try:
        api.request(method, path, body, query=DRY, **options)
    except ApiError as error:
        return str(error)
    return ""


def pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def test_a_pod_of_a_workload_is_accepted(as_operator: Api, workload_pod: MakePod) -> None:
    assert refusal(as_operator, "POST", pods("tenant"), workload_pod("good")) == ""


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", NAMESPACE])
def test_no_pod_in_system_namespaces(
    installed: Cluster, as_operator: Api, workload_pod: MakePod, namespace: str
) -> None:
    """Also with the label, which an administrator may have set on all namespaces."""
    path = f"/api/v1/namespaces/{namespace}"
    installed.api.patch(path, {"metadata": {"labels": {"niyanta.io/enabled": "true"}}})
    pod = workload_pod("bad")
    pod["spec"]["containers"][0]["securityContext"] = RESTRICTED_SECURITY_CONTEXT
    try:
        found = refusal(as_operator, "POST", pods(namespace), pod)
        assert "403" in found
        assert "creates no pods in kube-*" in found
    finally:
        installed.api.patch(path, {"metadata": {"labels": {"niyanta.io/enabled": None}}})


@pytest.mark.parametrize("value", [None, "false", "yes"])
def test_no_pod_in_a_namespace_without_the_label(
    installed: Cluster, as_operator: Api, workload_pod: MakePod, value: str | None
) -> None:
    installed.api.patch(f"/api/v1/namespaces/{OFF}", {"metadata": {"labels": {"niyanta.io/enabled": value}}})
    command = f"kubectl label namespace {OFF} niyanta.io/enabled=true"
    until(lambda: command in refusal(as_operator, "POST", pods(OFF), workload_pod("bad")), what="the pod is refused")


def test_a_label_takes_effect_at_once(installed: Cluster, as_operator: Api, workload_pod: MakePod) -> None:
    installed.kubectl("label", "namespace", OFF, "niyanta.io/enabled=true", "--overwrite")
    until(lambda: not refusal(as_operator, "POST", pods(OFF), workload_pod("good")), what="the pod is accepted")


@pytest.mark.parametrize(
    "controller",
    [{"controller": False}, {"kind": "Pod", "apiVersion": "v1"}, {"apiVersion": "niyanta.io.example/v1"}],
)
def test_a_pod_needs_its_workload_as_controller(as_operator: Api, workload_pod: MakePod, controller: JSON) -> None:
    found = refusal(as_operator, "POST", pods("tenant"), workload_pod("bad", controller=controller))
    assert "needs a Workload as its controller" in found


@pytest.mark.parametrize("label", ["workload", "workload-uid", "customer", "attempt", "index", "pool", "epoch"])
def test_a_pod_needs_the_labels_of_its_workload(as_operator: Api, workload_pod: MakePod, label: str) -> None:
    assert "needs the label" in refusal(as_operator, "POST", pods("tenant"), workload_pod("bad", without=label))


def test_pods_of_others_are_neither_changed_nor_deleted(
    installed: Cluster, as_operator: Api, make_pod: MakePod, workload_pod: MakePod
) -> None:
    installed.api.post(pods("tenant"), make_pod("theirs"))
    as_operator.post(pods("tenant"), workload_pod("ours"))
    patch = {"metadata": {"finalizers": ["niyanta.io/outcome"]}}
    how = {"content_type": "application/merge-patch+json"}
    for name, words in (("theirs", "pods of workloads only"), ("ours", "")):
        assert words in refusal(as_operator, "PATCH", f"{pods('tenant')}/{name}", patch, **how)
        assert words in refusal(as_operator, "DELETE", f"{pods('tenant')}/{name}")
    assert not refusal(as_operator, "PATCH", f"{pods('tenant')}/ours", patch, **how)
    assert not refusal(as_operator, "DELETE", f"{pods('tenant')}/ours")
    installed.kubectl("delete", "pods", "ours", "theirs", "-n", "tenant", "--force", "--grace-period=0")


def test_others_are_not_limited(installed: Cluster, make_pod: MakePod) -> None:
    assert not refusal(installed.api, "POST", pods("kube-system"), make_pod("plain"))
    assert not refusal(installed.api, "POST", pods(OFF), make_pod("plain"))


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"unschedulable": True}},
        {"spec": {"unschedulable": True}, "metadata": {"annotations": {"niyanta.io/scale-down": "pool"}}},
        {"spec": {"unschedulable": None}, "metadata": {"annotations": {"niyanta.io/scale-down": None}}},
    ],
)
def test_nodes_are_cordoned(as_operator: Api, patch: JSON) -> None:
    path = f"{NODES}/{NODE}"
    assert refusal(as_operator, "PATCH", path, patch, content_type="application/merge-patch+json") == ""


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}, "unschedulable only"),
        ({"spec": {"providerID": "aws:///eu/i-1"}}, "unschedulable only"),
        ({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}, "unschedulable only"),
        ({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}, "changes no labels"),
        ({"metadata": {"labels": {"kubernetes.io/hostname": None}}}, "changes no labels"),
        ({"metadata": {"finalizers": ["example.com/hold"]}}, "changes no labels"),
        ({"metadata": {"annotations": {"niyanta.io/scale-down-disabled": "true"}}}, "scale-down only"),
        ({"metadata": {"annotations": {"example.com/a": "b"}}}, "scale-down only"),
        ({"metadata": {"annotations": {"kwok.x-k8s.io/node": None}}}, "scale-down only"),
    ],
)
def test_nothing_else_of_nodes_is_changed(as_operator: Api, patch: JSON, words: str) -> None:
    found = refusal(as_operator, "PATCH", f"{NODES}/{NODE}", patch, content_type="application/merge-patch+json")
    assert words in found
    assert "403" in found


def test_every_field_of_a_nodes_spec_is_compared(installed: Cluster) -> None:
    """A new field of a later Kubernetes must be added to the policy."""
    spec = installed.api.get("/openapi/v2")["definitions"]["io.k8s.api.core.v1.NodeSpec"]["properties"]
    policy = installed.get("validatingadmissionpolicy", "niyanta-operator")
    text = " ".join(rule["expression"] for rule in policy["spec"]["validations"])
    assert [field for field in spec if field != "unschedulable" and f"oldNode.spec.?{field}" not in text] == []


@contextmanager
def values_set(cluster: Cluster, renderer: Renderer, values: JSON) -> Iterator[None]:
    """The policies and permissions of the chart with these values; sooner than an upgrade, which waits for pods."""

    def apply(rendered: list[JSON]) -> None:
        chosen = [item for item in rendered if item["kind"] in ("ValidatingAdmissionPolicy", "ClusterRole")]
        # As helm, so that a later upgrade finds no fields of another manager.
        how = ("--server-side", "--force-conflicts", "--field-manager=helm")
        cluster.kubectl("apply", *how, "-f", "-", input=yaml.safe_dump_all(chosen))

    apply(renderer.objects({**DSN, **values}))
    yield
    apply(renderer.objects(DSN))


def test_simulated_nodes_only_with_their_value(installed: Cluster, renderer: Renderer, as_operator: Api) -> None:
    """With scaling.kwok.enabled the operator creates and deletes nodes, and only those that kwok simulates."""
    fake = {"metadata": {"name": "made", "annotations": {"kwok.x-k8s.io/node": "fake"}}}
    assert "403" in refusal(as_operator, "POST", NODES, fake)
    with values_set(installed, renderer, {"scaling": {"kwok": {"enabled": True}}}):
        until(lambda: not refusal(as_operator, "POST", NODES, fake), what="a simulated node is accepted")
        assert "simulated nodes only" in refusal(as_operator, "POST", NODES, {"metadata": {"name": "made"}})


class Author(TokenApi):
    """A user with a ServiceAccount's token who may create Workloads in the namespace `tenant`."""

    def __init__(self, cluster: Cluster, name: str, *roles: str) -> None:
        cluster.kubectl("create", "serviceaccount", name, "-n", "tenant")
        self.user = f"system:serviceaccount:tenant:{name}"
        for number, role in enumerate(roles):
            account = f"--serviceaccount=tenant:{name}"
            cluster.kubectl("create", "rolebinding", f"{name}-{number}", role, account, "-n", "tenant")
        until(lambda: may(cluster, self.user, "create", "niyanta.io/workloads", "tenant"), what=f"{name} may create")
        super().__init__(cluster.service_account_kubeconfig("tenant", name))

    def refusal_of(self, **pod: Any) -> str:
        container = {"name": "main", "image": "registry.invalid/none"}
        spec = {"template": {"spec": {"containers": [container], **pod}}}
        body = {"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "metadata": {"name": "w"}, "spec": spec}
        return refusal(self, "POST", WORKLOADS, body)


def test_an_author_without_permission_to_create_pods_is_refused(installed: Cluster) -> None:
    author = Author(installed, "workloads-only", "--clusterrole=niyanta-editor")
    found = author.refusal_of()
    assert "403" in found
    assert "niyanta-authors" in found


def test_an_author_with_the_role_edit_is_accepted(installed: Cluster) -> None:
    author = Author(installed, "editor", "--clusterrole=edit")
    assert author.refusal_of() == ""
    assert author.refusal_of(serviceAccountName="batch") == "", "the ServiceAccount is not checked by default"


def test_the_operator_creates_workloads_of_rest_submissions(as_operator: Api, owner: JSON) -> None:
    body = {"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "metadata": {"name": "w"}, "spec": owner["spec"]}
    assert refusal(as_operator, "POST", WORKLOADS, body) == ""


def test_an_author_must_be_allowed_to_use_the_service_account(installed: Cluster, renderer: Renderer) -> None:
    author = Author(installed, "user-of-batch", "--clusterrole=edit")
    refused = "to use its ServiceAccount"
    with values_set(installed, renderer, {"policies": {"authors": {"requireServiceAccountUse": True}}}):
        until(lambda: f"{refused} batch" in author.refusal_of(serviceAccountName="batch"), what="refused")
        assert f"{refused} old" in author.refusal_of(serviceAccount="old")
        assert author.refusal_of() == author.refusal_of(serviceAccountName="default") == ""
        rule = {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["batch"], "verbs": ["use"]}
        place = {"name": "use-batch", "namespace": "tenant"}
        installed.apply({"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": place, "rules": [rule]})
        subject = "--serviceaccount=tenant:user-of-batch"
        installed.kubectl("create", "rolebinding", "use-batch", "--role=use-batch", subject, "-n", "tenant")
        until(lambda: author.refusal_of(serviceAccountName="batch") == "", what="the author may use the account")
        assert f"{refused} other" in author.refusal_of(serviceAccountName="other")
