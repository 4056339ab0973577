"""Admins cordon, drain and uncordon a worker by the command line, which knows the REST door alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from testing.environment import Environment
from testing.processes.niyanta import clean_environment, niyanta_command
from testing.processes.rest_door import RestDoor
from testing.scenarios.workloads import OperatorDatabase, Workloads, node_names
from testing.waiting import until

pytestmark = pytest.mark.e2e

Command = Callable[..., str]


@pytest.fixture
def door(env: Environment, workloads: Workloads, unique: str) -> Iterator[RestDoor]:
    """A REST door, and the key of an admin."""
    database = OperatorDatabase(env.dsn)
    until(lambda: database.query("SELECT 1 FROM customers WHERE name = %(name)s", name=unique), what="the Customer")
    made = RestDoor(env, unique, role="admin")
    yield made
    made.close()


@pytest.fixture
def niyanta(door: RestDoor) -> Command:
    """Runs the command line as the admin; returns what it prints. The exit code must be `code`."""
    environment = {
        **clean_environment(),
        "NIYANTA_API_URL": f"http://127.0.0.1:{door.port}",
        "NIYANTA_API_KEY": door.key,
    }

    def run(*args: str, code: int = 0) -> str:
        command = [niyanta_command(), *args]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    return run


def test_a_worker_is_cordoned_drained_and_uncordoned(
    niyanta: Command, door: RestDoor, workloads: Workloads, nodes: Callable[..., list[str]], unique: str
) -> None:
    (node,) = nodes()

    def state() -> str:
        """The node's line in `niyanta workers`."""
        return next((line for line in niyanta("workers").splitlines() if line.startswith(node)), "")

    workloads.apply("runs")
    assert node_names(workloads.wait("runs", "Running")) == [node]
    until(lambda: "Ready" in state(), what="the door shows the worker")
    assert niyanta("cordon", node) == f"{node}: cordoned\n"
    assert workloads.cluster.api.get(f"/api/v1/nodes/{node}")["spec"]["unschedulable"] is True
    workloads.apply("waits")
    workloads.wait("waits", "Pending", reason="Unschedulable")
    until(lambda: "Cordoned" in state() and f"{unique}/" in state(), what="the door shows who cordoned the worker")

    shown = niyanta("drain", node, "--timeout", "5s", code=5)
    assert "1 workloads still run there" in shown
    assert "Draining" in state()
    assert workloads.wait("runs", "Running")["attempts"] == 1, "nothing is evicted"

    assert niyanta("uncordon", node) == f"{node}: uncordoned\n"
    workloads.wait("waits", "Running")
    until(lambda: "Ready" in state(), what="the door shows the worker as open")

    assert "drained; 2 workloads went back to the queue" in niyanta(
        "drain", node, "--evict-after", "0", "--timeout", "2m"
    )
    for name in ("runs", "waits"):
        workloads.wait(name, "Pending")
    niyanta("uncordon", node)
    for name in ("runs", "waits"):
        assert workloads.wait(name, "Running")["attempts"] == 2
    assert "there is no worker nowhere" in niyanta("cordon", "nowhere", code=3)
