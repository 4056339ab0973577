"""The real input: the 1,213 nodes of the openb trace and 1,000 of its tasks, judged by the independent checker.

Without the trace (see testing/trace.py) the same tests run on its sample. They have a cluster of their own, so that no
other test meets their nodes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from testing.checks.observed_cluster import ObservedCluster, Worker, observe
from testing.checks.placement_checker import needlessly_waiting, violations
from testing.cluster.api_client import JSON, in_parallel
from testing.cluster.cluster import NodeSpec
from testing.environment import Environment
from testing.scenarios.placement import CUSTOMERS, GROUP, POOLS, workload
from testing.trace import NODES, TASKS, read_rows, trace_folder, trace_or_sample
from testing.waiting import ConditionTimeoutError, until

pytestmark = pytest.mark.e2e

NAMESPACE = "openb"
MODEL = "openb.example.com/model"
TASK_COUNT, LATE_COUNT, FREE_NODES = (1000, 150, 24) if trace_folder() else (200, 60, 6)
"""Tasks at first, tasks that come when the cluster is full, and nodes left open then."""


def node_of(row: dict[str, str]) -> NodeSpec:
    return NodeSpec(
        row["sn"],
        cpu=f"{row['cpu_milli']}m",
        memory=f"{row['memory_mib']}Mi",
        gpus=int(row["gpu"]),
        labels={MODEL: row["model"]},
    )


def pool_of(model: str) -> JSON:
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": model.lower(), "namespace": "niyanta-system"},
        "spec": {"nodeSelector": {"matchLabels": {MODEL: model}}, "gpu": {"model": model}},
    }


def workload_of(row: dict[str, str]) -> JSON:
    gpus = int(row["num_gpu"])
    more: JSON = {}
    if gpus:
        models = sorted(set(row["gpu_spec"].split("|"))) if row["gpu_spec"] else []
        more = {"gpu": {"count": gpus, **({"models": models} if models else {})}}
    made = workload(row["name"], cpu=f"{row['cpu_milli']}m", memory=f"{row['memory_mib']}Mi", **more)
    made["metadata"]["namespace"] = NAMESPACE
    return made


@pytest.fixture(scope="module")
def trace() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Nodes, and the tasks that use whole GPUs or none: evenly spaced over the trace, all models and sizes in them."""
    nodes = read_rows(trace_or_sample() / NODES)
    tasks = read_rows(trace_or_sample() / TASKS)
    whole = [row for row in tasks if row["num_gpu"] == "0" or row["gpu_milli"] == "1000"]
    wanted = TASK_COUNT + LATE_COUNT
    return nodes, [whole[number * len(whole) // wanted] for number in range(wanted)]


class Fleet:
    """The trace's nodes in pools by model, on a control plane with one operator."""

    def __init__(self, env: Environment, nodes: list[dict[str, str]]) -> None:
        self.env = env
        self.api = env.cluster.api
        self.pools = [pool_of(model) for model in sorted({row["model"] for row in nodes})]
        self.workloads: list[JSON] = []
        env.cluster.create_namespace(NAMESPACE)
        self.api.post(CUSTOMERS, {"metadata": {"name": NAMESPACE}, "spec": {"namespaces": [NAMESPACE]}, **HEAD})
        for pool in self.pools:
            self.api.post(POOLS, pool)
        # Not waited for one by one: a list of all of them, again and again, is what would take the time.
        env.cluster.create_nodes((node_of(row) for row in nodes), wait=False)
        until(lambda: self._known() == len(nodes), what="the operator knows every worker", timeout=300, interval=0.5)

    def _known(self) -> int:
        return sum(pool.get("status", {}).get("readyReplicas", 0) for pool in self.api.items(POOLS))

    def submit(self, manifests: list[JSON]) -> None:
        self.workloads += manifests
        path = f"{GROUP}/namespaces/{NAMESPACE}/workloads"
        in_parallel(lambda manifest: self.api.post(path, manifest), manifests)

    def wait_decided(self, names: set[str]) -> Counter[str]:
        """Waits until each is Running or was told why not; gives how many of each."""

        found: Counter[str] = Counter()

        def decided() -> bool:
            found.clear()
            for item in self.api.items(f"{GROUP}/namespaces/{NAMESPACE}/workloads"):
                status = item.get("status", {})
                if item["metadata"]["name"] in names and status:
                    waits = status["phase"] == "Pending" and status.get("reason") == "Unschedulable"
                    found["waiting" if waits else status["phase"]] += 1
            return found["Running"] + found["waiting"] == len(names)

        try:
            until(decided, what=f"{len(names)} workloads run or are told why not", timeout=300, interval=2)
        except ConditionTimeoutError as error:
            raise AssertionError(f"{error}; phases: {dict(found)}") from None
        return found

    def observe(self) -> ObservedCluster:
        return observe(self.env.cluster, self.workloads, self.pools)


HEAD = {"apiVersion": "niyanta.io/v1alpha1", "kind": "Customer"}


@pytest.fixture(scope="module")
def fleet(trace: tuple[list[dict[str, str]], list[dict[str, str]]]) -> Iterator[Fleet]:
    # 1,213 kubelets would renew their Leases more than a hundred times a second; these are given time.
    calm = {
        "kwok-controller": {"node-lease-duration-seconds": "3600"},
        "kube-controller-manager": {"node-monitor-grace-period": "3600s"},
        "etcd": {"unsafe-no-fsync": "true"},
    }
    quick = {"NIYANTA_POOL_STATUS_INTERVAL": "1", "NIYANTA_STATUS_DEBOUNCE": "0.3"}
    with Environment.start("openb", fast_node_loss=False, extra_args=calm, operators=1, operator_env=quick) as env:
        yield Fleet(env, trace[0])


def report(capsys: pytest.CaptureFixture[str], *lines: str) -> None:
    with capsys.disabled():
        print("", *lines, sep="\n  openb: ")


def test_a_thousand_tasks_of_the_trace_break_no_rule(
    fleet: Fleet, trace: tuple[list[dict[str, str]], list[dict[str, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, tasks = trace
    assert (len(nodes), len({row["model"] for row in nodes})) == (1213 if trace_folder() else 152, 7)
    manifests = [workload_of(row) for row in tasks[:TASK_COUNT]]
    names = {manifest["metadata"]["name"] for manifest in manifests}
    assert len(names) == TASK_COUNT
    start = time.monotonic()
    fleet.submit(manifests)
    applied = time.monotonic() - start
    phases = fleet.wait_decided(names)
    seconds = time.monotonic() - start

    seen = fleet.observe()
    assert (len(seen.workers), len(seen.requested)) == (len(nodes), TASK_COUNT)
    assert len(seen.placed) == phases["Running"]
    assert violations(seen) == []
    assert needlessly_waiting(seen) == []
    gpus = sum(asked.gpus for _, asked, _ in seen.placed)
    report(
        capsys,
        f"{len(nodes)} nodes, {TASK_COUNT} tasks: {phases['Running']} run on {gpus} GPUs, "
        f"{phases['waiting']} wait; 0 violations",
        f"applied in {applied:.1f} s, all running in {seconds:.1f} s: {TASK_COUNT / seconds:.0f} workloads/s",
    )


def test_on_a_fleet_that_others_filled_nobody_waits_beside_room(
    fleet: Fleet, trace: tuple[list[dict[str, str]], list[dict[str, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Pods that Niyanta did not make take all that is left but a little; of what comes then, exactly what fits runs."""
    before = fleet.observe()
    left_open = set(sorted(before.workers)[:: len(before.workers) // FREE_NODES])
    full = [worker for name, worker in before.workers.items() if name not in left_open]
    in_parallel(lambda worker: fleet.api.post(f"/api/v1/namespaces/{NAMESPACE}/pods", filler(before, worker)), full)

    manifests = [workload_of(row) for row in trace[1][TASK_COUNT:]]
    fleet.submit(manifests)
    names = {manifest["metadata"]["name"] for manifest in manifests}
    phases = fleet.wait_decided(names)
    assert phases["Running"] > 0
    assert phases["waiting"] > 0, "nothing waits: the fleet was not full, and the test shows nothing"

    seen = fleet.observe()
    assert violations(seen) == []
    assert needlessly_waiting(seen) == []
    report(
        capsys,
        f"{len(full)} workers filled by pods of others, {LATE_COUNT} more tasks: {phases['Running']} run, "
        f"{phases['waiting']} wait and fit nowhere; 0 violations",
    )


def filler(seen: ObservedCluster, worker: Worker) -> JSON:
    """A bare pod that leaves 100m of cpu on the worker and no GPU."""
    free = seen.free(worker)
    requests = {"cpu": f"{max(0, int(free['cpu'] * 1000) - 100)}m"}
    if gpus := int(free.get("nvidia.com/gpu", 0)):
        requests["nvidia.com/gpu"] = str(gpus)
    resources = {"requests": requests, "limits": {key: value for key, value in requests.items() if "/" in key}}
    container = {"name": "main", "image": "registry.invalid/none", "resources": resources}
    spec = {"nodeName": worker.name, "restartPolicy": "Never", "containers": [container]}
    return {"metadata": {"name": f"filler-{worker.name}"}, "spec": spec}
