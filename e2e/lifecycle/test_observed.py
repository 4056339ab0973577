"""Observability of the operator: Events, the number of its writes, probes and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.conftest import QUICK, leads
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import Workloads, metric
from testing.waiting import until

pytestmark = pytest.mark.e2e

Nodes = Callable[..., list[str]]
COUNT = 50


def written(operator: OperatorProcess) -> dict[str, float]:
    """Number of successful requests by verb and resource."""
    text = operator.metrics()
    kinds = {
        "pod creates": ("create", "pods", "201"),
        "pod patches": ("patch", "pods", "200"),
        "pod deletes": ("delete", "pods", "200"),
        "status patches": ("patch", "workloads/status", "200"),
        "events": ("create", "events", "201"),
    }
    return {
        name: metric(text, "niyanta_kubernetes_request_seconds_count", verb=verb, resource=resource, code=code)
        for name, (verb, resource, code) in kinds.items()
    }


@pytest.fixture
def long_debounce(env: Environment, operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """An operator that debounces statuses for so long that all pods start within it, also on a busy machine."""
    operator.terminate()
    process = env.start_operator(extra_env={**QUICK, "NIYANTA_STATUS_DEBOUNCE": "4.0"})
    until(lambda: leads(process), what="it leads")
    yield process
    process.terminate()


def test_a_plain_workload_costs_few_writes(workloads: Workloads, nodes: Nodes, long_debounce: OperatorProcess) -> None:
    """One create, one finalizer patch, at most two status patches and one Event each, from applied to succeeded."""
    operator = long_debounce
    nodes(2)
    before = written(operator)
    uids = workloads.create(workloads.manifest(f"w{i:02}", life={"run_for": "8s"}) for i in range(COUNT))
    until(lambda: workloads.database.count(uids, "SUCCEEDED") == COUNT, what="all succeeded")
    for i in range(COUNT):
        workloads.wait(f"w{i:02}", "Succeeded")
    until(lambda: not any(p["metadata"].get("finalizers") for p in workloads.pods()), what="all pods are released")
    spent = {name: count - before[name] for name, count in written(operator).items()}
    print(f"\nwrites for {COUNT} workloads: {spent}")
    assert spent["pod creates"] == COUNT
    assert spent["pod patches"] == COUNT
    assert spent["pod deletes"] == 0
    assert spent["status patches"] <= 2 * COUNT
    assert spent["events"] <= COUNT


def test_events_of_a_workload_follow_its_transitions(workloads: Workloads, nodes: Nodes) -> None:
    """One Unschedulable although every cycle finds it so again; then Scheduled, Retrying, Failed."""
    uid = workloads.apply("story", cpu="2", backoffLimit=1, life={"run_for": "500ms", "exit_code": "9"})
    told = workloads.wait_event(uid, "Unschedulable")
    assert told["type"] == "Warning"
    nodes(3, cpu="1")  # too small: the message changes, and no Event follows
    workloads.wait_message("story", "Unschedulable", "0/3 workers")
    nodes(1, cpu="2")
    workloads.wait("story", "Failed")
    workloads.wait_event(uid, "Failed")
    reasons = [event["reason"] for event in sorted(workloads.events(uid), key=lambda event: str(event["eventTime"]))]
    assert reasons == ["Unschedulable", "Scheduled", "Retrying", "Scheduled", "Failed"]
    words = {event["reason"]: event["note"] for event in workloads.events(uid)}
    assert "exited with code 9" in words["Retrying"]
    assert "1 of 1 retries used" in words["Failed"]
    shown = workloads.cluster.kubectl("describe", "workloads.niyanta.io", "story", "-n", workloads.namespace)
    assert "Retrying" in shown


def test_probes_and_metrics_answer(operator: OperatorProcess) -> None:
    assert operator.http("/healthz") == (200, "ok\n")
    assert operator.http("/readyz") == (200, "ok\n")
    wanted = (
        "niyanta_leader",
        "niyanta_cycle_engine_seconds_count",
        "niyanta_cycle_phase_seconds_count",
        "niyanta_queue_depth",
        "niyanta_kubernetes_request_seconds_count",
        "niyanta_loop_stall_seconds_count",
        "niyanta_watch_events_total",
    )

    def missing() -> list[str]:
        status, text = operator.http("/metrics")
        assert status == 200
        return [name for name in wanted if f"\n{name}" not in text]

    until(lambda: not missing(), what="every metric has a sample")
