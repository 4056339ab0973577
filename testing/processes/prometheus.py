"""Prometheus as a local process: scrapes ports, evaluates rules, and answers queries over its HTTP API."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testing.cluster.build import ensure_tools
from testing.processes.free_ports import free_port
from testing.processes.niyanta import clean_environment
from testing.processes.run_directory import ProcessId, RunDir
from testing.waiting import until

JSON = dict[str, Any]


class QueryError(AssertionError):
    """Prometheus refused an expression or a configuration."""


@dataclass
class Prometheus:
    """A server; it ends with the run that it was started in."""

    folder: Path
    port: int
    process: ProcessId
    jobs: Mapping[str, Sequence[int]]
    labels: Mapping[str, str]

    @classmethod
    def start(
        cls, run: RunDir, jobs: Mapping[str, Sequence[int]], *, log: Path, labels: Mapping[str, str] | None = None
    ) -> Prometheus:
        """Scrapes the ports of each job every second; their series have `labels`."""
        program = ensure_tools(("prometheus",)) / "prometheus"
        folder, port = run.sub("prometheus"), free_port()
        _configure(folder, jobs, labels or {}, rules=False)
        with log.open("ab") as output:
            child = subprocess.Popen(
                [
                    str(program),
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--web.enable-lifecycle",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=clean_environment(),
            )
        server = cls(folder, port, run.adopt("prometheus", child.pid), jobs, labels or {})
        until(lambda: server._get("/-/ready"), what="Prometheus is ready", tolerate=True)
        return server

    def use_rules(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Evaluates these groups alone from now on. Raises QueryError when Prometheus refuses them."""
        (self.folder / "rules.yaml").write_text(yaml.safe_dump({"groups": list(groups)}))
        _configure(self.folder, self.jobs, self.labels, rules=True)
        self._get("/-/reload", data=b"")

    def scrape(self, jobs: Mapping[str, Sequence[int]]) -> None:
        """Scrapes these jobs alone from now on."""
        self.jobs = jobs
        _configure(self.folder, self.jobs, self.labels, rules=(self.folder / "rules.yaml").exists())
        self._get("/-/reload", data=b"")

    def query(self, expression: str) -> list[JSON]:
        """Samples of an expression at this moment, without those whose value is NaN."""
        found = self._api("/api/v1/query", query=expression)
        assert found["resultType"] in {"vector", "scalar"}, expression
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        return [sample for sample in found["result"] if sample["value"][1] != "NaN"]

    def label_values(self, label: str, selector: str) -> list[str]:
        """Values of a label among the matching series, as a dashboard variable reads them."""
        return list(self._api(f"/api/v1/label/{label}/values", **{"match[]": selector}))

    def rules(self) -> dict[str, JSON]:
        """Every rule by its name, with its health and state."""
        return {rule["name"]: rule for group in self._api("/api/v1/rules")["groups"] for rule in group["rules"]}

    def firing(self) -> set[str]:
        """Names of the firing alerts."""
        alerts = self._api("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def healthy_targets(self) -> int:
        """Number of targets whose last scrape succeeded."""
        return sum(target["health"] == "up" for target in self._api("/api/v1/targets")["activeTargets"])

    def _api(self, path: str, **query: str) -> Any:
        return json.loads(self._get(f"{path}?{urllib.parse.urlencode(query)}"))["data"]

    def _get(self, path: str, data: bytes | None = None) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data=data, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise QueryError(f"{path}: {error.code} {error.read().decode()}") from error


def _configure(folder: Path, jobs: Mapping[str, Sequence[int]], labels: Mapping[str, str], *, rules: bool) -> None:
    scrapes = [
        {
            "job_name": job,
            "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {**labels}}],
        }
        for job, ports in jobs.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")] if rules else [],
        "scrape_configs": scrapes,
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
