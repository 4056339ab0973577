"""A streaming replica of a `Postgres`: made by pg_basebackup, fed through a replication slot, with faults on demand."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import psycopg

from testing.processes.postgres import Postgres, PostgresError, as_server_user
from testing.processes.run_directory import RunDir
from testing.waiting import until


class Standby(Postgres):
    """A replica. `of` makes and starts one; otherwise like `Postgres`."""

    def __init__(self, run: RunDir, *, primary: Postgres, name: str, settings: Mapping[str, str]) -> None:
        # The primary's postgresql.conf comes with the copy.
        super().__init__(run, name=name, durable=True, settings={})
        self._primary = primary
        self._settings = dict(settings)
        self._slot = f"slot_{self.port}"

    @classmethod
    def of(cls, primary: Postgres, *, name: str = "standby", settings: Mapping[str, str] | None = None) -> Standby:
        """Makes and starts a replica of `primary`, in the primary's run.

        Raises:
            PostgresError: the copy could not be made, or did not come up.
        """
        server = cls(primary.run, primary=primary, name=name, settings=settings or {})
        try:
            server._init()
            server.start()
        except BaseException:
            server.delete()
            raise
        return server

    def pause_replay(self) -> None:
        """Received changes are stored but not visible until `resume_replay`."""
        self._execute("SELECT pg_wal_replay_pause()")
        until(
            lambda: self.value("SELECT pg_get_wal_replay_pause_state()") == "paused",
            what="replay is paused",
            interval=0.01,
        )

    def resume_replay(self) -> None:
        """Ends `pause_replay`."""
        self._execute("SELECT pg_wal_replay_resume()")

    def cut(self) -> None:
        """Ends streaming: the replica keeps answering with the changes it has."""
        self._execute("ALTER SYSTEM SET primary_conninfo = ''")
        self._execute("SELECT pg_reload_conf()")
        until(lambda: not self._receiving(), what="streaming has ended", interval=0.01)

    def reconnect(self) -> None:
        """Ends `cut`."""
        self._connect_to(self._primary)
        until(self._receiving, what="it streams again", interval=0.02)

    def follow(self, primary: Postgres) -> None:
        """Streams from another server from now on, without a slot."""
        self._primary = primary
        self._execute("ALTER SYSTEM SET primary_slot_name = ''")
        self._connect_to(primary)

    def _connect_to(self, primary: Postgres) -> None:
        self._execute(f"ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port={primary.port} user=postgres'")
        self._execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Promotes it to a primary; returns when it accepts writes."""
        self._execute("SELECT pg_promote()")
        until(lambda: not self.value("SELECT pg_is_in_recovery()"), what="it is promoted", interval=0.02)

    def catch_up(self) -> None:
        """Returns when everything that the primary has committed until now is visible."""
        position = self._primary.value("SELECT pg_current_wal_flush_lsn()")
        until(
            lambda: self.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position),
            what=f"the replica has replayed up to {position}",
            interval=0.01,
        )

    def delete(self) -> None:
        """Deletes it and its slot on the primary, which would retain WAL from now on."""
        super().delete()
        if self._primary.running:
            slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
            until(lambda: self._drop(slots), what="the slot is free", interval=0.02)

    def _drop(self, statement: str) -> bool:
        try:
            self._primary.value(statement, self._slot)
        except psycopg.errors.ObjectInUse:
            return False
        return True

    def _receiving(self) -> bool:
        return bool(self.value("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"))

    def _init(self) -> None:
        self.log.touch()
        self._own(self.data)
        command: list[Any] = [self.tool("pg_basebackup"), "-h", "127.0.0.1", "-p", self._primary.port, "-U", "postgres"]
        command += ["-D", self.data, "-R", "-X", "stream", "-C", "-S", self._slot, "-c", "fast", "--no-sync"]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False, **as_server_user()
        )
        if done.returncode != 0:
            raise PostgresError(f"pg_basebackup failed:\n{done.stderr}")
        (self.data / "started").unlink(missing_ok=True)
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in self._settings.items())
