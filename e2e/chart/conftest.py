"""A cluster for the tests of the chart alone, because they install and uninstall the release."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.chart.openapi import LOCATION, write_schemas
from testing.cluster.api_client import JSON, Api
from testing.cluster.build import KUBERNETES_VERSION, ToolError, ensure_tools
from testing.cluster.cluster import Cluster, CommandError, Kind, NodeSpec
from testing.processes.run_directory import REPO
from testing.waiting import until

CHART = REPO / "charts" / "niyanta"
RELEASE = "niyanta"
NAMESPACE = "niyanta-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:niyanta-operator"
IMAGE = "registry.invalid/niyanta"
DSN = {"postgres": {"dsn": "postgresql://niyanta@db.example/niyanta"}, "image": {"repository": IMAGE}}
"""The values that every installation needs."""
NODE = "chart-0"


class Renderer:
    """`helm template` and `helm lint` with these values, and kubeconform on the rendered manifests.

    Only kubeconform needs a cluster, for its schemas.
    """

    def __init__(self, folder: Path, cluster: Callable[[], Cluster]) -> None:
        self._folder = folder
        self._cluster = cluster
        self._rendered: dict[str, str] = {}

    def template(self, values: JSON, *flags: str, release: str = RELEASE, namespace: str = NAMESPACE) -> str:
        key = json.dumps([values, flags, release, namespace], sort_keys=True)
        if key not in self._rendered:
            self._rendered[key] = self._helm(
                "template",
                release,
                str(CHART),
                *("--namespace", namespace),
                *("--kube-version", KUBERNETES_VERSION),
                *("--values", str(self._values(values))),
                *flags,
            )
        return self._rendered[key]

    def objects(self, values: JSON, *flags: str, **where: str) -> list[JSON]:
        # libyaml's loader: the chart with its CRDs takes Python's own almost a second.
        documents = yaml.load_all(self.template(values, *flags, **where), Loader=yaml.CSafeLoader)
        return [item for item in documents if item]

    def lint(self, values: JSON) -> None:
        self._helm("lint", "--strict", str(CHART), "--values", str(self._values(values)))

    def conform(self, manifests: str) -> JSON:
        """Summary of kubeconform; raises AssertionError with its findings when a manifest does not conform."""
        flags = ("-strict", "-summary", "-output", "json", "-schema-location", self._schemas)
        done = subprocess.run(
            [program("kubeconform"), *flags], input=manifests, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout)["summary"])

    @cached_property
    def _schemas(self) -> str:
        """Template of the schemas' paths; of the cluster's own version."""
        folder = self._folder / "schemas"
        folder.mkdir()
        assert write_schemas(self._cluster().api.get("/openapi/v2"), folder) > 100
        return f"{folder}/{LOCATION}"

    def _helm(self, *args: str) -> str:
        places = {f"HELM_{what}_HOME": str(self._folder / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [program("helm"), *args], capture_output=True, text=True, check=False, env={**os.environ, **places}
        )
        if done.returncode != 0:
            raise CommandError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def _values(self, values: JSON) -> Path:
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        return file


def program(name: str) -> str:
    """Path of helm or kubeconform; skips the test if it is missing."""
    try:
        return str(ensure_tools((name,)) / name)
    except ToolError:  # without Go, the cluster is kind's or an existing one
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found


@pytest.fixture(scope="package")
def chart_cluster() -> Iterator[Cluster]:
    with Cluster.create("chart") as cluster:
        yield cluster


@pytest.fixture(scope="package")
def renderer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer(tmp_path_factory.mktemp("chart"), lambda: request.getfixturevalue("chart_cluster"))


@pytest.fixture(scope="package")
def own_cluster(chart_cluster: Cluster) -> Cluster:
    """The cluster with two nodes and a namespace that accepts restricted pods alone; skips on an existing cluster."""
    if chart_cluster.kind is Kind.EXISTING:
        pytest.skip("installs and uninstalls the chart: needs a cluster of its own")
    chart_cluster.create_nodes([NodeSpec(NODE), NodeSpec("chart-1")])
    chart_cluster.create_namespace(
        NAMESPACE, labels={"pod-security.kubernetes.io/enforce": "restricted"}, enabled=False
    )
    chart_cluster.create_namespace("tenant")
    return chart_cluster


@pytest.fixture(scope="package")
def installed(own_cluster: Cluster) -> Cluster:
    """The cluster with the release installed with its defaults; its pods are simulated."""
    own_cluster.install_chart(RELEASE, CHART, namespace=NAMESPACE, values=DSN, timeout=120)
    policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    until(
        lambda: all("typeChecking" in item.get("status", {}) for item in own_cluster.api.items(policies)),
        what="the policies are type-checked",
    )
    return own_cluster


@pytest.fixture(scope="package")
def as_operator(installed: Cluster) -> Api:
    """Requests with the token of the chart's ServiceAccount."""
    return TokenApi(installed.service_account_kubeconfig(NAMESPACE, "niyanta-operator"))


class TokenApi(Api):
    """Sends the token of the kubeconfig, under whichever key the client library stores it."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig)
        (user,) = yaml.safe_load(kubeconfig.read_text())["users"]
        self._headers["Authorization"] = f"Bearer {user['user']['token']}"


MakePod = Callable[..., JSON]


@pytest.fixture(scope="session")
def make_pod() -> MakePod:
    def make(name: str, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> JSON:
        """A pod that is bound to a node at creation, like those of the operator."""
        meta: dict[str, Any] = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
        spec = {"nodeName": NODE, "containers": [{"name": "main", "image": "registry.invalid/none"}]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}

    return make


@pytest.fixture(scope="package")
def owner(installed: Cluster) -> JSON:
    """A Workload in the namespace `tenant`, which no operator places: the pods of these tests are simulated."""
    container = {"name": "main", "image": "registry.invalid/none"}
    manifest = {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": "owner"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    return installed.api.post("/apis/niyanta.io/v1alpha1/namespaces/tenant/workloads", manifest)


@pytest.fixture(scope="package")
def workload_pod(make_pod: MakePod, owner: JSON) -> MakePod:
    """Pods as the operator creates them: with the Workload as controller, and with all of its labels."""
    name, uid = owner["metadata"]["name"], owner["metadata"]["uid"]
    own = {"workload": name, "workload-uid": uid, "customer": "acme", "attempt": "1", "index": "0", "pool": "all"}

    def make(
        pod: str,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        *,
        without: str = "",
        controller: JSON | None = None,
    ) -> JSON:
        """`labels` are added, the label niyanta.io/`without` is left out, `controller` changes the owner."""
        ours = {f"niyanta.io/{key}": value for key, value in {**own, "epoch": "9" * 9}.items() if key != without}
        made = make_pod(pod, {**ours, **(labels or {})}, annotations)
        reference = {"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "name": name, "uid": uid}
        made["metadata"]["ownerReferences"] = [{**reference, "controller": True, **(controller or {})}]
        return made

    return make
