"""A complete environment: cluster, Postgres, the installed chart and operator processes.

`make up`, the demo, the pytest fixtures and the bench all start an `Environment`. Operators run as local processes with
the token of the chart's ServiceAccount, and so with the chart's permissions.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testing.cluster.cluster import Cluster
from testing.cluster.control_plane import ExtraArgs
from testing.processes.adapter_service import AdapterService
from testing.processes.niyanta import (
    OPERATOR_NAMESPACE,
    OperatorProcess,
    ProcessError,
    clean_environment,
    niyanta_command,
)
from testing.processes.postgres import Postgres
from testing.processes.run_directory import CACHE, REPO, RunDir

CHART = REPO / "charts" / "niyanta"
RELEASE = "niyanta"
SERVICE_ACCOUNT = "niyanta-operator"


@dataclass
class Environment:
    """A running environment. `start` makes one, `stop` removes it; as a context manager it stops itself.

    Attributes:
        run: directory and records of what was started.
        log_dir: one file per process.
        operators: the processes started here, in order, dead ones included.
        adapter: the Service of the metrics adapter; None when the adapter is disabled.
    """

    run: RunDir
    cluster: Cluster
    postgres: Postgres
    log_dir: Path
    namespace: str = OPERATOR_NAMESPACE
    operators: list[OperatorProcess] = field(default_factory=list)
    adapter: AdapterService | None = None
    _migrated: bool = False
    _kubeconfig: Path | None = None

    @classmethod
    def start(
        cls,
        name: str = "e2e",
        *,
        run: RunDir | None = None,
        log_dir: Path | None = None,
        operators: int = 0,
        durable: bool = False,
        shed_load: bool = False,
        fast_node_loss: bool = True,
        extra_args: ExtraArgs | None = None,
        audit: bool = False,
        adapter: bool = False,
        chart_values: Mapping[str, Any] | None = None,
        operator_env: Mapping[str, str] | None = None,
    ) -> Environment:
        """Starts everything and waits until it is ready.

        Args:
            name: prefix of the cluster's name and of the log files' folder.
            run: the run it belongs to; by default a new one, which is swept after this process has died.
            operators: number of operators to start, named operator-1, ...
            durable: Postgres and etcd sync as in production.
            shed_load, fast_node_loss, extra_args: see `Cluster.create`.
            audit: the API server logs the requests of operators (`Cluster.audit_events`).
            adapter: HorizontalPodAutoscalers can read metrics through the API server once an operator is ready. Only
                with kwokctl: elsewhere API servers can't reach a local process. While no operator runs, namespaces
                can't be deleted: Kubernetes needs an answer of every APIService for that.
            chart_values: values of the chart beside those that `install` sets.
            operator_env: further environment variables of these operators.
        """
        owner = run or RunDir.create(name)
        logs = log_dir or CACHE / "log" / owner.path.name
        logs.mkdir(parents=True, exist_ok=True)
        try:
            postgres = Postgres.create(durable=durable, run=owner)
            cluster = Cluster.create(
                name,
                run=owner,
                shed_load=shed_load,
                fast_node_loss=fast_node_loss,
                extra_args=extra_args,
                durable=durable,
                audited_namespace=OPERATOR_NAMESPACE if audit else "",
            )
            environment = cls(owner, cluster, postgres, logs)
            if adapter:
                environment.adapter = AdapterService.start(owner)
            environment.install(chart_values)
            for number in range(1, operators + 1):
                environment.start_operator(f"operator-{number}", extra_env=operator_env)
        except BaseException:
            owner.destroy()
            raise
        return environment

    @property
    def dsn(self) -> str:
        return self.postgres.dsn

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        """Installs the chart with 0 replicas, because the operator and the API run as local processes."""
        base: dict[str, Any] = {"operator": {"replicas": 0}, "api": {"replicas": 0}, "postgres": {"dsn": self.dsn}}
        base["scaling"] = {"kwok": {"enabled": True}}
        base["image"] = {"repository": "registry.invalid/niyanta"}
        if self.adapter is not None:
            base = _merge(base, self.adapter.chart_values())
        merged = _merge(base, values or {})
        self.cluster.install_chart(RELEASE, CHART, namespace=self.namespace, values=merged, hooks=False)

    def operator_kubeconfig(self) -> Path:
        """A kubeconfig with the token of the chart's ServiceAccount as its only credentials."""
        if self._kubeconfig is None:
            self._kubeconfig = self.cluster.service_account_kubeconfig(self.namespace, SERVICE_ACCOUNT)
        return self._kubeconfig

    def migrate(self) -> None:
        """Applies the SQL migrations with `niyanta migrate`.

        Raises:
            ProcessError: it failed; the message has its output.
        """
        self.niyanta("migrate")
        self._migrated = True

    def niyanta(self, *args: str, extra_env: Mapping[str, str] | None = None, timeout: float = 120) -> str:
        """Runs a `niyanta` command on this environment's database until it ends; returns its output."""
        done = subprocess.run(
            [niyanta_command(), *args],
            env={**clean_environment(), "NIYANTA_DSN": self.dsn, **(extra_env or {})},
            capture_output=True,
            text=True,
            cwd=REPO,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise ProcessError(f"niyanta {' '.join(args)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
        return done.stdout

    def start_operator(
        self, identity: str | None = None, *, extra_env: Mapping[str, str] | None = None, wait: bool = True
    ) -> OperatorProcess:
        """Starts one more operator, after the migrations; with `wait`, returns when it is ready."""
        if not self._migrated:
            self.migrate()
        name = identity or f"operator-{len(self.operators) + 1}"
        operator = OperatorProcess.start(
            run=self.run,
            identity=name,
            dsn=self.dsn,
            kubeconfig=self.operator_kubeconfig(),
            namespace=self.namespace,
            log=self.log_dir / f"{name}.log",
            extra_env={**(self.adapter.operator_env(name) if self.adapter else {}), **(extra_env or {})},
        )
        self.operators.append(operator)
        if wait:
            operator.wait_ready()
        return operator

    def start_api(
        self, identity: str = "api-1", *, extra_env: Mapping[str, str] | None = None, wait: bool = True
    ) -> OperatorProcess:
        """Starts a REST door (`niyanta api`), which has no Kubernetes credentials."""
        if not self._migrated:
            self.migrate()
        api = OperatorProcess.start(
            run=self.run,
            identity=identity,
            dsn=self.dsn,
            kubeconfig=None,
            namespace=self.namespace,
            subcommand=("api",),
            log=self.log_dir / f"{identity}.log",
            extra_env=extra_env,
        )
        self.operators.append(api)
        if wait:
            api.wait_ready()
        return api

    def stop_operators(self) -> None:
        """Ends every process started here with SIGTERM."""
        for operator in self.operators:
            operator.terminate()

    def stop(self) -> None:
        """Removes everything. The logs of the processes stay in `log_dir`."""
        self.stop_operators()
        self.cluster.delete()
        self.postgres.delete()
        self.run.destroy()

    def __enter__(self) -> Environment:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The union of nested values; those of `over` take precedence."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
