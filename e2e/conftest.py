"""Fixtures of the end-to-end tests: one environment for the whole run, and a namespace and nodes of each test's own."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.harness.cluster import Cluster, NodeSpec
from e2e.harness.environment import Environment
from e2e.harness.process import OperatorProcess

NODE_LABEL = "e2e.niyanta.io/test"
"""On every node of a test, with the test's own value: select by it and no other test's nodes are seen."""


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
    """An operator that runs: the one there is, or a new one where a test ended it."""
    for process in env.operators:
        if process.running and process.http("/readyz")[0] == 200:
            return process
    return env.start_operator()


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
