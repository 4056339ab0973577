"""A `niyanta` command as a local process: its environment, its HTTP endpoints, and signals to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from testing.processes.free_ports import free_port
from testing.processes.run_directory import REPO, ProcessId, RunDir
from testing.waiting import until

OPERATOR_NAMESPACE = "niyanta-system"


class ProcessError(RuntimeError):
    """A `niyanta` process failed or exited unexpectedly; the message has the end of its log."""


def niyanta_command() -> str:
    """The console script of the virtual environment this Python belongs to."""
    return str(Path(sys.executable).parent / "niyanta")


def clean_environment() -> dict[str, str]:
    """This process's environment without variables that configure Niyanta or name a cluster."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("NIYANTA_", "KUBECONFIG"))}


class OperatorProcess:
    """One `niyanta operator` (or another long-running subcommand). Signals go to this process alone, by its id.

    Attributes:
        identity: NIYANTA_IDENTITY, the holder's name in the leadership row.
        metrics_port: serves /metrics, /healthz and /readyz on loopback.
        log: file with its output.
    """

    def __init__(
        self, child: subprocess.Popen[bytes] | None, known: ProcessId, *, identity: str, metrics_port: int, log: Path
    ) -> None:
        self._child = child
        self._known = known
        self.identity = identity
        self.metrics_port = metrics_port
        self.log = log

    @classmethod
    def start(
        cls,
        *,
        run: RunDir,
        identity: str,
        dsn: str,
        kubeconfig: Path | None,
        log: Path,
        namespace: str = OPERATOR_NAMESPACE,
        subcommand: Sequence[str] = ("operator",),
        extra_env: Mapping[str, str] | None = None,
        metrics_port: int | None = None,
    ) -> OperatorProcess:
        """Starts it and returns at once; `wait_ready` waits. The log file is appended to.

        Args:
            run: ends the process at the latest.
            kubeconfig: None for processes without Kubernetes credentials (the REST door).
            metrics_port: by default a free one.
        """
        port = metrics_port or free_port()
        env = {
            **clean_environment(),
            "NIYANTA_DSN": dsn,
            "NIYANTA_NAMESPACE": namespace,
            "NIYANTA_IDENTITY": identity,
            "NIYANTA_METRICS_PORT": str(port),
            "NIYANTA_LOG_FORMAT": "json",
            "PYTHONUNBUFFERED": "1",
            **({"NIYANTA_KUBECONFIG": str(kubeconfig)} if kubeconfig is not None else {}),
            **(extra_env or {}),
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                [niyanta_command(), *subcommand],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=env,
                cwd=REPO,
            )
        known = run.adopt(f"process-{identity}", child.pid)
        return cls(child, known, identity=identity, metrics_port=port, log=log)

    @property
    def pid(self) -> int:
        return self._known.pid

    @property
    def running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._known.find() is not None

    @property
    def returncode(self) -> int | None:
        """Exit code once it has ended (negative: the signal); None while it runs."""
        return self._child.poll() if self._child is not None else None

    def http(self, path: str, *, timeout: float = 20) -> tuple[int, str]:
        """Status and text of a GET on the metrics port; status 0 without an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=timeout) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, TimeoutError) as error:
            return 0, str(error)

    def metrics(self) -> str:
        return self.http("/metrics")[1]

    def wait_ready(self, timeout: float = 90) -> None:
        """Waits for 200 on /readyz.

        Raises:
            ProcessError: it exited instead.
        """

        def ready() -> bool:
            if not self.running:
                raise ProcessError(f"{self.identity} exited ({self.returncode}):\n{self.log_tail()}")
            return self.http("/readyz")[0] == 200

        until(ready, what=f"{self.identity} answers /readyz", timeout=timeout)

    def wait_exit(self, timeout: float = 60) -> int | None:
        """Waits until it has ended; returns its exit code."""
        until(lambda: not self.running, what=f"{self.identity} has exited", timeout=timeout, interval=0.05)
        return self.returncode

    def sigkill(self) -> None:
        """Sends SIGKILL, and returns when the process is gone."""
        self._signal(signal.SIGKILL)
        self.wait_exit()

    def sigstop(self) -> None:
        self._signal(signal.SIGSTOP)

    def sigcont(self) -> None:
        self._signal(signal.SIGCONT)

    def terminate(self, timeout: float = 60) -> int | None:
        """Sends SIGTERM, as the kubelet does, and SIGKILL after `timeout` seconds; returns the exit code."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        with suppress(AssertionError):
            return self.wait_exit(timeout)
        self.sigkill()
        return self.returncode

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self.running and (process := self._known.find()) is not None:
            process.send_signal(number)
