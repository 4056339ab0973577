"""`make up`: leaves a running environment behind for a person to play with. `make down` removes it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import yaml

from testing import kept_environment
from testing.cluster.build import ToolError
from testing.cluster.nodes import nodes_of_pool
from testing.environment import Environment
from testing.processes.run_directory import REPO

EXAMPLES = REPO / "examples"
SAMPLES = ("00-namespaces.yaml", "01-customers.yaml")


def start(*, operators: int, nodes_per_pool: int, samples: bool) -> None:
    kept_environment.remove()
    run = kept_environment.run_dir()
    print("Starting Postgres and a control plane ...", flush=True)
    environment = Environment.start("up", run=run, log_dir=kept_environment.LOGS, durable=True, adapter=True)
    try:
        if samples:
            add_samples(environment, nodes_per_pool)
        for number in range(1, operators + 1):
            print(f"Starting operator-{number} ...", flush=True)
            environment.start_operator(f"operator-{number}")
        kept_environment.record(environment)
    except BaseException:
        environment.stop()
        kept_environment.remove()
        raise


def add_samples(environment: Environment, nodes_per_pool: int) -> None:
    """The examples' namespaces, pools and customers, and simulated nodes that the pools select.

    The pools get a provider that simulates workers, so that they can be scaled; they take the nodes over as they are.
    """
    for name in SAMPLES:
        environment.cluster.kubectl("apply", "--server-side", "-f", str(EXAMPLES / name))
    pools = [item for item in yaml.safe_load_all((EXAMPLES / "00-pools.yaml").read_text()) if item]
    specs = []
    for pool in pools:
        specs += nodes_of_pool(pool, nodes_per_pool)
        model = nodes_of_pool(pool, 1)[0].manifest()
        pool["spec"]["provider"] = {"kwok": {"nodeTemplate": {"status": model["status"]}}}
        pool["spec"]["scaling"] = {"scaleDownCooldownSeconds": 5}
    environment.cluster.create_nodes(specs)
    environment.cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(pools))
    print(f"{len(pools)} worker pools with {len(specs)} simulated nodes.", flush=True)


def print_next_steps() -> None:
    state = json.loads((kept_environment.PLACE / kept_environment.STATE).read_text())
    tools = f'\n  export PATH="{state["bin"]}:$PATH"' if state["bin"] else ""
    print(f"\nRunning. Next, type:\n\n  export KUBECONFIG={kept_environment.KUBECONFIG}{tools}")
    print("  kubectl get nodes,nwp -A")
    print("  kubectl apply -f examples/cpu-job.yaml")
    print("  kubectl get nwl -A -w")
    print("  kubectl scale nwp gpu-a100-eu -n niyanta-system --replicas=6")
    print("  kubectl apply -f hpa/workers-needed.yaml      # an autoscaler for that pool")
    print("  kubectl get nwp -A -w")
    for identity, port in state["ports"].items():
        print(f"  curl -s http://127.0.0.1:{port}/metrics      # {identity}")
    print(f"\nLogs: {kept_environment.LOGS}   Postgres: {kept_environment.DSN_FILE}   Remove all of it: make down")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", type=int, default=int(os.environ.get("OPERATORS", "1")))
    parser.add_argument("--nodes-per-pool", type=int, default=4)
    parser.add_argument("--no-samples", action="store_true", help="no pools, customers and nodes")
    options = parser.parse_args()
    began = time.monotonic()
    if kept_environment.is_running():
        print("It is up already.")
    else:
        try:
            start(operators=options.operators, nodes_per_pool=options.nodes_per_pool, samples=not options.no_samples)
        except (ToolError, RuntimeError, AssertionError) as error:
            print(f"make up failed: {error}", file=sys.stderr)
            return 1
        print(f"Up after {time.monotonic() - began:.0f} s.")
    print_next_steps()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
