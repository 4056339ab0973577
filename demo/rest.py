"""The demo's second act: submissions by the REST door, with the commands that a user without kubectl types.

The commands are real: each one runs `niyanta` with the address of the door and an API key of customer acme.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from dataclasses import dataclass, field

import psycopg
import yaml
from rich.table import Table
from rich.text import Text

from demo.display import Display
from demo.examples import EXAMPLES, WORKLOADS
from testing.cluster.api_client import JSON
from testing.cluster.nodes import nodes_of_pool
from testing.cluster.stages import RUN_FOR
from testing.environment import Environment
from testing.processes.niyanta import clean_environment, niyanta_command
from testing.processes.rest_door import RestDoor, restricted
from testing.waiting import until

CUSTOMER = "acme"
COUNT = 28
"""Workloads of the batch. The workers that can take them have 20 slots, and 30 when one more has joined."""
RUN_SECONDS = 12
"""Run time of the batch: no slot becomes free while the act explains why one more workload waits."""
POOL = "cpu-eu"
"""The one pool whose workers have an SSD."""
REFUSED = 3
"""Exit code of a command that the server refused."""
HEADING = 18
"""Width of the first column of `niyanta explain`."""
FINISHED = """
SELECT count(*) FILTER (WHERE status = 'SUCCEEDED' AND attempt = 1), count(*)
  FROM workload_state JOIN workloads USING (id) WHERE workload_state.door = 'rest'
"""


def workload(name: str, run_seconds: int) -> JSON:
    """One pod that needs a worker with an SSD."""
    container = {"name": "main", "image": "busybox:1.37", "resources": {"requests": {"cpu": "1", "memory": "512Mi"}}}
    template = {"metadata": {"annotations": {RUN_FOR: f"{run_seconds}s"}}, "spec": {"containers": [container]}}
    hard = {"workerTags": {"disk": "ssd"}}
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"affinity": {"hard": hard}, "template": template},
    }


@dataclass
class RestAct:
    """`play` shows the act, `finish` waits for its batch; `wrong` lists afterwards what did not happen as it should."""

    env: Environment
    display: Display
    nodes_per_pool: int
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._folder = self.env.run.sub("rest-demo")
        self._door = RestDoor(self.env, CUSTOMER)

    def play(self, limit: float) -> None:
        self._refuse()
        self._submit_batch()
        self._explain()
        self._add_worker()
        self._wait(limit)

    def finish(self, limit: float) -> None:
        """Waits until the batch has finished, and counts."""
        with psycopg.connect(self.env.dsn, autocommit=True) as connection:

            def finished() -> int:
                row = connection.execute(FINISHED).fetchone()
                return int(row[0]) if row is not None and row[0] == row[1] else 0

            count = until(finished, what="every submission has succeeded at its first attempt", timeout=limit)
        self._door.close()
        self.display.print(f"{count} of {COUNT + 1} submissions by REST ran once.")

    def _refuse(self) -> None:
        manifest = restricted(workload("miner", 1))
        manifest["spec"]["template"]["spec"]["hostNetwork"] = True
        done = self._niyanta("submit", "-f", self._write("wrong.yaml", manifest))
        self.display.print(Text.from_ansi(done.stderr.rstrip()))
        if done.returncode != REFUSED:
            self.wrong.append(f"the wrong manifest ended with exit code {done.returncode}: {done.stderr}")

    def _submit_batch(self) -> None:
        batch = [restricted(workload(f"frame-{number}", RUN_SECONDS)) for number in range(1, COUNT + 1)]
        done = self._niyanta("submit", "-f", self._write("batch.yaml", *batch), "-o", "id")
        accepted = len(done.stdout.split())
        self.display.print(
            f"{accepted} workloads accepted in one request, as rows in Postgres. Those that are placed became objects: "
            f"{self._objects()}."
        )
        if accepted != COUNT:
            self.wrong.append(f"{accepted} of {COUNT} workloads were accepted: {done.stderr}")

    def _explain(self) -> None:
        """One more workload waits for a slot: the command says so, and what would let it start."""
        manifest = restricted(workload("report", 2))
        self._niyanta("submit", "-f", self._write("report.yaml", manifest), "-o", "id", shown=False)
        until(self._has_reasons, what="the leader has noted why it waits", timeout=30)
        done = self._niyanta("explain", "report")
        grid = Table.grid()
        grid.add_column(width=HEADING)
        grid.add_column(overflow="fold")
        for line in Text.from_ansi(done.stdout.rstrip()).split():
            grid.add_row(line[:HEADING], line[HEADING:])
        self.display.print(grid)
        for words in ("ahead", "in about", f"an empty worker of pool {POOL}"):
            if words not in done.stdout:
                self.wrong.append(f"`niyanta explain` does not say {words!r}: {done.stdout}{done.stderr}")

    def _has_reasons(self) -> bool:
        (found,) = self._door.get("/v1/workloads", name="report")["items"]
        explained = self._door.get(f"/v1/workloads/{found['id']}/explain")
        return bool(explained["reasons"]) or found["phase"] != "Pending"

    def _add_worker(self) -> None:
        pools = yaml.safe_load_all((EXAMPLES / "00-pools.yaml").read_text())
        pool = next(found for found in pools if found["metadata"]["name"] == POOL)
        node = nodes_of_pool(pool, self.nodes_per_pool + 1)[-1]
        self.env.cluster.create_nodes([node])
        self.display.print(f"A node joins the pool: {node.name}.")

    def _wait(self, limit: float) -> None:
        began = time.monotonic()
        done = self._niyanta("wait", "report", "--timeout", f"{limit:.0f}s")
        self.display.print(Text.from_ansi(done.stdout.rstrip()))
        self.display.print(f"Exit code {done.returncode} after {time.monotonic() - began:.1f} s.")
        if done.returncode != 0:
            self.wrong.append(f"report did not succeed: {done.stdout}{done.stderr}")

    def _objects(self) -> int:
        found = self.env.cluster.api.items(WORKLOADS)
        return sum("niyanta.io/rest-id" in item["metadata"].get("labels", {}) for item in found)

    def _write(self, name: str, *manifests: JSON) -> str:
        (self._folder / name).write_text(yaml.safe_dump_all(manifests))
        return name

    def _niyanta(self, *args: str, shown: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs one command as a user would, in colour."""
        if shown:
            self.display.print(Text(f"$ niyanta {shlex.join(args)}", style="bold"))
        door = {"NIYANTA_API_URL": str(self._door.client.base_url), "NIYANTA_API_KEY": self._door.key}
        return subprocess.run(
            [niyanta_command(), *args],
            cwd=self._folder,
            env={**clean_environment(), **door, "FORCE_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
