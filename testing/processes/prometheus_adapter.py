"""prometheus-adapter with the rules of hpa/, and the Prometheus that it queries, as local processes."""

from __future__ import annotations

import subprocess

import yaml

from testing.cluster import build
from testing.environment import Environment
from testing.processes.aggregated_api import AggregatedApi, write_certificates
from testing.processes.free_ports import free_ports
from testing.scenarios.scaling_timeline import HPA_FOLDER

NAMESPACE = "monitoring"
SERVICE = "prometheus-adapter"


class PrometheusAdapter:
    """prometheus-adapter and Prometheus for an environment without Niyanta's own metrics adapter; end with its run."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._bin = build.ensure_tools(("prometheus", "prometheus-adapter"))
        self._folder = env.run.sub("prometheus")
        self._log = env.log_dir / "prometheus-adapter.log"

    def start(self) -> None:
        """Scrapes the running operators every second, and serves the rules of hpa/prometheus-adapter/values.yaml."""
        cluster, folder = self._env.cluster, self._folder
        cluster.create_namespace(NAMESPACE)
        authority = write_certificates(folder, f"{SERVICE}.{NAMESPACE}.svc")
        prometheus, secure = free_ports(2)
        values = yaml.safe_load((HPA_FOLDER / "prometheus-adapter" / "values.yaml").read_text())
        (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": values["rules"]["custom"]}))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(self._scraping()))
        self._process(
            "prometheus",
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        )
        config = cluster.kubeconfig
        self._process(
            "prometheus-adapter",
            "--bind-address=127.0.0.1",
            f"--secure-port={secure}",
            f"--prometheus-url=http://127.0.0.1:{prometheus}",
            f"--config={folder / 'rules.yaml'}",
            "--metrics-relist-interval=2s",
            "--metrics-max-age=2m",
            *(f"--{kind}-kubeconfig={config}" for kind in ("lister", "authentication", "authorization")),
            f"--tls-cert-file={folder / 'tls.crt'}",
            f"--tls-private-key-file={folder / 'tls.key'}",
        )
        # The Helm chart of prometheus-adapter registers this version.
        served = AggregatedApi("custom.metrics.k8s.io", "v1beta1", SERVICE, NAMESPACE, secure)
        served.apply(cluster, authority)
        served.wait(cluster, self._log)

    def _scraping(self) -> dict[str, object]:
        targets = [f"127.0.0.1:{operator.metrics_port}" for operator in self._env.operators if operator.running]
        # Targets of a ServiceMonitor have this label.
        job = {"targets": targets, "labels": {"namespace": self._env.namespace}}
        scrape = {"job_name": "niyanta", "static_configs": [job]}
        return {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}

    def _process(self, name: str, *arguments: str) -> None:
        with self._log.open("ab") as log:
            child = subprocess.Popen(
                [str(self._bin / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._folder,
            )
        self._env.run.adopt(name, child.pid)
