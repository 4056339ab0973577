"""A real `niyanta api` on an embedded Postgres, and the console script as a user runs it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml

from niyanta.lifecycle import Event
from niyanta.settings import Settings
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rows import CustomerRow
from niyanta.store.state import StateManager
from testing.processes.free_ports import free_port
from testing.processes.niyanta import OperatorProcess, clean_environment, niyanta_command
from testing.processes.postgres import Postgres
from testing.processes.run_directory import REPO, RunDir
from tests.store.make import change

T = TypeVar("T")
JSON = dict[str, Any]
_numbers = itertools.count()

TEMPLATE = yaml.safe_load((REPO / "examples" / "cpu-job.yaml").read_text())["spec"]["template"]


class Database:
    """The database of the REST door, with writes that a leader would make."""

    def __init__(self, dsn: str) -> None:
        self.settings = Settings(dsn=dsn, identity="test", db_pool_min=1)

    def run(self, work: Callable[[StateManager], Awaitable[T]]) -> T:
        async def do() -> T:
            async with await open_pool(self.settings) as pool:
                return await work(StateManager(pool, self.settings))

        return asyncio.run(do())

    def move(self, id_: str, *events: Event, **more: Any) -> None:
        """Apply transitions, as the leader does."""

        async def work(state: StateManager) -> None:
            for event in events:
                (row,) = await state.get_workloads([id_])
                result = await state.update_workload_status_batch([change(row, event, **more)], epoch=None)
                assert len(result.applied) == 1, result

        self.run(work)

    def customer(self, row: CustomerRow, role: Role = Role.CUSTOMER) -> str:
        """Add a Customer; returns an API key of it."""

        async def work(state: StateManager) -> str:
            await state.upsert_customers([row])
            return (await ApiKeys(state._pool).create(row.name, role))[1]

        return self.run(work)


@dataclass
class DoorProcess:
    """A `niyanta api` process."""

    url: str
    process: OperatorProcess
    database: Database


_AT_A_TERMINAL = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs a command with SIGINT as a terminal gives it: background jobs of a shell inherit an ignored one."""


@dataclass
class User:
    """A user at a shell: runs `niyanta` against the REST door with a customer's key."""

    door: DoorProcess
    customer: str
    namespace: str
    key: str
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **clean_environment(),
            "XDG_CONFIG_HOME": str(self.folder),
            "NIYANTA_API_URL": self.door.url,
            "NIYANTA_API_KEY": self.key,
            "COLUMNS": "200",
            **more,
        }

    def start(self, *args: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [niyanta_command(), *args],
            env=self.environment(**(env or {})),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def niyanta(self, *args: str, code: int = 0, stdin: str = "", env: dict[str, str] | None = None) -> tuple[str, str]:
        """Run `niyanta`; returns (stdout, stderr). The exit code must be `code`."""
        process = self.start(*args, env=env)
        out, err = process.communicate(stdin, timeout=90)
        assert process.returncode == code, (process.returncode, out, err)
        return out, err

    def at_a_terminal(self, *args: str, interrupt_at: str = "") -> tuple[int, str]:
        """Run `niyanta` on a terminal of 80 columns, with Ctrl-C once `interrupt_at` is shown; (exit code, output)."""
        ours, theirs = pty.openpty()
        environment = self.environment(COLUMNS="80", TERM="xterm-256color")
        process = subprocess.Popen(
            [sys.executable, "-c", _AT_A_TERMINAL, niyanta_command(), *args],
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        ending = threading.Timer(60, process.kill)
        ending.start()
        shown = b""
        with contextlib.suppress(OSError):  # the process has closed its end of the terminal
            while part := os.read(ours, 65_536):
                shown += part
                if interrupt_at and interrupt_at.encode() in shown:
                    interrupt_at = ""
                    process.send_signal(signal.SIGINT)
        ending.cancel()
        os.close(ours)
        code = process.wait(timeout=30)
        assert code != -signal.SIGKILL, f"did not end within a minute; shown: {shown.decode(errors='replace')[-2000:]}"
        return code, shown.decode(errors="replace")

    def json(self, *args: str, code: int = 0, stdin: str = "") -> Any:
        return json.loads(self.niyanta(*args, "-o", "json", code=code, stdin=stdin)[0])

    def manifest(self, name: str, **spec: Any) -> JSON:
        """A Workload manifest."""
        return {
            "apiVersion": "niyanta.io/v1alpha1",
            "kind": "Workload",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"template": TEMPLATE, **spec},
        }

    def file(self, *manifests: JSON) -> str:
        path = self.folder / f"{next(_numbers)}.yaml"
        path.write_text(yaml.safe_dump_all(manifests))
        return str(path)

    def submit(self, name: str, **spec: Any) -> str:
        """Submit a workload over plain HTTP; returns its id."""
        return str(self._http("POST", "", json=self.manifest(name, **spec))["id"])

    def phase(self, id_: str) -> str:
        return str(self._http("GET", f"/{id_}")["phase"])

    def ids(self) -> list[str]:
        return [item["id"] for item in self._http("GET", "")["items"]]

    def _http(self, method: str, path: str, **more: Any) -> JSON:
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = httpx.request(method, f"{self.door.url}/v1/workloads{path}", headers=headers, timeout=30, **more)
        assert answer.is_success, answer.text
        return dict(answer.json())


@pytest.fixture(scope="session")
def door(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorProcess]:
    run = RunDir.create("client")
    dsn = postgres.create_database("client", template="niyanta_template")
    port = free_port()
    process = OperatorProcess.start(
        run=run,
        identity="api-client",
        dsn=dsn,
        kubeconfig=None,
        subcommand=("api",),
        log=tmp_path_factory.mktemp("api") / "api.log",
        extra_env={"NIYANTA_API_PORT": str(port), "NIYANTA_API_HOST": "127.0.0.1"},
    )
    try:
        process.wait_ready()
        yield DoorProcess(f"http://127.0.0.1:{port}", process, Database(dsn))
    finally:
        process.terminate()
        run.destroy()


NewUser = Callable[..., User]


@pytest.fixture
def new_user(door: DoorProcess, tmp_path: Path) -> NewUser:
    def make(*, role: Role = Role.CUSTOMER, tier: str = "Standard", **limits: int) -> User:
        """A user of a new Customer."""
        number = next(_numbers)
        name, namespace = f"acme-{number}", f"team-{number}"
        row = CustomerRow(name=name, tier=tier, limits=limits, namespaces=(namespace,), generation=1)
        return User(door, name, namespace, door.database.customer(row, role), tmp_path)

    return make


@pytest.fixture
def user(new_user: NewUser) -> User:
    return new_user()
