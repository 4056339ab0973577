"""The directory of a run, with a record of the processes and directories that have to be cleaned up.

Processes are recorded by id and start time, so that a reused id is never signalled. A directory whose owner died
without cleaning up (a crash, a SIGKILL) is removed by the next run with the same parent directory.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from testing.waiting import ConditionTimeoutError, until

REPO = Path(__file__).resolve().parent.parent.parent
CACHE = REPO / ".cache"


def is_live(process: psutil.Process) -> bool:
    """True when it runs or is stopped; False for a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class ProcessId:
    """Identity of a process: its id, and its start in seconds since the epoch."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        return cls(pid, psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """The process; None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1 and is_live(process)
        except psutil.NoSuchProcess:
            return None
        return process if same else None

    def end(self, *, grace: float = 5) -> None:
        """Ends it with SIGTERM, or with SIGKILL after `grace` seconds. Returns when it is gone."""
        process = self.find()
        if process is None:
            return
        with suppress(psutil.NoSuchProcess):
            if grace > 0:
                process.terminate()
                # A stopped process receives SIGTERM only after SIGCONT.
                process.send_signal(signal.SIGCONT)
                with suppress(ConditionTimeoutError):
                    until(lambda: not is_live(process), what=f"process {self.pid} ends", timeout=grace, interval=0.02)
                    return
            process.kill()
            until(lambda: not is_live(process), what=f"process {self.pid} is dead", timeout=60, interval=0.01)


def temporary_parent() -> Path:
    """Parent of short-lived runs: outside the checkout, because Postgres's user may not be able to enter that."""
    parent = Path(tempfile.gettempdir()) / f"niyanta-{os.geteuid()}"
    parent.mkdir(mode=0o711, exist_ok=True)
    if parent.stat().st_uid != os.geteuid():
        raise PermissionError(f"{parent} belongs to another user")
    return parent


class RunDir:
    """The directory of one run. `destroy` ends its processes and removes everything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, name: str, *, parent: Path | None = None) -> RunDir:
        """A new directory with a unique name, owned by this process; sweeps the parent first."""
        where = parent or temporary_parent()
        where.mkdir(parents=True, exist_ok=True)
        cls.sweep(where)
        path = where / f"{name}-{secrets.token_hex(4)}"
        partial = where / f".{path.name}"
        cls._lay(partial)
        (partial / "owner.json").write_text(json.dumps(asdict(ProcessId.of(os.getpid()))))
        partial.rename(path)
        return cls(path)

    @classmethod
    def persistent(cls, path: Path) -> RunDir:
        """A directory at a fixed path that outlives this process and is never swept."""
        cls._lay(path)
        return cls(path)

    @classmethod
    def sweep(cls, parent: Path) -> None:
        """Destroys the runs below `parent` whose owner is dead."""
        for note in parent.glob("*/owner.json"):
            with suppress(OSError, ValueError):
                if ProcessId(**json.loads(note.read_text())).find() is None:
                    cls(note.parent).destroy()

    @staticmethod
    def _lay(path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o711)  # Postgres's user passes through
        (path / "pids").mkdir(exist_ok=True, mode=0o700)

    def sub(self, name: str) -> Path:
        """A folder in the directory, created when it is missing."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def adopt(self, label: str, pid: int) -> ProcessId:
        """Records a process that `destroy` has to end."""
        process = ProcessId.of(pid)
        note = self.path / "pids" / f"{label}.json"
        note.write_text(json.dumps(asdict(process)))
        return process

    def processes(self) -> dict[str, ProcessId]:
        """The recorded processes by label, newest first."""
        notes = sorted((self.path / "pids").glob("*.json"), key=lambda note: note.stat().st_mtime_ns, reverse=True)
        found = {}
        for note in notes:
            with suppress(OSError, ValueError):
                found[note.stem] = ProcessId(**json.loads(note.read_text()))
        return found

    def forget(self, label: str) -> None:
        """Removes the record of a process that has ended."""
        (self.path / "pids" / f"{label}.json").unlink(missing_ok=True)

    def own_path(self, path: Path) -> None:
        """Records a directory elsewhere that `destroy` has to remove."""
        with (self.path / "paths").open("a") as handle:
            handle.write(f"{path}\n")

    def destroy(self) -> None:
        """Ends every recorded process at once and removes the directories. Safe to call twice."""
        for process in self.processes().values():
            process.end(grace=0)
        self._end_unrecorded()
        with suppress(FileNotFoundError):
            for line in (self.path / "paths").read_text().splitlines():
                shutil.rmtree(line, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _end_unrecorded(self) -> None:
        """Ends processes of kwokctl whose ids were not recorded before its caller died. Only processes whose command
        line has this directory belong to the run."""
        for note in self.path.glob("kwok/clusters/*/pids/*.pid"):
            with suppress(OSError, ValueError, psutil.Error):
                process = psutil.Process(int(note.read_text()))
                if str(self.path) in " ".join(process.cmdline()):
                    process.kill()
