"""Without its admission policies no process takes leadership, and a leader at work goes on and says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.conftest import QUICK, leads
from testing.cluster.cluster import Cluster
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import Workloads, metric
from testing.waiting import until

pytestmark = pytest.mark.e2e

BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
BINDING = f"{BINDINGS}/niyanta-labels"


@pytest.fixture
def without_binding(cluster: Cluster, operator: OperatorProcess) -> Iterator[None]:
    """While an operator leads, the binding of a policy is deleted."""
    assert leads(operator)
    found = cluster.api.get(BINDING)
    cluster.api.delete(BINDING)
    yield
    if cluster.api.find(BINDING) is None:
        made = {**found, "metadata": {key: found["metadata"].get(key, {}) for key in ("name", "labels", "annotations")}}
        cluster.api.post(BINDINGS, made)


def test_the_next_leader_waits_for_the_policies(
    env: Environment, workloads: Workloads, operator: OperatorProcess, without_binding: None
) -> None:
    workloads.apply("unplaced", cpu="1")
    workloads.wait_message("unplaced", "Unschedulable")
    assert leads(operator), "a leader at work goes on"
    second = env.start_operator(extra_env=QUICK)
    operator.terminate()
    until(lambda: metric(second.metrics(), "niyanta_missing_policies") == 1, what="the candidate reports the policy")
    assert not leads(second)
    assert "not a candidate" in second.log_text()
    env.install()
    until(lambda: leads(second), what="the candidate leads once the policy is back")
