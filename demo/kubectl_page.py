"""`make kubectl-page`: run kubectl as a new user would on a real control plane, and write docs/kubectl.md from it.

Commands and answers of the page are those of this run; names of pods, ages and times differ from run to run.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path

import yaml

from demo.examples import IMPOSSIBLE, prepare
from testing.cluster.api_client import JSON
from testing.cluster.stages import RUN_FOR
from testing.environment import Environment
from testing.processes.run_directory import REPO
from testing.scenarios.placement import CUSTOMERS
from testing.scenarios.workloads import customer_manifest

HEAD = """# kubectl with Niyanta

Written by `make kubectl-page`, which runs these commands on a real control plane (the nodes are simulated); run it
again after a change that affects them. Kubernetes and Kueue have a kind named Workload too, so type `nwl`, or the full
name `workloads.niyanta.io`; `nwp` stands for WorkerPools, `ncust` for Customers.
"""
NAMESPACE = "team-c"


class Page:
    """Runs commands and collects them with their answers as Markdown."""

    def __init__(self, env: Environment) -> None:
        self.cluster = env.cluster
        self.parts = [HEAD]

    def say(self, title: str, text: str) -> None:
        """A section with a paragraph."""
        self.parts.append(f"## {title}\n\n{text}\n")

    def run(self, command: str, *, manifest: JSON | None = None, last: int = 0) -> None:
        """A command and its answer, also if it fails. `manifest` is its standard input and is shown; `last`: only so
        many of the answer's last lines."""
        words = shlex.split(command)
        program = self.cluster.bin_dir / words[0] if self.cluster.bin_dir else words[0]
        text = "" if manifest is None else yaml.safe_dump(manifest, sort_keys=False)
        done = subprocess.run(
            [str(program), *words[1:], "--kubeconfig", str(self.cluster.kubeconfig)],
            input=text,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        lines = [line.rstrip() for line in (done.stdout + done.stderr).strip().splitlines()]
        if last and len(lines) > last:
            lines = ["...", *lines[-last:]]
        if text:
            self.parts.append(f"```yaml\n{text}```\n")
        self.parts.append("```console\n" + "\n".join([f"$ {command}", *lines]) + "\n```\n")


def job(name: str, **spec: object) -> JSON:
    """A Workload of one pod with one CPU."""
    container = {"name": "main", "image": "registry.example/job:1", "resources": {"requests": {"cpu": "1"}}}
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {**spec, "template": {"spec": {"containers": [container]}}},
    }


def write(page: Page) -> None:
    """The whole page."""
    page.say("Apply and wait", "A finished Workload has the condition Finished; Succeeded and Failed tell the outcome.")
    first = job("first")
    first["spec"]["template"]["metadata"] = {"annotations": {RUN_FOR: "3s"}}
    page.run("kubectl apply -f -", manifest=first)
    page.run(f"kubectl wait nwl/first -n {NAMESPACE} --for=condition=Finished --timeout=60s")
    page.run(
        f"kubectl get nwl first -n {NAMESPACE} -o jsonpath='{{.status.conditions[?(@.type==\"Finished\")].reason}}'"
    )
    page.say("Get", "PODS has the ready pods of those wanted; PLACEMENT is the node, or the number of nodes.")
    group = job("group", replicas=3)
    group["spec"]["template"]["metadata"] = {"annotations": {RUN_FOR: "600s"}}
    cluster = page.cluster
    impossible = {**IMPOSSIBLE, "metadata": {**IMPOSSIBLE["metadata"], "namespace": NAMESPACE}}
    cluster.apply(group, impossible, job("later", suspend=True))
    cluster.kubectl("wait", "nwl/group", "-n", NAMESPACE, "--for=condition=Running", "--timeout=60s")
    cluster.kubectl(
        *("wait", f"nwl/{impossible['metadata']['name']}", "-n", NAMESPACE),
        *("--for=jsonpath={.status.reason}=Unschedulable", "--timeout=60s"),
    )
    page.run("kubectl get nwl -A")
    page.run("kubectl get nwl -A --field-selector status.phase=Pending")
    page.run("kubectl get nwp,ncust -A")
    page.say("Describe", "The message counts every worker under the first check that ruled it out.")
    page.run(f"kubectl describe nwl {impossible['metadata']['name']} -n {NAMESPACE}", last=48)
    page.say("Explain", "Every field has its type, down to the pod template.")
    page.run("kubectl explain nwl.spec.gpu")
    page.run("kubectl explain nwl.spec.template.spec.containers.imagePullPolicy")
    page.say("Mistakes", "The API server itself refuses a wrong manifest, also while no operator runs.")
    unknown = job("unknown")
    unknown["spec"]["template"]["spec"]["containers"][0]["commnad"] = ["sleep", "60"]
    page.run("kubectl create -f -", manifest=unknown)
    wrong = job("wrong", priority=1000)
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = 17
    page.run("kubectl create -f -", manifest=wrong)
    page.say("Change and end", "priority, suspend and backoffLimit may change after creation, but not replicas.")
    page.run(f'kubectl patch nwl later -n {NAMESPACE} --type merge -p \'{{"spec": {{"suspend": false}}}}\'')
    page.run(f'kubectl patch nwl later -n {NAMESPACE} --type merge -p \'{{"spec": {{"replicas": 2}}}}\'')
    page.run(f"kubectl delete nwl group -n {NAMESPACE}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "kubectl.md")
    options = parser.parse_args()
    with Environment.start("kubectl-page") as env:
        env.cluster.create_namespace(NAMESPACE)
        env.cluster.api.post(CUSTOMERS, customer_manifest("umbrella", NAMESPACE))
        env.start_operator()
        prepare(env, 2)
        page = Page(env)
        write(page)
    options.out.write_text("\n".join(page.parts), encoding="utf-8")
    print(f"{options.out} is written.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
