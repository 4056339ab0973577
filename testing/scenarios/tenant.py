"""A tenant: a namespace, a Customer, a WorkerPool and nodes of its own, and credentials that reach nothing else.

Tests of containment have two: a hostile one, and a bystander whose work must be placed all the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from testing.cluster.api_client import JSON, Api
from testing.cluster.cluster import NodeSpec
from testing.environment import Environment
from testing.scenarios.placement import TEST_LABEL
from testing.scenarios.workloads import GROUP, OperatorDatabase, Workloads, customer_manifest, pool_manifest

ACCOUNT = "user"
EDIT_ROLES = ("edit", "niyanta-editor")
"""ClusterRoles of the tenant's ServiceAccount in its namespace, as an administrator grants them."""


class Tenant:
    """`name` is the name of the namespace, the Customer, the WorkerPool and the prefix of the nodes."""

    def __init__(self, env: Environment, name: str, *, nodes: int = 1, cpu: str = "64", **customer: Any) -> None:
        """`customer`: further fields of the Customer's spec."""
        self._cluster = env.cluster
        self._numbers = itertools.count()
        self.name = name
        self._cluster.create_namespace(name, labels={"niyanta.io/enabled": "true"})
        self._cluster.api.post(f"{GROUP}/customers", customer_manifest(name, name, **customer))
        self._pool = f"{GROUP}/namespaces/{env.namespace}/workerpools"
        pool = pool_manifest(name, env.namespace, {TEST_LABEL: name}, customers=[name])
        self._cluster.api.post(self._pool, pool)
        specs = [
            NodeSpec(f"{name}-{number}", cpu=cpu, memory="256Gi", pods=5_000, labels={TEST_LABEL: name})
            for number in range(nodes)
        ]
        self._nodes = [spec.name for spec in specs]
        self._cluster.create_nodes(specs)
        self.workloads = Workloads(self._cluster, OperatorDatabase(env.dsn), name, name)
        self.path = f"{GROUP}/namespaces/{name}/workloads"

    def user(self) -> Api:
        """A client with the rights of this tenant's users: the ClusterRoles `edit` and `niyanta-editor` in its
        namespace."""
        base = f"/api/v1/namespaces/{self.name}"
        account = {"metadata": {"name": ACCOUNT, "namespace": self.name}}
        self._cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", **account})
        for role in EDIT_ROLES:
            binding = {
                "metadata": {"name": f"{ACCOUNT}-{role}"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": self.name}],
            }
            self._cluster.api.post(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.name}/rolebindings", binding)
        assert self._cluster.api.find(f"{base}/serviceaccounts/{ACCOUNT}")
        return Api(self._cluster.service_account_kubeconfig(self.name, ACCOUNT))

    def open_pool(self, customer: str) -> None:
        """Let the workloads of another Customer onto this tenant's workers too."""
        self._cluster.api.patch(f"{self._pool}/{self.name}", {"spec": {"customers": [self.name, customer]}})

    def place(self, *, timeout: float = 60, life: Mapping[str, str] | None = None) -> float:
        """Create one small Workload and wait until it has run; returns the seconds until its placement was in its
        status. Fails after `timeout` seconds."""
        name = f"ok-{next(self._numbers)}"
        manifest = self.workloads.manifest(name, cpu="10m", memory="8Mi", life=life or {"run_for": "10ms"})
        started = time.monotonic()
        self._cluster.api.post(self.path, manifest)
        self.wait_placed(name, timeout=timeout)
        return time.monotonic() - started

    def wait_placed(self, name: str, *, timeout: float = 60) -> JSON:
        """Wait until a Workload of this tenant is placed, or has run already; returns its status."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.workloads.status(name)
            if status.get("phase") in ("Scheduled", "Running", "Succeeded"):
                return status
            assert time.monotonic() < deadline, f"{self.name}/{name} is not placed within {timeout:g} s: {status}"
            time.sleep(0.02)

    def close(self) -> None:
        """Remove everything."""
        self._cluster.delete_namespace(self.name, wait=False)
        self._cluster.api.delete(f"{self._pool}/{self.name}")
        self._cluster.api.delete(f"{GROUP}/customers/{self.name}")
        self._cluster.delete_nodes(self._nodes)
