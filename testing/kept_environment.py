"""The environment that `make up` leaves running: its fixed place below .cache, its record, and its removal.

.cache/cluster is a link to a run directory outside the checkout, because the user that Postgres runs as may not be able
to enter the checkout.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from testing.environment import Environment
from testing.processes.run_directory import CACHE, REPO, RunDir, temporary_parent

PLACE = CACHE / "cluster"
KUBECONFIG = PLACE / "kubeconfig"
DSN_FILE = CACHE / "dsn"
KEY_FILE = CACHE / "api-key"
"""API key of a customer."""
ADMIN_KEY_FILE = CACHE / "admin-key"
"""API key that sees every customer."""
LOGS = CACHE / "log"
STATE = "environment.json"


def run_dir() -> RunDir:
    """The run directory of this checkout; created when it does not exist."""
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
    """True when every process that was started still runs."""
    with suppress(OSError, ValueError):
        alive = {label for label, process in RunDir(PLACE.resolve()).processes().items() if process.find()}
        return set(state()["processes"]) <= alive
    return False


def record(environment: Environment, *, api_port: int, run_seconds: int, has_samples: bool) -> None:
    """Writes down what runs, for the next `make up` and for `make down`.

    Args:
        environment: the running environment.
        api_port: port of the REST door on 127.0.0.1.
        run_seconds: how long a simulated pod runs; 0 when it runs until it is stopped.
        has_samples: True when the pools, customers and nodes of the examples were created.
    """
    state = {
        "name": environment.cluster.name,
        "kind": environment.cluster.kind.value,
        "bin": str(environment.cluster.bin_dir or ""),
        "processes": sorted(environment.run.processes()),
        "ports": {operator.identity: operator.metrics_port for operator in environment.operators},
        "api_port": api_port,
        "run_seconds": run_seconds,
        "has_samples": has_samples,
    }
    (environment.run.path / STATE).write_text(json.dumps(state, indent=2))
    write_secret(DSN_FILE, environment.dsn)


def state() -> dict[str, Any]:
    """The record of the running environment.

    Raises:
        OSError: there is none.
    """
    found: dict[str, Any] = json.loads((PLACE / STATE).read_text())
    return found


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only this user can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text + "\n")


def remove() -> bool:
    """Ends and removes the environment; True when there was one. Safe to call at any time."""
    existed = PLACE.exists()
    with suppress(OSError, ValueError):
        found = state()
        if found["kind"] == "kind":
            program = str(Path(found["bin"]) / "kind") if found["bin"] else "kind"
            subprocess.run([program, "delete", "cluster", "--name", found["name"]], check=False)
    if existed:
        RunDir(PLACE.resolve()).destroy()
    for path in (PLACE, DSN_FILE, KEY_FILE, ADMIN_KEY_FILE):
        path.unlink(missing_ok=True)
    return existed
