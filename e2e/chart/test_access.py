"""Permissions: the operator may do what it needs and no more, and tenants may write their Workloads alone."""

from __future__ import annotations

import pytest

from e2e.chart.conftest import NAMESPACE, OPERATOR
from testing.cluster.cluster import Cluster
from testing.waiting import until

pytestmark = pytest.mark.e2e

WATCH = ("list", "watch")
READ = ("get", *WATCH)

ADAPTER = "v1beta2.custom.metrics.k8s.io"
OTHER_ADAPTER = "v1beta1.custom.metrics.k8s.io"
ADMISSION = "admissionregistration.k8s.io"

OPERATOR_MAY: list[tuple[str, str, str]] = [
    *((verb, "niyanta.io/workloads", "tenant") for verb in (*READ, "create", "delete")),
    ("patch", "niyanta.io/workloads/status", "tenant"),
    ("patch", "niyanta.io/customers/status", ""),
    ("get", "niyanta.io/customers", ""),
    *((verb, f"niyanta.io/{kind}", "") for kind in ("workerpools", "customers") for verb in WATCH),
    ("get", "niyanta.io/workerpools", NAMESPACE),
    *(("patch", f"niyanta.io/workerpools{part}", NAMESPACE) for part in ("", "/status")),
    *((verb, "pods", "tenant") for verb in (*READ, "create", "patch", "delete")),
    *((verb, resource, "") for verb in WATCH for resource in ("nodes", "namespaces", "node.k8s.io/runtimeclasses")),
    ("patch", "nodes", ""),
    *((verb, "limitranges", "tenant") for verb in WATCH),
    ("get", "apiextensions.k8s.io/customresourcedefinitions:workloads.niyanta.io", ""),
    *(("get", f"{ADMISSION}/validatingadmissionpolic{end}:niyanta-fence", "") for end in ("ies", "ybindings")),
    ("create", "events.k8s.io/events", "tenant"),
    *((verb, "configmaps:niyanta-fence", NAMESPACE) for verb in ("get", "patch")),
    ("create", "configmaps", NAMESPACE),
    *((verb, "secrets:niyanta-metrics-adapter-tls", NAMESPACE) for verb in ("get", "patch")),
    *((verb, f"apiregistration.k8s.io/apiservices:{ADAPTER}", "") for verb in ("get", "patch")),
    ("get", f"apiregistration.k8s.io/apiservices:{OTHER_ADAPTER}", ""),
    ("get", "configmaps:extension-apiserver-authentication", "kube-system"),
]

OPERATOR_MAY_NOT: list[tuple[str, str, str]] = [
    *((verb, "secrets", place) for verb in (*READ, "create") for place in ("tenant", NAMESPACE)),
    *(("create", f"pods/{part}", "tenant") for part in ("exec", "attach", "portforward", "binding", "eviction")),
    ("get", "pods/log", "tenant"),
    ("patch", "pods/status", "tenant"),
    ("patch", "pods/ephemeralcontainers", "tenant"),
    ("update", "pods", "tenant"),
    ("deletecollection", "pods", "tenant"),
    *((verb, "nodes", "") for verb in ("create", "update", "delete")),
    ("patch", "nodes/status", ""),
    *((verb, "namespaces", "") for verb in ("create", "patch", "delete")),
    *((verb, "niyanta.io/workloads", "tenant") for verb in ("update", "patch")),
    ("update", "niyanta.io/workloads/status", "tenant"),
    *((verb, "niyanta.io/workerpools", NAMESPACE) for verb in ("create", "update", "delete")),
    *(("patch", f"niyanta.io/workerpools{part}", "tenant") for part in ("", "/status", "/scale")),
    ("get", "niyanta.io/workerpools", "tenant"),
    *((verb, "niyanta.io/customers", "") for verb in ("create", "update", "patch", "delete")),
    ("update", "niyanta.io/customers/status", ""),
    *(("get", resource, "") for resource in ("nodes", "namespaces", "node.k8s.io/runtimeclasses")),
    *((verb, "apiextensions.k8s.io/customresourcedefinitions", "") for verb in READ),
    ("get", f"{ADMISSION}/validatingadmissionpolicies:another", ""),
    ("patch", "events.k8s.io/events", "tenant"),
    ("update", "configmaps:niyanta-fence", NAMESPACE),
    *((verb, "configmaps", place) for verb in READ for place in ("tenant", NAMESPACE)),
    ("create", "configmaps", "tenant"),
    ("delete", "configmaps:niyanta-fence", NAMESPACE),
    ("create", "serviceaccounts/token", NAMESPACE),
    *((verb, "secrets:niyanta-metrics-adapter-tls", NAMESPACE) for verb in ("update", "delete")),
    ("get", "secrets:niyanta-postgres", NAMESPACE),
    ("get", "secrets:niyanta-metrics-adapter-tls", "tenant"),
    *((verb, f"apiregistration.k8s.io/apiservices:{ADAPTER}", "") for verb in ("create", "update", "delete")),
    ("patch", f"apiregistration.k8s.io/apiservices:{OTHER_ADAPTER}", ""),
    *((verb, "apiregistration.k8s.io/apiservices:v1.apps", "") for verb in ("get", "patch")),
    ("get", "configmaps:kube-root-ca.crt", "kube-system"),
    ("create", "apps/deployments", "tenant"),
    ("create", "batch/jobs", "tenant"),
    ("patch", "apiextensions.k8s.io/customresourcedefinitions", ""),
    *((verb, f"{ADMISSION}/validatingadmissionpolicies", "") for verb in ("list", "create", "patch", "delete")),
    *((verb, "rbac.authorization.k8s.io/clusterroles", "") for verb in ("create", "bind", "escalate")),
    ("impersonate", "users", ""),
]

TENANT_MAY: list[tuple[str, str]] = [
    (verb, "niyanta.io/workloads") for verb in (*READ, "create", "update", "patch", "delete", "deletecollection")
]
TENANT_MAY_NOT: list[tuple[str, str]] = [
    *((verb, "niyanta.io/workloads/status") for verb in ("update", "patch")),
    *((verb, "niyanta.io/workerpools") for verb in ("create", "update", "patch", "delete")),
    *((verb, "niyanta.io/workerpools/scale") for verb in ("update", "patch")),
    *((verb, "niyanta.io/customers") for verb in ("create", "update", "patch", "delete")),
]


def may(cluster: Cluster, user: str, verb: str, target: str, namespace: str = "") -> bool:
    """True when `kubectl auth can-i --as user` says yes. `target` is [group/]resource[/subresource][:name]."""
    resource_path, _, name = target.partition(":")
    first, *rest = resource_path.split("/")
    group = first if "." in first or first in ("apps", "batch") else ""
    resource, *sub = rest if group else [first, *rest]
    attributes = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": sub[0] if sub else "",
        "name": name,
        "namespace": namespace,
    }
    answer = cluster.api.post(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {"spec": {"user": user, "groups": ["system:authenticated"], "resourceAttributes": attributes}},
    )
    return bool(answer["status"]["allowed"])


def bind(cluster: Cluster, user: str, role: str, probe: tuple[str, str], namespace: str = "") -> None:
    """Binds a role, and waits until the authorizer of the API server knows the binding: it then allows `probe`."""
    kind, place = ("rolebinding", ["-n", namespace]) if namespace else ("clusterrolebinding", [])
    cluster.kubectl("create", kind, user, f"--clusterrole={role}", f"--user={user}", *place)
    until(lambda: may(cluster, user, *probe, namespace), what=f"{user} may {' '.join(probe)}")


def test_the_operator_may_do_what_it_needs(installed: Cluster) -> None:
    refused = [case for case in OPERATOR_MAY if not may(installed, OPERATOR, *case)]
    assert refused == []


def test_the_operator_may_do_no_more(installed: Cluster) -> None:
    allowed = [case for case in OPERATOR_MAY_NOT if may(installed, OPERATOR, *case)]
    assert allowed == []


def test_the_rest_door_may_do_nothing(installed: Cluster) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:niyanta-api"
    allowed = [case for case in (*OPERATOR_MAY, *OPERATOR_MAY_NOT) if may(installed, account, *case)]
    assert allowed == []


def test_no_rule_of_the_operator_has_a_wildcard(installed: Cluster) -> None:
    for role in (
        installed.get("clusterrole", "niyanta-operator"),
        installed.get("role", "niyanta-operator", "-n", NAMESPACE),
    ):
        words = [word for rule in role["rules"] for part in ("verbs", "resources", "apiGroups") for word in rule[part]]
        assert not [word for word in words if "*" in word]


@pytest.mark.parametrize("role", ["edit", "admin", "niyanta-editor"])
def test_a_tenant_writes_workloads_and_no_other_kind_of_the_group(installed: Cluster, role: str) -> None:
    user = f"tenant-{role}"
    bind(installed, user, role, ("get", "niyanta.io/workloads"), "tenant")
    assert [case for case in TENANT_MAY if not may(installed, user, *case, "tenant")] == []
    assert [case for case in TENANT_MAY_NOT if may(installed, user, *case, "tenant")] == []
    assert not may(installed, user, "create", "niyanta.io/workloads", "default")


@pytest.mark.parametrize("role", ["view", "niyanta-viewer"])
def test_a_viewer_reads(installed: Cluster, role: str) -> None:
    user = f"viewer-{role}"
    bind(installed, user, role, ("get", "niyanta.io/workloads"), "tenant")
    assert all(may(installed, user, verb, "niyanta.io/workloads", "tenant") for verb in READ)
    for verb, what in (*TENANT_MAY, *TENANT_MAY_NOT):
        if verb not in READ:
            assert not may(installed, user, verb, what, "tenant"), (verb, what)


def test_an_administrator_writes_pools_and_customers_but_no_status(installed: Cluster) -> None:
    user = "platform"
    bind(installed, user, "niyanta-admin", ("get", "niyanta.io/workerpools"))
    for what in ("workerpools", "customers", "workloads"):
        assert may(installed, user, "create", f"niyanta.io/{what}", "")
        assert not may(installed, user, "patch", f"niyanta.io/{what}/status", "")
    assert may(installed, user, "patch", "niyanta.io/workerpools/scale", NAMESPACE)
