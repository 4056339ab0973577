"""Pools with zero workers are explained, counted and sized by the worker shape that they declare or last had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.conftest import NODE_LABEL, QUICK, leads
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import GROUP, OperatorDatabase, Workloads, customer_manifest, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

Nodes = Callable[..., list[str]]
SHAPE = {"allocatable": {"cpu": "8", "memory": "32Gi", "pods": "20", "nvidia.com/gpu": 4}}
GPU = {"model": "A100", "count": 4}


@pytest.fixture
def pool(env: Environment, unique: str) -> Iterator[Callable[..., str]]:
    """`pool("a", **spec)` makes a WorkerPool; its nodes are those of the test with the label `pool` of that value."""
    made: list[str] = []
    path = f"{GROUP}/namespaces/{env.namespace}/workerpools"

    def make(name: str, **spec: Any) -> str:
        full = f"{unique}-{name}"
        env.cluster.api.post(path, pool_manifest(full, env.namespace, {NODE_LABEL: unique, "pool": name}, **spec))
        made.append(full)
        return full

    yield make
    for full in made:
        env.cluster.api.delete(f"{path}/{full}")


@pytest.fixture
def work(env: Environment, operator: OperatorProcess, namespace: str, unique: str) -> Iterator[Workloads]:
    """Workloads of this test, with a Customer and without a pool."""
    customers = f"{GROUP}/customers"
    env.cluster.api.post(customers, customer_manifest(unique, namespace))
    yield Workloads(env.cluster, OperatorDatabase(env.dsn), namespace, unique)
    env.cluster.api.delete(f"{customers}/{unique}")


def figures(database: OperatorDatabase, pool: str) -> dict[str, Any] | None:
    """Statistics of a pool in Postgres; None when they are missing, or older than the 5 s that adapters accept."""
    (row,) = database.query("SELECT figures, clock_timestamp() - updated_at < '5 s' AS young FROM leader_figures")
    found = [item for item in row["figures"].get("pools", []) if item["pool"] == pool]
    return found[0] if found and row["young"] else None


def counted(database: OperatorDatabase, pool: str, **expected: Any) -> dict[str, Any]:
    """Waits until the pool's statistics have these values; returns all of them."""

    def right() -> dict[str, Any] | None:
        found = figures(database, pool)
        return found if found and all(found[name] == value for name, value in expected.items()) else None

    try:
        return until(right, what=f"figures of {pool} are {expected}", timeout=60)
    except AssertionError as error:
        raise AssertionError(f"{error}; they are {figures(database, pool)}") from None


def test_the_first_of_two_equal_pools_at_zero_gets_all_demand(work: Workloads, pool: Callable[..., str]) -> None:
    growing = {"provider": {"kwok": {}}, "replicas": 0, "workerShape": SHAPE, "gpu": GPU}
    first, second = pool("a", **growing), pool("b", **growing)
    asked = {"gpu": {"models": ["A100"], "count": 2}, "hard": {"pools": [first, second]}}
    uids = [work.apply(f"w{number}", cpu="1", **asked) for number in range(5)]

    status = work.wait_message("w0", "Unschedulable", f"would fit on an empty worker of pool {first}")
    told = work.wait_event(uids[0], "Unschedulable")

    assert f"; would fit on an empty worker of pool {first}" in status["message"]
    assert "would fit on an empty worker of pool" in told["note"]
    counted(work.database, first, workers=0, queued_workloads=5, queued_slots=5, workers_needed=3)
    counted(work.database, second, workers=0, queued_workloads=0, queued_slots=0, workers_needed=0)
    reasons = work.database.query("SELECT reasons FROM workload_state WHERE id = %(id)s", id=uids[0])[0]["reasons"]
    assert {"fitsPool": {"pool": first, "atMaximum": None}} in reasons


def test_demand_beyond_the_maximum_of_a_pool_counts_for_the_next(work: Workloads, pool: Callable[..., str]) -> None:
    growing = {"provider": {"kwok": {}}, "replicas": 0, "workerShape": SHAPE}
    first = pool("a", maxReplicas=1, **growing)
    second = pool("b", maxReplicas=1, **growing)
    asked = {"hard": {"pools": [first, second]}}
    for number in range(3):
        work.apply(f"w{number}", cpu="8", **asked)

    counted(work.database, first, workers_needed=1, queued_workloads=2)
    counted(work.database, second, workers_needed=1, queued_workloads=1)
    work.wait_message("w2", "Unschedulable", f"empty worker of pool {first}, which is at its maximum of 1 worker")
    work.apply("huge", cpu="9", **asked)
    work.wait_message("huge", "Unschedulable", "comes closest: have less than 9 cpu")


def test_the_shape_of_the_last_worker_outlives_it_and_the_operator(
    env: Environment, operator: OperatorProcess, work: Workloads, pool: Callable[..., str], nodes: Nodes
) -> None:
    """The pool declares no shape, so that of its last worker is used; Postgres stores it."""
    seen = pool("a", maxReplicas=9)
    (node,) = nodes(1, cpu="4", labels={"pool": "a"})
    remembered = "SELECT shape FROM pools WHERE name = %(name)s AND shape IS NOT NULL"
    until(lambda: work.database.query(remembered, name=seen), what="its shape is remembered", timeout=60)
    counted(work.database, seen, workers=1)

    operator.terminate()
    env.cluster.delete_nodes([node])
    again = env.start_operator(extra_env=QUICK)
    until(lambda: leads(again), what="a new operator leads", timeout=60)
    for number in range(3):
        work.apply(f"w{number}", cpu="2", hard={"pools": [seen]})

    found = counted(work.database, seen, workers_needed=2, queued_workloads=3)
    assert found["workers_in_use"] == 0
