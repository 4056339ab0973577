"""KEDA as local processes: its operator, and its external metrics adapter behind an APIService.

Both run with the administrator's credentials: the ScaledObject of hpa/keda is under test, not KEDA's own roles.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from testing.cluster import build
from testing.environment import Environment
from testing.processes.aggregated_api import AggregatedApi, write_certificates
from testing.processes.free_ports import free_ports

NAMESPACE = "keda"
ADAPTER = "keda-metrics-apiserver"
MODULE = build.MODULE / "keda"


class Keda:
    """KEDA in an environment; its processes end with the environment's run."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._bin = build.ensure_tools(("keda-operator", "keda-adapter"))
        self._certificates = env.run.sub("keda")
        self._log = env.log_dir / "keda.log"

    def start(self) -> None:
        """Installs the custom resources and the APIService, starts both processes and waits until they answer."""
        cluster = self._env.cluster
        definitions = str(module_folder() / "config" / "crd" / "bases")
        cluster.kubectl("apply", "--server-side", "-f", definitions)
        cluster.kubectl("wait", "--for", "condition=established", "--timeout=60s", "-f", definitions)
        cluster.create_namespace(NAMESPACE)
        authority = write_certificates(self._certificates, f"{ADAPTER}.{NAMESPACE}.svc")
        health, grpc, secure, metrics = free_ports(4)
        self._process(
            "keda-operator",
            f"--health-probe-bind-address=127.0.0.1:{health}",
            f"--metrics-service-bind-address=127.0.0.1:{grpc}",
            f"--cert-dir={self._certificates}",
            "--enable-prometheus-metrics=false",
            "--enable-webhook-patching=false",
            "--enable-apiservice-patching=false",
        )
        config = cluster.kubeconfig
        self._process(
            "keda-adapter",
            "--bind-address=127.0.0.1",
            f"--secure-port={secure}",
            f"--port={metrics}",
            f"--metrics-service-address=127.0.0.1:{grpc}",
            *(f"--{kind}-kubeconfig={config}" for kind in ("lister", "authentication", "authorization")),
            f"--cert-dir={self._certificates}",
            f"--tls-cert-file={self._certificates / 'tls.crt'}",
            f"--tls-private-key-file={self._certificates / 'tls.key'}",
        )
        served = AggregatedApi("external.metrics.k8s.io", "v1beta1", ADAPTER, NAMESPACE, secure)
        served.apply(cluster, authority)
        served.wait(cluster, self._log)

    def _process(self, name: str, *arguments: str) -> None:
        with self._log.open("ab") as log:
            child = subprocess.Popen(
                [str(self._bin / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "KUBECONFIG": str(self._env.cluster.kubeconfig), **_environment()},
                cwd=self._certificates,
            )
        self._env.run.adopt(name, child.pid)


def _environment() -> Mapping[str, str]:
    return {"POD_NAMESPACE": NAMESPACE, "WATCH_NAMESPACE": "", "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE}


def module_folder() -> Path:
    """KEDA's source in Go's module cache, which has its custom resource definitions."""
    command = ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/kedacore/keda/v2"]
    done = subprocess.run(
        command, cwd=MODULE, env=build.build_environment(), capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())
