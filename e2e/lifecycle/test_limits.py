"""Limits of a Customer through kubectl: workloads beyond a limit wait with a reason, and run when there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.environment import Environment
from testing.scenarios.workloads import GROUP, Workloads
from testing.waiting import until

pytestmark = pytest.mark.e2e

MakeNodes = Callable[..., list[str]]


def limit(workloads: Workloads, customer: str, **spec: Any) -> None:
    """Changes the Customer's spec."""
    workloads.cluster.api.patch(f"{GROUP}/customers/{customer}", {"spec": spec})


def phases(workloads: Workloads) -> dict[str, str]:
    """Phases of all workloads of the test, by name."""
    return {o["metadata"]["name"]: (o.get("status") or {}).get("phase", "") for o in workloads.all()}


def test_workloads_beyond_max_concurrent_wait_with_a_reason(
    workloads: Workloads, nodes: MakeNodes, unique: str
) -> None:
    nodes()
    limit(workloads, unique, maxConcurrent=2)
    names = [f"w{number}" for number in range(4)]
    # The edit of the Customer is known once a workload is refused for it; until then they all wait for a worker.
    workloads.apply_all(*(workloads.manifest(name, suspend=True) for name in names))
    for name in names:
        workloads.wait(name, "Suspended")
        workloads.edit(name, suspend=False)
    until(lambda: list(phases(workloads).values()).count("Running") == 2, what="two run")
    # Statuses are written after the transitions that they show.
    until(lambda: sorted(phases(workloads).values()) == ["Pending"] * 2 + ["Running"] * 2, what="the rest wait")
    waiting = [name for name, phase in phases(workloads).items() if phase == "Pending"]
    for name in waiting:
        said = workloads.wait_message(name, "ConcurrencyLimit")
        assert "2" in said["message"]
    running = next(name for name, phase in phases(workloads).items() if phase == "Running")
    workloads.delete(running)
    until(lambda: list(phases(workloads).values()).count("Running") == 2, what="the next one runs")
    limit(workloads, unique, maxConcurrent=None)
    until(lambda: set(phases(workloads).values()) == {"Running"}, what="without a limit all run")


def test_manifests_beyond_max_queue_depth_are_held_and_released_in_queue_order(
    env: Environment, workloads: Workloads, nodes: MakeNodes, unique: str
) -> None:
    limit(workloads, unique, maxQueueDepth=2)
    until(
        lambda: workloads.database.query(
            "SELECT 1 FROM customers WHERE name = %(name)s AND (limits->>'maxQueueDepth')::int = 2", name=unique
        ),
        what="the leader knows the limit",
        timeout=60,
    )
    for name in ("first", "second"):
        workloads.apply(name)
        workloads.wait(name, "Pending")
    workloads.apply("low", priority=1)
    held = workloads.wait("low", "Held")
    assert held["reason"] == "QueueFull"
    assert "maxQueueDepth" in held["message"]
    workloads.apply("high", priority=90)
    workloads.wait("high", "Held")
    workloads.wait_event(workloads.uid("high"), "Held")
    workloads.delete("first")
    workloads.wait("high", "Pending")
    assert phases(workloads)["low"] == "Held"
    nodes()
    for name in ("second", "high", "low"):
        workloads.wait(name, "Running")


def test_a_pools_status_counts_the_workloads_that_wait_for_it(
    env: Environment, workloads: Workloads, nodes: MakeNodes, unique: str
) -> None:
    nodes(1, cpu="1")
    for number in range(3):
        workloads.apply(f"w{number}", cpu="1")
    path = f"{GROUP}/namespaces/{env.namespace}/workerpools/{unique}"

    def counted() -> bool:
        status = workloads.cluster.api.get(path).get("status") or {}
        return (status.get("queueDepth"), status.get("runningWorkloads")) == (2, 1)

    until(counted, what="two wait and one runs")
