"""A scenario of placement for tests: pools with nodes, Workloads, waits, and checks by the independent checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testing.checks.observed_cluster import ObservedCluster, observe
from testing.checks.placement_checker import needlessly_waiting, violations
from testing.cluster.api_client import JSON, in_parallel
from testing.cluster.cluster import Cluster, NodeSpec
from testing.processes.niyanta import OPERATOR_NAMESPACE
from testing.scenarios.workloads import node_names
from testing.waiting import ConditionTimeoutError, until

GROUP = "/apis/niyanta.io/v1alpha1"
POOLS = f"{GROUP}/namespaces/{OPERATOR_NAMESPACE}/workerpools"
CUSTOMERS = f"{GROUP}/customers"
TEST_LABEL = "e2e.niyanta.io/test"
POOL_LABEL = "e2e.niyanta.io/pool"
ENDED = ("Succeeded", "Failed")


def workload(
    name: str,
    *,
    cpu: str = "1",
    memory: str = "1Gi",
    requests: Mapping[str, str] | None = None,
    hard: JSON | None = None,
    soft: Sequence[JSON] = (),
    anti: Sequence[JSON] = (),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    pod: JSON | None = None,
    ports: Sequence[JSON] = (),
    **spec: Any,
) -> JSON:
    """A Workload's manifest without its namespace.

    Args:
        name, labels: of the object.
        cpu, memory, requests: of the container.
        hard, soft, anti: terms of spec.affinity.
        annotations: of the pod (`testing.cluster.stages`).
        pod: further fields of the template's spec.
        ports: of the container.
        spec: further fields of the Workload's spec.
    """
    resources = {"cpu": cpu, "memory": memory, **(requests or {})}
    container: JSON = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": resources}}
    if extended := {key: value for key, value in resources.items() if "/" in key}:
        container["resources"]["limits"] = extended
    if ports:
        container["ports"] = list(ports)
    affinity: JSON = {"hard": hard or {}, "soft": list(soft), "anti": list(anti)}
    if given := {key: value for key, value in affinity.items() if value}:
        spec["affinity"] = given
    template: JSON = {"spec": {"containers": [container], **(pod or {})}}
    if annotations:
        template["metadata"] = {"annotations": dict(annotations)}
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {**spec, "template": template},
    }


class PlacementScenario:
    """Pools, nodes, customers and Workloads of one test; `close` removes them."""

    def __init__(self, cluster: Cluster, namespace: str, unique: str) -> None:
        self.cluster = cluster
        self.api = cluster.api
        self.namespace = namespace
        self.unique = unique
        self.pools: list[JSON] = []
        self.workloads: dict[tuple[str, str], JSON] = {}
        self._nodes: list[str] = []
        self._customers: list[str] = []
        self._namespaces: list[str] = []

    # Pools and nodes

    def add_nodes(self, pool: str, count: int = 1, **fields: Any) -> list[str]:
        """Creates simulated nodes for the pool of this short name; they are Ready on return. Returns their names."""
        labels = {TEST_LABEL: self.unique, POOL_LABEL: pool, **fields.pop("labels", {})}
        first = len(self._nodes)
        specs = [NodeSpec(f"{self.unique}-{pool}-{first + n}", labels=labels, **fields) for n in range(count)]
        self._nodes += [spec.name for spec in specs]
        return self.cluster.create_nodes(specs)

    def add_pool(self, short: str, **spec: Any) -> str:
        """Creates a WorkerPool for the nodes of its short name; returns its full name."""
        name = f"{self.unique}-{short}"
        selector = {"matchLabels": {TEST_LABEL: self.unique, POOL_LABEL: short}}
        manifest = {
            "apiVersion": "niyanta.io/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": name, "namespace": OPERATOR_NAMESPACE},
            "spec": {"nodeSelector": selector, **spec},
        }
        self.pools.append(manifest)
        self.api.post(POOLS, manifest)
        return name

    def pool(self, short: str, count: int = 1, *, spec: JSON | None = None, **nodes: Any) -> list[str]:
        """Creates nodes and their pool, and waits until the operator knows them; returns the nodes' names."""
        made = self.add_nodes(short, count, **nodes)
        self.wait_pool(self.add_pool(short, **(spec or {})), count)
        return made

    def wait_pool(self, name: str, ready: int) -> None:
        """Waits until the pool's status has `ready` ready workers."""

        def known() -> bool:
            status = self.api.get(f"{POOLS}/{name}").get("status", {})
            return bool(status.get("readyReplicas") == ready)

        until(known, what=f"pool {name} has {ready} workers ready")

    # Customers and namespaces

    def add_customer(self, name: str, *namespaces: str, **spec: Any) -> str:
        """Creates a Customer, by default of the test's namespace; returns its full name."""
        full = f"{self.unique}-{name}"
        body = {"metadata": {"name": full}, "spec": {"namespaces": list(namespaces) or [self.namespace], **spec}}
        self.api.post(CUSTOMERS, {"apiVersion": "niyanta.io/v1alpha1", "kind": "Customer", **body})
        self._customers.append(full)
        return full

    def add_namespace(self, short: str) -> str:
        """Creates a further namespace; returns its full name."""
        name = f"{self.unique}-{short}"
        self.cluster.create_namespace(name)
        self._namespaces.append(name)
        return name

    # Workloads

    def submit(self, *manifests: JSON, namespace: str | None = None) -> None:
        """Creates Workloads one after the other."""
        for manifest in manifests:
            placed = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace or self.namespace}}
            self.workloads[placed["metadata"]["namespace"], placed["metadata"]["name"]] = placed
            self.api.post(self._path(placed["metadata"]["namespace"]), placed)

    def submit_at_once(self, *manifests: JSON) -> None:
        """Creates Workloads concurrently."""
        in_parallel(self.submit, manifests)

    def delete(self, name: str) -> None:
        self.workloads.pop((self.namespace, name))
        self.api.delete(f"{self._path(self.namespace)}/{name}")

    def status(self, name: str, namespace: str | None = None) -> JSON:
        status: JSON = self.api.get(f"{self._path(namespace or self.namespace)}/{name}").get("status", {})
        return status

    def pods(self, name: str, namespace: str | None = None) -> list[JSON]:
        """Its pods that have not ended."""
        selector = f"niyanta.io/workload={name}"
        found = self.api.items(f"/api/v1/namespaces/{namespace or self.namespace}/pods", labelSelector=selector)
        return [pod for pod in found if pod.get("status", {}).get("phase") not in ENDED]

    def nodes_of(self, name: str, namespace: str | None = None) -> list[str]:
        """Nodes of its pods, sorted."""
        return sorted(pod["spec"]["nodeName"] for pod in self.pods(name, namespace))

    def wait_phase(self, name: str, phase: str, *, namespace: str | None = None, timeout: float = 60) -> JSON:
        """Waits until the Workload is in this phase; returns its status."""
        last: JSON = {}

        def reached() -> bool:
            last.clear()
            last.update(self.status(name, namespace))
            return last.get("phase") == phase

        try:
            until(reached, what=f"workload {name} is {phase}", timeout=timeout)
        except ConditionTimeoutError as error:
            raise AssertionError(f"{error}; its status: {last}") from None
        return last

    def wait_running(self, *names: str, namespace: str | None = None, timeout: float = 60) -> list[str]:
        """Waits until the Workloads run; returns the worker of the first pod of each."""
        statuses = [self.wait_phase(name, "Running", namespace=namespace, timeout=timeout) for name in names]
        return [node_names(status)[0] for status in statuses]

    def wait_pending(self, name: str, *words: str, namespace: str | None = None) -> JSON:
        """Waits until it is Pending with all these words in its message, and asserts that it has no pods."""
        last: JSON = {}

        def explained() -> bool:
            last.clear()
            last.update(self.status(name, namespace))
            return last.get("phase") == "Pending" and all(word in last.get("message", "") for word in words)

        try:
            until(explained, what=f"{name} is Pending with {words}")
        except ConditionTimeoutError as error:
            raise AssertionError(f"{error}; its status: {last}") from None
        assert self.pods(name, namespace) == [], f"{name} is Pending and has pods"
        return last

    def bare_pod(self, name: str, *, node: str | None = None, **requests: str) -> None:
        """Creates a pod past Niyanta and waits until it runs; without `node`, kube-scheduler binds it."""
        spec: JSON = {
            "restartPolicy": "Never",
            "containers": [
                {"name": "main", "image": "registry.invalid/none", "resources": {"requests": requests}},
            ],
        }
        spec.update({"nodeName": node} if node else {"nodeSelector": {TEST_LABEL: self.unique}})
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        self.api.post(path, {"metadata": {"name": name}, "spec": spec})
        until(
            lambda: self.api.get(f"{path}/{name}").get("status", {}).get("phase") == "Running",
            what=f"bare pod {name} runs",
        )

    # Checks

    def observe(self) -> ObservedCluster:
        return observe(self.cluster, self.workloads.values(), self.pools)

    def check(self) -> None:
        """Asserts that running pods break no rule of the independent checker."""
        found = violations(self.observe())
        assert not found, "\n".join(found)

    def check_no_needless_wait(self) -> None:
        """Asserts that no pending Workload of one pod fits on a worker."""
        found = needlessly_waiting(self.observe())
        assert not found, "\n".join(found)

    def close(self) -> None:
        # Workloads first: without their nodes they would be lost and retried.
        for name in (self.namespace, *self._namespaces):
            self.cluster.delete_namespace(name, wait=False)
        for manifest in self.pools:
            self.api.delete(f"{POOLS}/{manifest['metadata']['name']}")
        for name in self._customers:
            self.api.delete(f"{CUSTOMERS}/{name}")
        self.cluster.delete_nodes(self._nodes)

    @staticmethod
    def _path(namespace: str) -> str:
        return f"{GROUP}/namespaces/{namespace}/workloads"
