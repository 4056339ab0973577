"""The environment that `make up` leaves behind: found, made and removed by its fixed place below .cache.

.cache/cluster is a link to a run directory outside the checkout, which Postgres's user may not be able to enter.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from testing.environment import Environment
from testing.processes.run_directory import CACHE, REPO, RunDir, temporary_parent

PLACE = CACHE / "cluster"
KUBECONFIG = PLACE / "kubeconfig"
DSN_FILE = CACHE / "dsn"
LOGS = CACHE / "log"
STATE = "standing.json"


def run_dir() -> RunDir:
    """The run directory of this checkout, made if need be."""
    mark = hashlib.sha256(str(REPO).encode()).hexdigest()[:8]
    run = RunDir.persistent(temporary_parent() / f"up-{mark}")
    CACHE.mkdir(exist_ok=True)
    if PLACE.is_symlink() or PLACE.is_file():
        PLACE.unlink()
    elif PLACE.exists():
        shutil.rmtree(PLACE)
    PLACE.symlink_to(run.path)
    return run


def is_running() -> bool:
    """Whether all that was started still runs."""
    with suppress(OSError, ValueError):
        state = json.loads((PLACE / STATE).read_text())
        alive = {label for label, process in RunDir(PLACE.resolve()).processes().items() if process.find()}
        return set(state["processes"]) <= alive
    return False


def record(environment: Environment) -> None:
    """Notes what runs, for the next `make up` and for `make down`."""
    state = {
        "name": environment.cluster.name,
        "kind": environment.cluster.kind.value,
        "bin": str(environment.cluster.bin_dir or ""),
        "processes": sorted(environment.run.processes()),
        "ports": {operator.identity: operator.metrics_port for operator in environment.operators},
    }
    (environment.run.path / STATE).write_text(json.dumps(state, indent=2))
    DSN_FILE.touch(mode=0o600)
    DSN_FILE.write_text(environment.dsn + "\n")


def remove() -> bool:
    """Ends and removes everything of it; whether there was anything. Safe at any time."""
    there = PLACE.exists()
    with suppress(OSError, ValueError):
        state = json.loads((PLACE / STATE).read_text())
        if state["kind"] == "kind":
            program = str(Path(state["bin"]) / "kind") if state["bin"] else "kind"
            subprocess.run([program, "delete", "cluster", "--name", state["name"]], check=False)
    if there:
        RunDir(PLACE.resolve()).destroy()
    PLACE.unlink(missing_ok=True)
    DSN_FILE.unlink(missing_ok=True)
    return there
