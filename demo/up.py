"""`make up`: leaves an environment running to try things in, and prints what to type. `make down` removes it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import yaml

from demo.examples import EXAMPLES, IMPOSSIBLE
from demo.run_time import limit_run_time
from testing import kept_environment
from testing.cluster.build import ToolError
from testing.cluster.nodes import nodes_of_pool
from testing.environment import Environment
from testing.processes.free_ports import free_port
from testing.processes.niyanta import niyanta_command
from testing.scenarios.placement import CUSTOMERS
from testing.scenarios.workloads import customer_manifest

SAMPLES = ("00-namespaces.yaml", "01-customers.yaml")
CUSTOMER = "acme"
"""Its namespace is team-a, where most of the examples are."""
SANDBOX = "sandbox"
"""Name of the only Customer and of its namespace without the samples."""


def start(*, operators: int, nodes_per_pool: int, samples: bool) -> None:
    """Starts everything and writes down what runs; removes it again when something fails."""
    kept_environment.remove()
    run = kept_environment.run_dir()
    print("Starting Postgres and a control plane ...", flush=True)
    environment = Environment.start("up", run=run, log_dir=kept_environment.LOGS, durable=True, adapter=True)
    try:
        run_seconds = limit_run_time(environment.cluster)
        if samples:
            add_samples(environment, nodes_per_pool)
        else:
            environment.cluster.create_namespace(SANDBOX)
            environment.cluster.api.post(CUSTOMERS, customer_manifest(SANDBOX, SANDBOX))
        for number in range(1, operators + 1):
            print(f"Starting operator-{number} ...", flush=True)
            environment.start_operator(f"operator-{number}")
        print("Starting the REST door ...", flush=True)
        api_port = start_door(environment, CUSTOMER if samples else SANDBOX)
        kept_environment.record(environment, api_port=api_port, run_seconds=run_seconds, has_samples=samples)
    except BaseException:
        environment.stop()
        kept_environment.remove()
        raise


def add_samples(environment: Environment, nodes_per_pool: int) -> None:
    """Namespaces, pools and customers of the examples, simulated nodes of the pools, and one Workload that waits.

    The pools get a provider that simulates workers, so that they can be scaled; it adopts the nodes that exist.
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
    manifests = yaml.safe_dump_all([*pools, IMPOSSIBLE])
    environment.cluster.kubectl("apply", "--server-side", "-f", "-", input=manifests)
    print(f"{len(pools)} worker pools with {len(specs)} simulated nodes.", flush=True)


def start_door(environment: Environment, customer: str) -> int:
    """Starts the REST door on loopback and writes two API keys to files; returns the door's port."""
    port = free_port()
    environment.start_api("api-1", extra_env={"NIYANTA_API_HOST": "127.0.0.1", "NIYANTA_API_PORT": str(port)})
    for path, role in ((kept_environment.KEY_FILE, "customer"), (kept_environment.ADMIN_KEY_FILE, "admin")):
        made = environment.niyanta("apikey", "create", "--customer", customer, "--role", role, "--name", "make up")
        kept_environment.write_secret(path, next(word for word in made.split() if word.startswith("nyt_")))
    return port


def print_next_steps() -> None:
    """Commands that work as printed, from the folder of this checkout."""
    state = kept_environment.state()
    path = ":".join(part for part in (state["bin"], str(Path(niyanta_command()).parent)) if part)
    sections = [
        ("Running. Type this first:", _exports(path, state["api_port"])),
        ("With kubectl:", _kubectl_steps(has_samples=state["has_samples"])),
        (
            f"By the REST door, with an API key of customer {CUSTOMER if state['has_samples'] else SANDBOX}:",
            _door_steps(has_samples=state["has_samples"], waits=state["run_seconds"] > 0),
        ),
        ("Metrics:", [f"curl -s http://127.0.0.1:{port}/metrics      # {who}" for who, port in state["ports"].items()]),
    ]
    for title, lines in sections:
        print(f"\n{title}\n")
        for line in lines:
            print(f"  {line}")
    print(f"\n{_about_nodes(state['run_seconds'])}")
    print(f"Logs: {kept_environment.LOGS}   Postgres: {kept_environment.DSN_FILE}   Remove everything: make down")


def _exports(path: str, api_port: int) -> list[str]:
    return [
        f'export KUBECONFIG="{kept_environment.KUBECONFIG}"',
        f'export PATH="{path}:$PATH"',
        f"export NIYANTA_API_URL=http://127.0.0.1:{api_port}",
        f'export NIYANTA_API_KEY=$(cat "{kept_environment.KEY_FILE}")',
    ]


def _kubectl_steps(*, has_samples: bool) -> list[str]:
    if not has_samples:
        return ["kubectl get nodes,nwp,nwl -A", f"kubectl get namespace {SANDBOX} --show-labels"]
    return [
        "kubectl get nodes,nwp -A",
        "kubectl apply -f examples/cpu-job.yaml",
        "kubectl get nwl -A -w                         # until Ctrl-C",
        "kubectl scale nwp gpu-a100-eu -n niyanta-system --replicas=6",
        "kubectl apply -f hpa/workers-needed.yaml      # an autoscaler for that pool",
        "kubectl get nwp -A -w                         # until Ctrl-C",
    ]


def _door_steps(*, has_samples: bool, waits: bool) -> list[str]:
    samples = [
        f"niyanta submit -f examples/cpu-job.yaml{' --wait' if waits else ''}",
        f"niyanta explain {IMPOSSIBLE['metadata']['name']}              # a Workload that no pool can hold",
    ]
    return [
        *(samples if has_samples else ()),
        "niyanta top                                   # until Ctrl-C",
        'curl -s -H "Authorization: Bearer $NIYANTA_API_KEY" "$NIYANTA_API_URL/v1/workloads?limit=5"',
        f'NIYANTA_API_KEY=$(cat "{kept_environment.ADMIN_KEY_FILE}") niyanta workers      # also shows their use',
    ]


def _about_nodes(run_seconds: int) -> str:
    runs = f"for {run_seconds} s and succeeds" if run_seconds else "until it is stopped"
    return (
        f"The nodes are simulated: a pod runs {runs}, unless its template has the annotation sim/run-for or sim/exit."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", type=int, default=int(os.environ.get("OPERATORS", "1")))
    parser.add_argument("--nodes-per-pool", type=int, default=4)
    parser.add_argument("--no-samples", action="store_true", help="no pools, customers and nodes")
    options = parser.parse_args()
    began = time.monotonic()
    if kept_environment.is_running():
        print("An environment is running already.")
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
