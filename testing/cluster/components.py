"""The processes of a control plane that kwokctl started: find one, or replace it as a machine's supervisor would."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from testing.processes.run_directory import ProcessId, RunDir
from testing.waiting import until

API_SERVER = "kube-apiserver"


def process_of(run: RunDir, cluster: str, component: str) -> psutil.Process:
    """The running process of a component."""
    return psutil.Process(int(_pid_file(run, cluster, component).read_text()))


def replace(run: RunDir, cluster: str, component: str, *, ready: Callable[[], object], timeout: float = 120) -> None:
    """Kill a component's process (SIGKILL), start another with the same command line, directory and environment, and
    return when `ready` is true.

    A process that ends is started again, as a supervisor would: clients that try to connect to its port meanwhile can
    hold that port for a moment. The output goes where that of the old process went.

    Raises:
        ConditionTimeoutError: it is not ready in time.
    """
    old = process_of(run, cluster, component)
    command, directory, environment = old.cmdline(), old.cwd(), old.environ()
    ProcessId.of(old.pid).end(grace=0)
    log = run.path / "kwok" / "clusters" / cluster / "logs" / f"{component}.log"

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            fresh = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        run.adopt(f"cluster-{component}", fresh.pid)
        _pid_file(run, cluster, component).write_text(str(fresh.pid))
        return fresh

    process = start()

    def is_ready() -> object:
        nonlocal process
        if process.poll() is not None:
            process = start()
        return ready()

    until(is_ready, what=f"{component} is ready", timeout=timeout, interval=0.2, tolerate=True)


def _pid_file(run: RunDir, cluster: str, component: str) -> Path:
    return run.path / "kwok" / "clusters" / cluster / "pids" / f"{component}.pid"
