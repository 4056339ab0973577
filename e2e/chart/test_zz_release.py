"""A release on a real control plane: installed, upgraded, beside a second one, uninstalled.

It runs last, because it uninstalls the release that the other modules of this folder share.
"""

from __future__ import annotations

import json

import pytest
import yaml

from e2e.chart.conftest import CHART, DSN, IMAGE, NAMESPACE, RELEASE, MakePod
from testing.cluster.api_client import Api
from testing.cluster.cluster import Cluster, CommandError
from testing.processes.run_directory import REPO
from testing.waiting import until

pytestmark = pytest.mark.e2e

EXAMPLES = sorted((REPO / "examples").glob("*.yaml"))
DEFINITIONS = {f"{name}.niyanta.io" for name in ("workloads", "workerpools", "customers")}


def of_release(cluster: Cluster, release: str) -> set[str]:
    """All objects in the cluster with the release's label, as kind/name."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    label = f"app.kubernetes.io/instance={release}"
    return set(cluster.kubectl("get", ",".join(kinds), "-A", "-l", label, "-o", "name").split())


def test_the_pods_come_up_under_the_restricted_standard(installed: Cluster) -> None:
    deployment = installed.get("deployment", "niyanta-operator", "-n", NAMESPACE)
    assert deployment["status"]["readyReplicas"] == 2
    budget = installed.get("poddisruptionbudget", "niyanta-operator", "-n", NAMESPACE)
    assert budget["status"]["disruptionsAllowed"] == 1
    slices = installed.get("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=niyanta-metrics")
    assert sum(len(item["endpoints"]) for item in slices["items"]) == 2


def test_the_pods_of_the_rest_door_carry_no_token(installed: Cluster) -> None:
    assert installed.get("deployment", "niyanta-api", "-n", NAMESPACE)["status"]["readyReplicas"] == 2
    pods = installed.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=api")["items"]
    assert len(pods) == 2
    for pod in pods:
        assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["tmp"]
    slices = installed.get("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=niyanta-api")
    assert sum(len(item["endpoints"]) for item in slices["items"]) == 2


def test_the_notes_have_the_commands_for_a_first_tenant(installed: Cluster) -> None:
    notes = installed.helm("get", "notes", RELEASE, "--namespace", NAMESPACE)
    assert "kubectl label namespace team-a niyanta.io/enabled=true" in notes
    assert "kind: Customer" in notes
    assert "niyanta apikey create --customer acme" in notes


def test_the_policies_have_no_type_warnings(installed: Cluster) -> None:
    for name in ("niyanta-fence", "niyanta-labels", "niyanta-operator", "niyanta-authors"):
        assert installed.get("validatingadmissionpolicy", name)["status"]["typeChecking"] == {}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_unchanged(installed: Cluster, file: object) -> None:
    for team in ("team-a", "team-b"):
        installed.kubectl("apply", "-f", str(REPO / "examples" / "00-namespaces.yaml"))
        assert installed.api.find(f"/api/v1/namespaces/{team}")
    before = installed.kubectl("apply", "--server-side", "--validate=strict", "-f", str(file))
    assert "serverside-applied" in before


@pytest.mark.parametrize("file", [path for path in EXAMPLES if path.stem[0] != "0"], ids=lambda path: path.stem)
def test_the_pods_of_an_example_meet_the_restricted_standard(installed: Cluster, file: object) -> None:
    for item in yaml.safe_load_all((REPO / "examples" / str(file)).read_text()):
        pod = {
            "metadata": {"generateName": "example-"},
            "spec": {**item["spec"]["template"]["spec"], "restartPolicy": "Never"},
        }
        path = f"/api/v1/namespaces/{item['metadata']['namespace']}/pods"
        installed.api.request("POST", path, pod, query={"dryRun": "All"})


def test_an_upgrade_keeps_the_fence(installed: Cluster, as_operator: Api) -> None:
    fences = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    if installed.api.find(f"{fences}/niyanta-fence") is None:
        as_operator.post(fences, {"metadata": {"name": "niyanta-fence"}, "data": {"epoch": "1"}})
    as_operator.patch(f"{fences}/niyanta-fence", {"data": {"epoch": "41"}})
    values = {**DSN, "settings": {"logLevel": "DEBUG"}}
    installed.install_chart(RELEASE, CHART, namespace=NAMESPACE, values=values, timeout=120)
    assert installed.api.get(f"{fences}/niyanta-fence")["data"] == {"epoch": "41"}
    pod = installed.get("deployment", "niyanta-operator", "-n", NAMESPACE)["spec"]["template"]["spec"]
    assert {"name": "NIYANTA_LOG_LEVEL", "value": "DEBUG"} in pod["containers"][0]["env"]


def test_a_second_fence_is_refused(installed: Cluster) -> None:
    with pytest.raises(CommandError, match="niyanta-fence"):
        installed.helm(
            *("install", "second", str(CHART), "--namespace", "tenant"),
            *("--set", f"postgres.dsn=postgresql://x,image.repository={IMAGE},crds.enabled=false,operator.replicas=0"),
        )
    installed.uninstall_chart("second", namespace="tenant")


def test_a_second_release_without_definitions_and_fence_leaves_the_first_alone(installed: Cluster) -> None:
    before = of_release(installed, RELEASE)
    values = {**DSN, "crds": {"enabled": False}, "fence": {"enabled": False}, "operator": {"replicas": 1}}
    with pytest.raises(CommandError, match=r'"v1beta2\.custom\.metrics\.k8s\.io" .* cannot be imported'):
        installed.install_chart("second", CHART, namespace="tenant", values=values, timeout=120)
    values["metricsAdapter"] = {"enabled": False}
    installed.install_chart("second", CHART, namespace="tenant", values=values, timeout=120)
    assert "deployment.apps/second-niyanta-operator" in of_release(installed, "second")
    installed.uninstall_chart("second", namespace="tenant")
    until(lambda: of_release(installed, "second") == set(), what="nothing of the second release is left")
    assert of_release(installed, RELEASE) >= {name for name in before if not name.startswith(("pod/", "endpoint"))}


def test_uninstalling_leaves_the_definitions_and_objects_of_users(
    installed: Cluster, make_pod: MakePod, as_operator: Api
) -> None:
    pod = make_pod("forged", {"niyanta.io/epoch": "0"})
    workloads = len(installed.get("workloads.niyanta.io", "-A")["items"])
    assert workloads > 0
    installed.uninstall_chart(RELEASE, namespace=NAMESPACE)
    until(lambda: of_release(installed, RELEASE) == set(), what="nothing of the release is left")
    crds = installed.get("customresourcedefinitions")["items"]
    assert {item["metadata"]["name"] for item in crds} >= DEFINITIONS
    assert len(installed.get("workloads.niyanta.io", "-A")["items"]) == workloads
    assert json.loads(installed.helm("list", "-A", "-o", "json")) == []
    # The policies are gone too: the API server accepts the pod that they refused.
    until(
        lambda: installed.api.request("POST", "/api/v1/namespaces/tenant/pods", pod, query={"dryRun": "All"}),
        what="the fence is gone",
        tolerate=True,
    )


def test_the_chart_installs_again_over_the_remaining_objects(own_cluster: Cluster) -> None:
    own_cluster.install_chart(RELEASE, CHART, namespace=NAMESPACE, values=DSN, timeout=120)
    own_cluster.uninstall_chart(RELEASE, namespace=NAMESPACE)
