"""`make demo`: Niyanta at work on a real control plane, from nothing to a summary of what was placed where and why.

Everything is real but the machines: control plane, Postgres, chart, operator. The nodes are simulated by kwok, so how a
pod ends is written into its annotations here (`sim/run-for`, `sim/exit`); the screen says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import psycopg
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo import scaling
from testing.cluster.api_client import JSON, ApiError
from testing.cluster.build import ToolError
from testing.cluster.control_plane import Kind, which_kind
from testing.cluster.nodes import nodes_of_pool
from testing.cluster.stages import EXIT, RUN_FOR
from testing.environment import Environment
from testing.processes.run_directory import REPO

EXAMPLES = REPO / "examples"
SETUP = sorted(EXAMPLES.glob("[0-9]*.yaml"))
"""Namespaces, pools and customers; all other files are Workloads."""
WORKLOADS = "/apis/niyanta.io/v1alpha1/workloads"
POOLS = "/apis/niyanta.io/v1alpha1/workerpools"
RUN_SECONDS = {"dataset-cache": 14, "pretrain": 9, "fine-tune": 8, "warm-cache": 7, "transcode": 7}
QUICK = {"NIYANTA_POOL_STATUS_INTERVAL": "0.5", "NIYANTA_STATUS_DEBOUNCE": "0.2", "NIYANTA_RETRY_BACKOFF": "1"}
COLOURS = {"Running": "cyan", "Scheduled": "cyan", "Succeeded": "green", "Failed": "red", "Pending": "yellow"}
ENDED = ("Succeeded", "Failed", "Cancelled")

IMPOSSIBLE: JSON = {
    "apiVersion": "niyanta.io/v1alpha1",
    "kind": "Workload",
    "metadata": {"name": "medical-training", "namespace": "team-a"},
    "spec": {
        "affinity": {"hard": {"regions": ["eu-west"], "compliance": ["hipaa"], "gpu": {"models": ["A100"]}}},
        "template": {"spec": {"containers": [{"name": "main", "image": "busybox:1.37"}]}},
    },
}
"""No pool has an A100, is in eu-west and satisfies hipaa: it stays Pending, and says why."""


class Demo:
    """One showing: what was applied, what its status is now, and what happens by the way."""

    def __init__(self, env: Environment, console: Console) -> None:
        self.env = env
        self.api = env.cluster.api
        self.console = console
        self.manifests: dict[str, JSON] = {}
        self.statuses: dict[str, JSON] = {}
        self.notes: list[str] = []
        self._done: set[str] = set()

    # Before

    def prepare(self, nodes_per_pool: int) -> None:
        """Namespaces, pools and customers of the examples, and nodes that the pools select."""
        for path in SETUP:
            self.env.cluster.kubectl("apply", "-f", str(path))
        pools = [item for item in yaml.safe_load_all((EXAMPLES / "00-pools.yaml").read_text()) if item]
        self.env.cluster.create_nodes(spec for pool in pools for spec in nodes_of_pool(pool, nodes_per_pool))
        wanted = len(pools) * nodes_per_pool
        self._wait(lambda: self.workers() == wanted, "the operator knows the workers")

    def workers(self) -> int:
        return sum(int(pool.get("status", {}).get("readyReplicas", 0)) for pool in self.api.items(POOLS))

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

    def look(self) -> None:
        """Reads every status, and tells of those whose phase changed where there is no live table."""
        for item in self.api.items(WORKLOADS):
            name, status = item["metadata"]["name"], item.get("status", {})
            before = self.statuses.get(name, {})
            self.statuses[name] = status
            changed = (status.get("phase"), status.get("attempts")) != (before.get("phase"), before.get("attempts"))
            if not self.console.is_terminal and changed and status.get("phase"):
                self.console.print(f"  {name:<16} {status['phase']:<10} {where(status)}", soft_wrap=True)

    def act(self, seconds: float) -> None:
        """What a person would do meanwhile: let the failing one succeed, resume one, add a label to a node."""
        self._once("fixed", self._fix_flaky_import)
        if seconds > 5:
            self._once("resumed", self._resume_month_end)
        if seconds > 7:
            self._once("labelled", self._label_a_node)

    def _once(self, what: str, action: Callable[[], str]) -> None:
        if what not in self._done and (said := action()):
            self._done.add(what)
            self.notes.append(said)
            if not self.console.is_terminal:
                self.console.print(f"  -- {said}", soft_wrap=True)

    def _fix_flaky_import(self) -> str:
        path = "/api/v1/namespaces/team-b/pods"
        selector = "niyanta.io/workload=flaky-import,niyanta.io/attempt=2"
        for pod in self.api.items(path, labelSelector=selector):
            self.api.patch(f"{path}/{pod['metadata']['name']}", {"metadata": {"annotations": {EXIT: "0"}}})
            return "flaky-import failed once and is tried again; its second attempt is told to succeed"
        return ""

    def _resume_month_end(self) -> str:
        patch = '{"spec": {"suspend": false}}'
        self.env.cluster.kubectl("patch", "nwl", "-n", "team-b", "month-end", "--type", "merge", "-p", patch)
        return f"kubectl patch nwl -n team-b month-end --type merge -p '{patch}'"

    def _label_a_node(self) -> str:
        self.env.cluster.kubectl("label", "node", "cpu-eu-0", "generation=4")
        return "kubectl label node cpu-eu-0 generation=4     (simulate waited for one like it)"

    @property
    def over(self) -> bool:
        """All that can end has ended, and the one that can't be placed says why."""
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
            table.add_row(
                name,
                Text(phase, style=COLOURS.get(phase, "")),
                str(status.get("attempts") or ""),
                score(status),
                where(status),
            )
        table.caption = "\n".join(self.notes[-3:])
        table.caption_justify = "left"
        return table

    def watch(self, limit: float) -> float:
        """Looks and acts until all is over; gives the seconds it took."""
        start = time.monotonic()

        def turn() -> float:
            seconds = time.monotonic() - start
            self.look()
            self.act(seconds)
            time.sleep(0.4)
            return seconds

        if self.console.is_terminal:
            with Live(self.table(0), console=self.console, refresh_per_second=4) as live:
                while not self.over and turn() < limit:
                    live.update(self.table(time.monotonic() - start))
                live.update(self.table(time.monotonic() - start))
        else:
            while not self.over and turn() < limit:
                pass
        return time.monotonic() - start

    # After

    def summary(self) -> Table:
        table = Table(title="What was placed where, and why", title_justify="left", expand=True, show_lines=True)
        table.add_column("workload", width=17)
        table.add_column("asked for", ratio=5, overflow="fold")
        table.add_column("outcome", ratio=6, overflow="fold")
        for name, manifest in self.manifests.items():
            table.add_row(name, asked_for(manifest["spec"]), outcome(self.statuses.get(name, {})))
        return table

    def record(self) -> str:
        """What Postgres has on record of it."""
        with psycopg.connect(self.env.dsn) as connection:
            row = connection.execute("SELECT count(*), count(DISTINCT workload_id) FROM workload_events").fetchone()
        assert row is not None
        return f"Postgres has {row[0]} events of {row[1]} workloads on record (table workload_events)."

    def _wait(self, condition: Callable[[], bool], what: str, limit: float = 60) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {limit:g} s: {what}")
            time.sleep(0.2)


def workers_of(status: JSON) -> str:
    """`worker x3, other` of a status."""
    found: dict[str, int] = {}
    for worker in status.get("workers") or []:
        found[worker] = found.get(worker, 0) + 1
    return ", ".join(f"{name} x{count}" if count > 1 else name for name, count in found.items())


def score(status: JSON) -> str:
    return f"{status['score']:g}" if status.get("score") is not None else ""


def where(status: JSON) -> str:
    if status.get("phase") in ("Scheduled", "Running", "Succeeded"):
        return workers_of(status)
    return str(status.get("message") or status.get("reason") or "")


def asked_for(spec: JSON) -> str:
    """What of a spec decided about its place, in words."""
    affinity = spec.get("affinity", {})
    hard = affinity.get("hard", {})
    parts = [f"{spec['replicas']} pods together"] if spec.get("replicas", 1) > 1 else []
    parts += [f"capability {spec['type']}"] if spec.get("type") else []
    if gpu := hard.get("gpu"):
        parts.append(f"{gpu.get('count', 1)} GPU of {' or '.join(gpu.get('models', ['any model']))}")
    parts += [f"{name} {' and '.join(hard[name])}" for name in ("regions", "compliance") if hard.get(name)]
    parts += [_expression(item) for item in hard.get("workerExpressions", [])]
    parts += [f"in the {_domain(item)} of {_selected(item)}" for item in hard.get("near", [])]
    parts += [f"no {_domain(item)} with {_selected(item)}" for item in affinity.get("anti", [])]
    parts += [f"wish ({item['weight']}): {_wish(item)}" for item in affinity.get("soft", [])]
    return "; ".join(parts) or "any worker with room"


def _expression(item: JSON) -> str:
    signs = {"Gt": ">", "Lt": "<", "In": "in", "NotIn": "not"}
    return f"{item['key']} {signs.get(item['operator'], item['operator'])} {', '.join(item.get('values', []))}"


def _domain(item: JSON) -> str:
    return str(item.get("topologyKey", "hostname")).rsplit("/", 1)[-1].replace("hostname", "worker")


def _selected(item: JSON) -> str:
    labels = item.get("workloadSelector", {}).get("matchLabels", {})
    return ", ".join([*item.get("types", []), *(f"{key}={value}" for key, value in labels.items())])


def _wish(item: JSON) -> str:
    gpu = item.get("gpu", {}).get("models", [])
    tags = [f"{key}={value}" for key, value in item.get("workerTags", {}).items()]
    return ", ".join([*item.get("regions", []), *(f"GPU {model}" for model in gpu), *tags])


def outcome(status: JSON) -> str:
    phase = status.get("phase", "not taken in")
    if not status.get("workers"):
        return f"{phase}: {status.get('message') or status.get('reason', '')}"
    tries = f", attempt {status['attempts']}" if status.get("attempts", 1) > 1 else ""
    return f"{phase} on {workers_of(status)} (pool {status['pool']}, score {score(status)}{tries})"


def surprises(statuses: dict[str, JSON], names: Iterable[str]) -> list[str]:
    """What did not end as the examples' comments say."""
    found = []
    for name in names:
        wanted = "Pending" if name == IMPOSSIBLE["metadata"]["name"] else "Succeeded"
        phase = statuses.get(name, {}).get("phase")
        if phase != wanted:
            found.append(f"{name} is {phase}, not {wanted}")
    if statuses.get("flaky-import", {}).get("attempts", 0) < 2:
        found.append("flaky-import was not tried again")
    return found


def show(console: Console, options: argparse.Namespace) -> int:
    began = time.monotonic()

    def step(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.1f} s  {text}", soft_wrap=True, highlight=False)

    step("Starting Postgres and a Kubernetes control plane, and installing the chart with Helm ...")
    scales = which_kind() is Kind.KWOK  # elsewhere API servers can't reach an operator on this machine
    with Environment.start("demo", adapter=scales) as env:
        step(f"{_version(env)} is up ({env.cluster.kind.value}); chart installed in {env.namespace}.")
        env.start_operator(extra_env=QUICK)
        step("The operator leads, with the token of the chart's ServiceAccount.")
        demo = Demo(env, console)
        demo.prepare(options.nodes_per_pool)
        step(f"kubectl apply: namespaces, customers and 4 WorkerPools; {demo.workers()} workers, simulated by kwok.")
        demo.apply()
        step(f"kubectl apply: {len(demo.manifests)} Workloads.")
        console.print(
            "         The machines are simulated, so the demo decides how long a pod runs and how it ends, by\n"
            "         annotations in its template. Placement, retries and the record are Niyanta's own work.\n",
            highlight=False,
        )
        seconds = demo.watch(options.limit)
        demo.look()
        console.print()
        console.print(demo.summary())
        console.print(demo.record(), highlight=False)
        wrong = surprises(demo.statuses, demo.manifests)
        for line in wrong:
            console.print(f"Not as expected: {line} (operator's log: {env.operators[0].log})", style="red")
        console.print(f"{len(demo.manifests)} Workloads were watched for {seconds:.0f} s.", highlight=False)
        if scales:
            wrong += second_act(env, console, step, options.limit)
    step("All of it is removed again. `make up` leaves one running.")
    return 1 if wrong else 0


def second_act(env: Environment, console: Console, step: Callable[[str], None], limit: float) -> list[str]:
    """A burst of work, and a pool that is scaled for it; returns what was not as it should be."""
    console.print()
    act = scaling.Act(env, console)
    step(f"Second act: a WorkerPool of one GPU worker, and hpa/{scaling.FILE} for it.")
    act.prepare()
    step(f"Its HorizontalPodAutoscaler reads workers_needed. Now {scaling.COUNT} Workloads come at once.")
    act.play(limit)
    for line in act.wrong:
        console.print(f"Not as expected: {line} (operator's log: {env.operators[0].log})", style="red")
    return act.wrong


def _version(env: Environment) -> str:
    return f"Kubernetes {env.cluster.api.get('/version').get('gitVersion', '')}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes-per-pool", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120, help="longest time to watch, seconds")
    options = parser.parse_args()
    # Lines for files and pipes are wide: nobody wraps them there.
    plain: dict[str, Any] = {} if sys.stdout.isatty() else {"width": int(os.environ.get("COLUMNS", "140"))}
    console = Console(force_terminal=sys.stdout.isatty(), **plain)
    try:
        return show(console, options)
    except (ToolError, RuntimeError, AssertionError, ApiError) as error:
        console.print(f"make demo failed: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        with suppress(BrokenPipeError):
            console.print("Stopped, and removed.")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
