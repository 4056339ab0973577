"""The demo's second act: submissions by the REST door, with the commands that a user without kubectl types.

The commands are real: each one runs `niyanta` with the address of the door and an API key of customer acme.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
import yaml
from rich.table import Table
from rich.text import Text

from demo.display import Display
from demo.examples import WORKLOADS
from testing.cluster.api_client import JSON
from testing.cluster.stages import RUN_FOR
from testing.environment import Environment
from testing.processes.niyanta import clean_environment, niyanta_command
from testing.processes.rest_door import RestDoor, restricted
from testing.waiting import until

CUSTOMER = "acme"
COUNT = 120
"""Workloads of the batch: six times the slots of the workers that take them."""
REFUSED = 3
"""Exit code of a command that the server refused."""
HEADING = 18
"""Width of the first column of `niyanta explain`."""
FINISHED = """
SELECT count(*) FILTER (WHERE status = 'SUCCEEDED' AND attempt = 1), count(*)
  FROM workload_state JOIN workloads USING (id) WHERE door = 'rest'
"""


def workload(name: str, **spec: Any) -> JSON:
    """One pod that runs for a second on a worker with an SSD."""
    container = {"name": "main", "image": "busybox:1.37", "resources": {"requests": {"cpu": "1", "memory": "512Mi"}}}
    template = {"metadata": {"annotations": {RUN_FOR: "1s"}}, "spec": {"containers": [container]}}
    hard = {"workerTags": {"disk": "ssd"}}
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"affinity": {"hard": hard}, "template": template, **spec},
    }


@dataclass
class RestAct:
    """`play` shows the act; `wrong` lists afterwards what did not happen as it should."""

    env: Environment
    display: Display
    wrong: list[str] = field(default_factory=list)

    def play(self, limit: float) -> None:
        self._folder = self.env.run.sub("rest-demo")
        self._door = RestDoor(self.env, CUSTOMER)
        try:
            self._refuse()
            self._submit_batch()
            self._explain_last()
            self._wait_for_last(limit)
            self._count(limit)
        finally:
            self._door.close()

    def _refuse(self) -> None:
        manifest = restricted(workload("miner"))
        manifest["spec"]["template"]["spec"]["hostNetwork"] = True
        done = self._niyanta("submit", "-f", self._write("wrong.yaml", manifest))
        self.display.print(Text.from_ansi(done.stderr.rstrip()))
        if done.returncode != REFUSED:
            self.wrong.append(f"the wrong manifest ended with exit code {done.returncode}: {done.stderr}")

    def _submit_batch(self) -> None:
        batch = [restricted(workload(f"frame-{number}")) for number in range(1, COUNT + 1)]
        done = self._niyanta("submit", "-f", self._write("batch.yaml", *batch), "-o", "id")
        accepted = len(done.stdout.split())
        self.display.print(
            f"{accepted} workloads accepted in one request. Each is a row in Postgres and becomes an object when it is "
            f"placed: {self._objects()} objects now."
        )
        if accepted != COUNT:
            self.wrong.append(f"{accepted} of {COUNT} workloads were accepted: {done.stderr}")

    def _explain_last(self) -> None:
        """The last in the queue says how many are ahead, why it waits and when it will start."""
        manifest = restricted(workload("report"))
        self._niyanta("submit", "-f", self._write("report.yaml", manifest), "-o", "id", shown=False)
        until(self._has_reasons, what="the leader has noted why it waits", timeout=30)
        done = self._niyanta("explain", "report")
        grid = Table.grid()
        grid.add_column(width=HEADING)
        grid.add_column(overflow="fold")
        for line in Text.from_ansi(done.stdout.rstrip()).split():
            grid.add_row(line[:HEADING], line[HEADING:])
        self.display.print(grid)
        for words in ("ahead", "in about"):
            if words not in done.stdout:
                self.wrong.append(f"`niyanta explain` does not say {words!r}: {done.stdout}{done.stderr}")

    def _has_reasons(self) -> bool:
        (found,) = self._door.get("/v1/workloads", name="report")["items"]
        explained = self._door.get(f"/v1/workloads/{found['id']}/explain")
        return bool(explained["reasons"]) or found["phase"] != "Pending"

    def _wait_for_last(self, limit: float) -> None:
        began = time.monotonic()
        done = self._niyanta("wait", "report", "--timeout", f"{limit:.0f}s")
        self.display.print(Text.from_ansi(done.stdout.rstrip()))
        self.display.print(f"It had finished {time.monotonic() - began:.1f} s later; exit code {done.returncode}.")
        if done.returncode != 0:
            self.wrong.append(f"report did not succeed: {done.stdout}{done.stderr}")

    def _count(self, limit: float) -> None:
        with psycopg.connect(self.env.dsn, autocommit=True) as connection:

            def finished() -> int:
                row = connection.execute(FINISHED).fetchone()
                return int(row[0]) if row is not None and row[0] == row[1] else 0

            count = until(finished, what="every submission has succeeded at its first attempt", timeout=limit)
        self.display.print(f"{count} of {COUNT + 1} submissions ran once.")

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
