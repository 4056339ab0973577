"""`make demo`: Niyanta on a real control plane, in three acts, from nothing to a summary of what was placed and why.

Control plane, Postgres, chart, operator and REST door are real; the nodes are simulated by kwok, and the screen says
so. The acts: `examples` (kubectl), `rest` (the REST door), `scaling` (a pool that grows and shrinks).
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from demo import picture
from demo.display import Display
from demo.examples import ExamplesAct, surprises
from demo.rest import RestAct
from demo.scaling import COUNT, FILE, ScalingAct
from testing.cluster.api_client import ApiError
from testing.cluster.build import ToolError
from testing.cluster.control_plane import Kind, which_kind
from testing.environment import Environment

QUICK = {"NIYANTA_POOL_STATUS_INTERVAL": "0.5", "NIYANTA_STATUS_DEBOUNCE": "0.2", "NIYANTA_RETRY_BACKOFF": "1"}
"""Statuses are written and failures retried sooner than in production."""


def show(display: Display, options: argparse.Namespace) -> int:
    """The whole demo; returns its exit code."""
    display.step("Starting Postgres and a Kubernetes control plane, and installing the chart with Helm ...")
    scales = which_kind() is Kind.KWOK  # elsewhere API servers can't reach an operator on this machine
    with Environment.start("demo", adapter=scales) as env:
        display.step(f"{_version(env)} is up ({env.cluster.kind.value}); chart installed in {env.namespace}.")
        env.start_operator(extra_env=QUICK)
        display.step("The operator leads, with the token of the chart's ServiceAccount.")
        wrong = show_examples(env, display, options)
        rest = RestAct(env, display, options.nodes_per_pool)
        display.print()
        display.step("The REST door: submissions with an API key of customer acme, and no Kubernetes credentials.")
        rest.play(options.limit)
        if scales:
            wrong += show_scaling(env, display, options.limit)
        rest.finish(options.limit)
        wrong += rest.wrong
        for line in wrong:
            display.print(f"Not as expected: {line} (logs: {env.log_dir})", style="red", markup=False)
    display.step("Everything is removed again. `make up` leaves an environment running.")
    return 1 if wrong else 0


def show_examples(env: Environment, display: Display, options: argparse.Namespace) -> list[str]:
    """First act; returns what was not as it should be."""
    act = ExamplesAct(env, display)
    act.prepare(options.nodes_per_pool)
    display.step(f"kubectl apply: namespaces, customers and 4 WorkerPools; {act.workers()} workers, simulated by kwok.")
    act.apply()
    display.step(f"kubectl apply: {len(act.manifests)} Workloads.")
    display.print(
        "         The nodes are simulated, so annotations in a pod's template say how long it runs and how it ends.\n"
        "         Placement, retries and history are Niyanta's own work.\n",
        in_picture=False,
    )
    seconds = act.watch(options.limit)
    act.read_statuses()
    display.print(in_picture=False)
    display.print(act.summary(), in_picture=False)
    display.print(act.history(), in_picture=False)
    display.print(f"{len(act.manifests)} Workloads were watched for {seconds:.0f} s.", in_picture=False)
    return surprises(act.statuses, act.manifests)


def show_scaling(env: Environment, display: Display, limit: float) -> list[str]:
    """Third act; returns what was not as it should be."""
    display.print()
    act = ScalingAct(env, display)
    display.step(f"Scaling: a WorkerPool of one GPU worker, and the HorizontalPodAutoscaler of hpa/{FILE} for it.")
    act.prepare()
    display.step(f"The autoscaler reads the metric workers_needed. Now {COUNT} Workloads arrive at once.")
    act.play(limit)
    return act.wrong


def _version(env: Environment) -> str:
    return f"Kubernetes {env.cluster.api.get('/version').get('gitVersion', '')}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes-per-pool", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120, help="longest time to watch an act, seconds")
    parser.add_argument("--picture", type=Path, help="SVG file to draw what the demo shows into")
    options = parser.parse_args()
    # Files and pipes do not wrap lines.
    plain: dict[str, Any] = {} if sys.stdout.isatty() else {"width": int(os.environ.get("COLUMNS", "140"))}
    console = Console(force_terminal=sys.stdout.isatty(), **plain)
    display = Display(console, picture.recorder() if options.picture else None)
    display.draw("[bold]$ make demo[/]")
    try:
        code = show(display, options)
    except (ToolError, RuntimeError, AssertionError, ApiError) as error:
        console.print(f"make demo failed: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        with suppress(BrokenPipeError):
            console.print("Stopped; everything is removed.")
        return 130
    if display.picture is not None and code == 0:
        picture.save(display.picture, options.picture)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
