"""Fixtures of the end-to-end tests: one environment for the whole run, and a namespace and nodes of each test's own."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testing.cluster.cluster import Cluster, NodeSpec
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.placement import TEST_LABEL, PlacementScenario
from testing.scenarios.workloads import GROUP, OperatorDatabase, Workloads, customer_manifest, metric, pool_manifest
from testing.waiting import until

NODE_LABEL = TEST_LABEL
"""On every node of a test, with the test's own value: select by it and no other test's nodes are seen."""

QUICK = {
    "NIYANTA_POOL_STATUS_INTERVAL": "0.5",
    "NIYANTA_SCALING_INTERVAL": "1",
    "NIYANTA_STATUS_DEBOUNCE": "0.3",
    "NIYANTA_RETRY_BACKOFF": "0.5",
    "NIYANTA_NODE_LOSS_GRACE": "5",
    "NIYANTA_KUBELET_REJECTION_EXCLUSION": "4",
}
"""Statuses are what tests wait on: have them sooner than production wants them. And shorter waits."""


def leads(process: OperatorProcess) -> bool:
    """True when it is the leader."""
    return metric(process.metrics(), "niyanta_leader") == 1


LONGEST_FIRST = (
    "chart",
    "placement/test_openb",
    "scaling/test_scaling",
    "scaling/test_scaler.py",
    "scaling/test_adapter",
    "observability",
    "faults",
)
"""The tests that take longest, in the order in which they begin when control planes run side by side."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest tests begin first."""

    def rank(item: pytest.Item) -> int:
        places = (number for number, name in enumerate(LONGEST_FIRST) if item.nodeid.startswith(f"e2e/{name}"))
        return next(places, len(LONGEST_FIRST))

    places = [number for number, item in enumerate(items) if item.nodeid.startswith("e2e/")]
    ordered = sorted((items[number] for number in places), key=rank)
    for number, item in zip(places, ordered, strict=True):
        items[number] = item


@pytest.fixture(scope="session")
def env() -> Iterator[Environment]:
    """Cluster, Postgres and chart, shared by the whole run. No operator runs yet: `operator` starts one."""
    with Environment.start("e2e") as environment:
        yield environment


@pytest.fixture
def cluster(env: Environment) -> Cluster:
    return env.cluster


@pytest.fixture
def operator(env: Environment) -> OperatorProcess:
    """The one operator that runs and leads: others that a test left are ended, a new one is started if need be."""
    running = [process for process in env.operators if process.running and not process.identity.startswith("api")]
    chosen = next((process for process in running if process.http("/readyz")[0] == 200 and leads(process)), None)
    for process in running:
        if process is not chosen:
            process.terminate(timeout=60)
    if chosen is None:
        chosen = env.start_operator(extra_env=QUICK)
    until(lambda: leads(chosen), what="the operator leads", timeout=60)
    return chosen


@pytest.fixture
def unique() -> str:
    """A short name of this test's own, fit for labels and names of objects."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def namespace(cluster: Cluster, unique: str) -> Iterator[str]:
    """A fresh namespace, gone after the test with everything in it."""
    cluster.create_namespace(unique)
    yield unique
    cluster.delete_namespace(unique, wait=False)


@pytest.fixture
def nodes(cluster: Cluster, unique: str) -> Iterator[Callable[..., list[str]]]:
    """`nodes(3, cpu="4", labels={...})` makes nodes that are Ready on return; all are gone after the test.

    Takes the fields of `NodeSpec`. Each node carries NODE_LABEL with the value of `unique`.
    """
    made: list[str] = []
    numbers = itertools.count()

    def make(count: int = 1, **fields: Any) -> list[str]:
        labels = {NODE_LABEL: unique, **fields.pop("labels", {})}
        specs = [NodeSpec(f"{unique}-{next(numbers)}", labels=labels, **fields) for _ in range(count)]
        made.extend(spec.name for spec in specs)
        return cluster.create_nodes(specs)

    yield make
    cluster.delete_nodes(made)


@pytest.fixture
def workloads(
    env: Environment, cluster: Cluster, operator: OperatorProcess, namespace: str, unique: str
) -> Iterator[Workloads]:
    """Workloads of this test with an operator running; a Customer for its namespace and a WorkerPool of its nodes, both
    named like the namespace."""
    pools, customers = f"{GROUP}/namespaces/{env.namespace}/workerpools", f"{GROUP}/customers"
    cluster.api.post(customers, customer_manifest(unique, namespace))
    cluster.api.post(pools, pool_manifest(unique, env.namespace, {NODE_LABEL: unique}))
    yield Workloads(cluster, OperatorDatabase(env.dsn), namespace, unique)
    cluster.api.delete(f"{pools}/{unique}")
    cluster.api.delete(f"{customers}/{unique}")


@pytest.fixture
def scenario(cluster: Cluster, operator: OperatorProcess, namespace: str, unique: str) -> Iterator[PlacementScenario]:
    """Pools, nodes and Workloads of a placement test, with an operator running and a Customer for the namespace."""
    made = PlacementScenario(cluster, namespace, unique)
    made.add_customer("customer", allowClusterScope=True)
    yield made
    made.close()
