"""Niyanta is removed by the commands of docs/uninstall.md, and nothing of it keeps an object or a namespace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import NODE_LABEL, QUICK, leads
from niyanta.resources.labels import OUTCOME_FINALIZER
from testing.cluster.cluster import Kind, NodeSpec
from testing.cluster.control_plane import which_kind
from testing.cluster.stages import RUN_FOR
from testing.environment import Environment
from testing.scenarios.page_commands import Reader, commands
from testing.scenarios.placement import POOLS
from testing.scenarios.workloads import GROUP, OperatorDatabase, Workloads, customer_manifest, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

NAME = "removed"
"""Name of the Customer, its namespace and the pool."""


@pytest.fixture
def env() -> Iterator[Environment]:
    """An environment of its own, because Niyanta is removed from it."""
    if which_kind() is Kind.EXISTING:
        pytest.skip("uninstalls Niyanta: needs a cluster of its own")
    with Environment.start("uninstall") as environment:
        yield environment


def test_the_page_removes_everything(env: Environment, tmp_path: Path) -> None:
    cluster = env.cluster
    cluster.create_namespace(NAME)
    cluster.create_nodes([NodeSpec("removed-0", labels={NODE_LABEL: NAME})])
    cluster.api.post(f"{GROUP}/customers", customer_manifest(NAME, NAME))
    cluster.api.post(POOLS, pool_manifest(NAME, env.namespace, {NODE_LABEL: NAME}))
    operator = env.start_operator(extra_env=QUICK)
    until(lambda: leads(operator), what="the operator leads")
    work = Workloads(cluster, OperatorDatabase(env.dsn), NAME, NAME)
    uids = work.apply_all(work.manifest("runs", replicas=2), work.manifest("ends"))
    for name in ("runs", "ends"):
        work.wait(name, "Running")
    operator.sigkill()
    (ended,) = work.pods(uids[1])
    path = f"/api/v1/namespaces/{NAME}/pods/{ended['metadata']['name']}"
    cluster.api.patch(path, {"metadata": {"annotations": {RUN_FOR: "1ms"}}})
    until(lambda: cluster.api.get(path)["status"]["phase"] == "Succeeded", what="a pod ends after the operator")
    assert all(OUTCOME_FINALIZER in pod["metadata"]["finalizers"] for pod in work.pods())

    reader = Reader(env, tmp_path)
    steps = commands("uninstall.md")
    assert [step.split()[0] for step in steps][:3] == ["helm", "niyanta", "kubectl"]
    assert "3 pods" in reader.run("niyanta release-finalizers --dry-run").output
    for step in steps:
        done = reader.run(step)
        assert done.code == 0, f"{step}: {done.output}"

    until(lambda: not work.pods(), what="the pods are gone", timeout=60)
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    assert not [kind for kind in kinds if kind.endswith(".niyanta.io")]
    everything = cluster.kubectl("get", ",".join(kinds), "-A", "-o", "jsonpath={.items[*].metadata.finalizers}")
    assert "niyanta.io" not in everything
    cluster.kubectl("delete", "namespace", NAME, env.namespace, "--timeout=90s")
