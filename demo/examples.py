"""The demo's first act: every Workload of examples/ is applied with kubectl, and the table shows where each one goes.

The nodes are simulated by kwok, so the demo decides how long a pod runs and how it ends, by annotations in the
template (`sim/run-for`, `sim/exit`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import psycopg
import yaml
from rich.table import Table
from rich.text import Text

from demo.descriptions import outcome, requirements, score, where
from demo.display import Display
from testing.cluster.api_client import JSON
from testing.cluster.nodes import nodes_of_pool
from testing.cluster.stages import EXIT, RUN_FOR
from testing.environment import Environment
from testing.processes.run_directory import REPO
from testing.waiting import until

EXAMPLES = REPO / "examples"
SETUP = sorted(EXAMPLES.glob("[0-9]*.yaml"))
"""Namespaces, pools and customers; all other files are Workloads."""
WORKLOADS = "/apis/niyanta.io/v1alpha1/workloads"
POOLS = "/apis/niyanta.io/v1alpha1/workerpools"
RUN_SECONDS = {"dataset-cache": 14, "pretrain": 9, "fine-tune": 8, "warm-cache": 7, "transcode": 7}
COLOURS = {
    "Running": "cyan",
    "Scheduled": "cyan",
    "Succeeded": "green",
    "Failed": "red",
    "Pending": "yellow",
    "Suspended": "magenta",
}
ENDED = ("Succeeded", "Failed", "Cancelled")
DRAWN_AFTER = 4.0
"""Seconds until the picture may show the table: by then some workloads run and some wait."""

IMPOSSIBLE: JSON = {
    "apiVersion": "niyanta.io/v1alpha1",
    "kind": "Workload",
    "metadata": {"name": "medical-training", "namespace": "team-a"},
    "spec": {
        "gpu": {"models": ["A100"]},
        "affinity": {"hard": {"regions": ["eu-west"], "compliance": ["hipaa"]}},
        "template": {"spec": {"containers": [{"name": "main", "image": "busybox:1.37"}]}},
    },
}
"""No pool has an A100, is in eu-west and satisfies hipaa: it stays Pending, and its status says why."""


def prepare(env: Environment, nodes_per_pool: int) -> None:
    """Make namespaces, pools and customers of the examples, and nodes that the pools select; wait until the operator,
    which runs, knows them."""
    for path in SETUP:
        env.cluster.kubectl("apply", "-f", str(path))
    pools = [item for item in yaml.safe_load_all((EXAMPLES / "00-pools.yaml").read_text()) if item]
    env.cluster.create_nodes(spec for pool in pools for spec in nodes_of_pool(pool, nodes_per_pool))
    wanted = len(pools) * nodes_per_pool
    until(lambda: ready_workers(env) == wanted, what="the operator knows the workers", timeout=60)


def ready_workers(env: Environment) -> int:
    """Number of ready workers of all pools, by their statuses."""
    return sum(int(pool.get("status", {}).get("readyReplicas", 0)) for pool in env.cluster.api.items(POOLS))


class ExamplesAct:
    """The Workloads that were applied, their statuses, and the changes that the demo makes while they run."""

    def __init__(self, env: Environment, display: Display) -> None:
        self.env = env
        self.api = env.cluster.api
        self.display = display
        self.manifests: dict[str, JSON] = {}
        self.statuses: dict[str, JSON] = {}
        self.notes: list[str] = []
        self._done: set[str] = set()

    # Before

    def prepare(self, nodes_per_pool: int) -> None:
        """See `prepare`."""
        prepare(self.env, nodes_per_pool)

    def workers(self) -> int:
        return ready_workers(self.env)

    def apply(self) -> None:
        """Applies every example with kubectl, and one Workload that fits nowhere."""
        files = sorted(path for path in EXAMPLES.glob("*.yaml") if path not in SETUP)
        manifests = [item for path in files for item in yaml.safe_load_all(path.read_text()) if item]
        manifests.append(IMPOSSIBLE)
        for manifest in manifests:
            name = manifest["metadata"]["name"]
            self.manifests[name] = manifest
            life = {RUN_FOR: f"{RUN_SECONDS.get(name, 5)}s"}
            if name == "flaky-import":
                life = {RUN_FOR: "3s", EXIT: "1"}
            manifest["spec"]["template"]["metadata"] = {"annotations": life}
        self.env.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))

    # While it runs

    def watch(self, limit: float) -> float:
        """Follows the statuses until all is over; returns the seconds that took."""
        start = time.monotonic()

        def seconds() -> float:
            return time.monotonic() - start

        def advance() -> bool:
            self.read_statuses()
            self._act(seconds())
            self._draw(seconds())
            time.sleep(0.4)
            return not self.is_over and seconds() < limit

        self.display.follow(lambda: self.table(seconds()), advance)
        return seconds()

    def read_statuses(self) -> None:
        """Reads every status; without a live table, prints those whose phase changed."""
        for item in self.api.items(WORKLOADS):
            name, status = item["metadata"]["name"], item.get("status", {})
            before = self.statuses.get(name, {})
            self.statuses[name] = status
            changed = (status.get("phase"), status.get("attempts")) != (before.get("phase"), before.get("attempts"))
            if changed and status.get("phase"):
                self.display.change(f"{name:<16} {status['phase']:<10} {where(status)}")

    @property
    def is_over(self) -> bool:
        """True when all that can end has ended, and the workload that cannot be placed says why."""
        waiting = self.statuses.get(IMPOSSIBLE["metadata"]["name"], {})
        others = [self.statuses.get(name, {}) for name in self.manifests if name != IMPOSSIBLE["metadata"]["name"]]
        return all(status.get("phase") in ENDED for status in others) and "0/" in waiting.get("message", "")

    def table(self, seconds: float) -> Table:
        table = Table(title=f"Workloads of examples/ after {seconds:.0f} s", title_justify="left", expand=True)
        for column, fixed in (("workload", 17), ("phase", 10), ("try", 3), ("score", 5)):
            table.add_column(column, width=fixed, no_wrap=True)
        table.add_column("worker, or why it waits", ratio=1, overflow="fold")
        for name in self.manifests:
            status = self.statuses.get(name, {})
            phase = status.get("phase", "")
            attempts = str(status.get("attempts") or "")
            table.add_row(name, Text(phase, style=COLOURS.get(phase, "")), attempts, score(status), where(status))
        table.caption = "\n".join(self.notes[-3:])
        table.caption_justify = "left"
        return table

    def _act(self, seconds: float) -> None:
        """The changes that a user would make meanwhile."""
        self._once("fixed", self._fix_flaky_import)
        if seconds > 5:
            self._once("resumed", self._resume_month_end)
        if seconds > 7:
            self._once("labelled", self._label_a_node)

    def _once(self, what: str, action: Callable[[], str]) -> None:
        """Repeats an action until it returns its note."""
        if what not in self._done and (note := action()):
            self._done.add(what)
            self.notes.append(note)
            self.display.change(f"-- {note}")

    def _draw(self, seconds: float) -> None:
        """Puts the table into the picture once, as soon as the workload that fits nowhere says what comes closest."""
        explained = "closest" in self.statuses.get(IMPOSSIBLE["metadata"]["name"], {}).get("message", "")
        if "drawn" not in self._done and seconds > DRAWN_AFTER and explained:
            self._done.add("drawn")
            self.display.draw(self.table(seconds))

    def _fix_flaky_import(self) -> str:
        path = "/api/v1/namespaces/team-b/pods"
        selector = "niyanta.io/workload=flaky-import,niyanta.io/attempt=2"
        for pod in self.api.items(path, labelSelector=selector):
            self.api.patch(f"{path}/{pod['metadata']['name']}", {"metadata": {"annotations": {EXIT: "0"}}})
            return "flaky-import failed and is retried; the demo lets its second attempt succeed"
        return ""

    def _resume_month_end(self) -> str:
        patch = '{"spec": {"suspend": false}}'
        self.env.cluster.kubectl("patch", "nwl", "-n", "team-b", "month-end", "--type", "merge", "-p", patch)
        return f"kubectl patch nwl -n team-b month-end --type merge -p '{patch}'"

    def _label_a_node(self) -> str:
        self.env.cluster.kubectl("label", "node", "cpu-eu-0", "generation=4")
        return "kubectl label node cpu-eu-0 generation=4     (simulate waits for a node with this label)"

    # After

    def summary(self) -> Table:
        table = Table(title="What was placed where, and why", title_justify="left", expand=True, show_lines=True)
        table.add_column("workload", width=17)
        table.add_column("requirements", ratio=5, overflow="fold")
        table.add_column("outcome", ratio=6, overflow="fold")
        for name, manifest in self.manifests.items():
            table.add_row(name, requirements(manifest["spec"]), outcome(self.statuses.get(name, {})))
        return table

    def history(self) -> str:
        """The number of events that Postgres keeps of these workloads."""
        with psycopg.connect(self.env.dsn) as connection:
            row = connection.execute("SELECT count(*), count(DISTINCT workload_id) FROM workload_events").fetchone()
        assert row is not None
        return f"Postgres keeps {row[0]} events of {row[1]} workloads (table workload_events)."


def surprises(statuses: dict[str, JSON], names: Iterable[str]) -> list[str]:
    """The workloads that did not end as the examples' comments say."""
    found = []
    for name in names:
        wanted = "Pending" if name == IMPOSSIBLE["metadata"]["name"] else "Succeeded"
        phase = statuses.get(name, {}).get("phase")
        if phase != wanted:
            found.append(f"{name} is {phase}, not {wanted}")
    if statuses.get("flaky-import", {}).get("attempts", 0) < 2:
        found.append("flaky-import was not retried")
    return found
