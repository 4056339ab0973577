"""A scenario of autoscaling for tests, demo and bench: a customer, pools, autoscalers and workloads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from testing.cluster import stages
from testing.cluster.api_client import JSON, in_parallel
from testing.environment import Environment
from testing.scenarios.placement import CUSTOMERS, POOLS
from testing.scenarios.scaling_timeline import Timeline, workers_of
from testing.scenarios.workloads import OperatorDatabase, Workloads, customer_manifest
from testing.waiting import until

AUTOSCALERS = "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers"


class ScalingScenario:
    """Pools, their autoscalers from hpa/, and the workloads of one namespace; `close` removes all of them."""

    def __init__(self, env: Environment, namespace: str, say: Callable[[str], None] = print) -> None:
        self.env = env
        self.api = env.cluster.api
        self.namespace = namespace
        self.say = say
        self._made: list[str] = []
        env.cluster.create_namespace(namespace)
        self.api.post(CUSTOMERS, customer_manifest(namespace, namespace))

    def pool(self, manifest: JSON) -> str:
        """Creates a WorkerPool and waits for its replicas; returns its name."""
        name = str(manifest["metadata"]["name"])
        self.api.post(POOLS, manifest)
        self._made.append(f"{POOLS}/{name}")
        self.wait_workers(name, manifest["spec"]["replicas"])
        return name

    def wait_workers(self, pool: str, count: int, timeout: float = 60) -> None:
        """Waits until the pool has exactly `count` workers."""
        until(lambda: len(workers_of(self.env.cluster, pool)) == count, what=f"{count} workers", timeout=timeout)

    def apply_autoscaler(self, manifest: JSON) -> str:
        """Applies an autoscaler and waits until it has read its metric; returns its path."""
        self.env.cluster.apply(manifest)
        name = f"{AUTOSCALERS.format(self.env.namespace)}/{manifest['metadata']['name']}"
        if name not in self._made:
            self._made.insert(0, name)
        conditions: dict[str, JSON] = {}

        def active() -> bool:
            found = self.api.get(name).get("status", {}).get("conditions", [])
            conditions.update({item["type"]: item for item in found})
            return conditions.get("ScalingActive", {}).get("status") == "True"

        try:
            until(active, what="the autoscaler reads its metric", timeout=60)
        except AssertionError as error:
            raise AssertionError(f"{error}: {conditions}") from None
        return name

    def end_pods(self, seconds: tuple[int, int]) -> None:
        """Lets every pod of the namespace succeed from now on, spread evenly between the two `seconds`.

        Workloads without a run time that are ended this way all run at once, however slow the machine is.
        """
        now = datetime.now(UTC)
        pods = self.api.items(f"/api/v1/namespaces/{self.namespace}/pods")
        first, last = seconds

        def end(number: int) -> None:
            meta = pods[number]["metadata"]
            age = (now - datetime.fromisoformat(meta["creationTimestamp"])).total_seconds()
            run_for = f"{age + first + (last - first) * number / len(pods):.1f}s"
            path = f"/api/v1/namespaces/{self.namespace}/pods/{meta['name']}"
            self.api.patch(path, {"metadata": {"annotations": {stages.RUN_FOR: run_for}}})

        in_parallel(end, range(len(pods)))

    def workloads(self, pool: str) -> Workloads:
        return Workloads(self.env.cluster, OperatorDatabase(self.env.dsn), self.namespace, pool)

    def timeline(self, pool: str) -> Timeline:
        return Timeline(self.env, pool, self.namespace)

    def report(self, title: str, timeline: Timeline) -> None:
        self.say("\n".join(("", f"--- {title} ---", *timeline.lines(), f"{title}: {timeline.summary()}")))

    def close(self) -> None:
        for path in self._made:
            self.api.delete(path)
        for node in self.api.items("/api/v1/nodes"):
            self.api.delete(f"/api/v1/nodes/{node['metadata']['name']}")
        self.api.delete(f"{CUSTOMERS}/{self.namespace}")
        self.env.cluster.delete_namespace(self.namespace, wait=False)


def gpu_workloads(work: Workloads, count: int, seconds: tuple[int, int] | None = None, **hard: Any) -> list[JSON]:
    """Workloads of one GPU each. Their run times are spread evenly between the two `seconds`; without, they run on."""

    def life(number: int) -> dict[str, str]:
        if seconds is None:
            return {}
        first, last = seconds
        return {"run_for": f"{first + (last - first) * number / count:.1f}s"}

    return [
        work.manifest(f"w-{number}", gpu={"models": ["A100"], "count": 1}, hard=hard, life=life(number))
        for number in range(count)
    ]
