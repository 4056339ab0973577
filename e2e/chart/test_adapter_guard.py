"""Another metrics adapter keeps its registration when rendered manifests are applied, as tools for GitOps do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from e2e.chart.conftest import DSN, NAMESPACE, Renderer
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster, CommandError
from testing.waiting import until

pytestmark = pytest.mark.e2e

GROUP = "custom.metrics.k8s.io"
ALL = "/apis/apiregistration.k8s.io/v1/apiservices"
OURS = f"{ALL}/v1beta2.{GROUP}"


def foreign(version: str) -> JSON:
    """A registration as prometheus-adapter's, of a version of the group."""
    service = {"name": "prometheus-adapter", "namespace": "monitoring"}
    spec = {"group": GROUP, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100, "service": service}
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{GROUP}"},
        "spec": spec,
    }


@pytest.fixture
def rendered(renderer: Renderer, installed: Cluster) -> Iterator[JSON]:
    """The chart's APIService, which is not registered; the release has it again afterwards."""
    (manifest,) = [item for item in renderer.objects(DSN) if item["kind"] == "APIService"]
    # As helm has it: the release's owner, so that a later upgrade accepts it.
    helm = {"meta.helm.sh/release-name": "niyanta", "meta.helm.sh/release-namespace": NAMESPACE}
    manifest["metadata"]["annotations"] = helm
    installed.api.delete(OURS)
    until(lambda: installed.api.find(OURS) is None, what="the registration is gone")
    yield manifest
    for version in ("v1beta1", "v1beta2"):
        installed.kubectl("delete", "apiservice", f"{version}.{GROUP}", "--ignore-not-found")
    installed.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(manifest))


def force(cluster: Cluster, manifest: JSON) -> None:
    """Apply as Argo CD does with server-side apply."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=yaml.safe_dump(manifest))


def test_the_registration_of_another_server_is_not_replaced(installed: Cluster, rendered: JSON) -> None:
    other = installed.api.post(ALL, foreign("v1beta2"))
    with pytest.raises(CommandError, match="served by the Service monitoring/prometheus-adapter already"):
        force(installed, rendered)
    assert installed.api.get(OURS)["spec"]["service"] == other["spec"]["service"]
    # Its owner may change it, and when it is gone ours is registered.
    force(installed, {**foreign("v1beta2"), "spec": {**foreign("v1beta2")["spec"], "versionPriority": 101}})
    installed.api.delete(OURS)
    until(lambda: installed.api.find(OURS) is None, what="the other registration is gone")
    force(installed, rendered)
    assert installed.api.get(OURS)["spec"]["service"]["name"] == "niyanta-metrics-adapter"


def test_a_release_may_rename_its_service(installed: Cluster, rendered: JSON) -> None:
    former = {**rendered, "spec": {**rendered["spec"], "service": {**rendered["spec"]["service"], "name": "former"}}}
    force(installed, former)
    force(installed, rendered)
    assert installed.api.get(OURS)["spec"]["service"]["name"] == "niyanta-metrics-adapter"


def test_autoscalers_of_another_server_keep_reading_from_it(installed: Cluster, rendered: JSON) -> None:
    """They use the preferred version of the group."""

    def preferred() -> str:
        groups = installed.api.get("/apis")["groups"]
        found = [group["preferredVersion"]["version"] for group in groups if group["name"] == GROUP]
        return str(found[0]) if found else ""

    force(installed, rendered)
    until(lambda: preferred() == "v1beta2", what="ours is known")
    force(installed, foreign("v1beta1"))
    until(lambda: preferred() == "v1beta1", what="the other one is preferred")
