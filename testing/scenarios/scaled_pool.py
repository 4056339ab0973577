"""A WorkerPool under test of scaling: edits, waits, and the records of what the operator did with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from testing.cluster import stages
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster
from testing.scenarios.placement import POOLS, TEST_LABEL
from testing.scenarios.workloads import Workloads, node_names
from testing.waiting import until

SCALE_DOWN_MARK = "niyanta.io/scale-down"
"""Annotation of nodes that are chosen for removal."""


@dataclass
class ScaledPool:
    """A WorkerPool that may have a provider, its nodes, and what the operator recorded of its scaling."""

    workloads: Workloads
    name: str

    @property
    def cluster(self) -> Cluster:
        return self.workloads.cluster

    def edit(self, **spec: Any) -> None:
        self.cluster.api.patch(f"{POOLS}/{self.name}", {"spec": spec})

    def simulate_workers(self, **spec: Any) -> None:
        """Makes kwok the provider: workers for two pods of 1 cpu, and no cooldown."""
        room = {"cpu": "2", "memory": "8Gi", "pods": "10"}
        provider = {"kwok": {"nodeTemplate": {"status": {"allocatable": room}}}}
        scaling = {"scaleDownCooldownSeconds": 0, **spec.pop("scaling", {})}
        self.edit(provider=provider, scaling=scaling, **spec)

    def kubectl_scale(self, replicas: int) -> None:
        self.cluster.kubectl(
            "scale", f"workerpools.niyanta.io/{self.name}", "-n", "niyanta-system", f"--replicas={replicas}"
        )

    def nodes(self) -> dict[str, JSON]:
        found = self.cluster.api.items("/api/v1/nodes", labelSelector=f"{TEST_LABEL}={self.name}")
        return {node["metadata"]["name"]: node for node in found}

    def status(self) -> JSON:
        status: JSON = self.cluster.api.get(f"{POOLS}/{self.name}").get("status", {})
        return status

    def condition(self, kind: str) -> JSON:
        found = [c for c in self.status().get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def wait_nodes(self, count: int, *, timeout: float = 60) -> list[str]:
        until(lambda: len(self.nodes()) == count, what=f"{self.name} has {count} nodes", timeout=timeout)
        return sorted(self.nodes())

    def wait_ready(self, count: int) -> list[str]:
        until(
            lambda: (self.status().get("replicas"), self.status().get("readyReplicas")) == (count, count),
            what=f"{self.name} has {count} workers, all ready",
        )
        return self.wait_nodes(count)

    def wait_condition(self, kind: str, status: str, reason: str) -> JSON:
        def reached() -> JSON | None:
            found = self.condition(kind)
            return found if (found.get("status"), found.get("reason")) == (status, reason) else None

        try:
            return until(reached, what=f"condition {kind} is {status} {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.condition(kind)}") from None

    def decisions(self, action: str = "") -> list[dict[str, Any]]:
        rows = self.workloads.database.query(
            "SELECT * FROM scaling_decisions WHERE pool = %(pool)s ORDER BY id", pool=self.name
        )
        return [row for row in rows if action in ("", row["action"])]

    def drains(self) -> list[dict[str, Any]]:
        return self.workloads.database.query("SELECT * FROM worker_drains WHERE pool = %(pool)s", pool=self.name)

    def events(self) -> list[str]:
        """Reasons of the Events on the pool."""
        found = self.cluster.api.items("/apis/events.k8s.io/v1/namespaces/niyanta-system/events")
        return [event["reason"] for event in found if event["regarding"].get("name") == self.name]

    def run_workloads(self, *names: str, **life: str) -> dict[str, str]:
        """Applies Workloads of 1 cpu and waits until they run; returns the worker of each."""
        for name in names:
            self.workloads.apply(name, cpu="1", life=life)
        return {name: node_names(self.workloads.wait(name, "Running"))[0] for name in names}

    def end_workload(self, name: str) -> None:
        """Lets the pods of the workload succeed now."""
        for pod in self.workloads.live_pods(self.workloads.uid(name)):
            path = f"/api/v1/namespaces/{self.workloads.namespace}/pods/{pod['metadata']['name']}"
            self.cluster.api.patch(path, {"metadata": {"annotations": {stages.RUN_FOR: "1s"}}})

    def assert_undisturbed(self, *names: str) -> None:
        """Each of these workloads succeeded in its first attempt."""
        for name in names:
            attempts = self.workloads.database.attempts(self.workloads.uid(name))
            assert [(a["attempt"], a["outcome"]) for a in attempts] == [(1, "Succeed")], (name, attempts)


@contextmanager
def scaled_pool(workloads: Workloads, name: str) -> Iterator[ScaledPool]:
    """An existing pool without a provider at first; removes its provider and all its nodes at the end."""
    pool = ScaledPool(workloads, name)
    try:
        yield pool
    finally:
        pool.edit(provider=None)
        workloads.cluster.delete_nodes(pool.nodes())
