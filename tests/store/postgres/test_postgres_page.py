"""docs/postgres.md: every block that is marked as tested runs here, as written in the page, on real servers."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from niyanta.lifecycle import Door, Event
from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.migrate import migrate, migrations
from niyanta.store.postgres.partitions import maintain_partitions
from niyanta.store.postgres.pool import open_pool
from niyanta.store.postgres.roles import grant_roles
from niyanta.store.reads.router import open_router
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import StoredResponse, SubmissionRequest
from niyanta.store.rows import CustomerRow, WorkloadRow
from niyanta.store.state import StateManager
from testing.processes.postgres import Postgres, as_server_user
from testing.processes.run_directory import REPO, RunDir
from testing.processes.standby import Standby
from testing.waiting import until
from tests.store.make import intake

pytestmark = [pytest.mark.store, pytest.mark.timeout(180)]

_BLOCK = re.compile(r"<!-- tried: ([-\w]+) -->\s*```(\w+)\n(.*?)```", re.DOTALL)
BLOCKS = {name: (kind, text) for name, kind, text in _BLOCK.findall((REPO / "docs" / "postgres.md").read_text())}


def block(name: str, **variables: str) -> str:
    """A block's text, with `$NAME` in SQL replaced as a user would do it."""
    kind, text = BLOCKS[name]
    if kind == "sql":
        for variable, value in variables.items():
            text = text.replace(f"${variable}", value)
    return text


def run_sql(server: Postgres, name: str, database: str = "postgres", **variables: str) -> list[Any]:
    """Runs a block's statements one by one, as psql does; the rows of the last."""
    found: list[Any] = []
    with psycopg.connect(server.dsn_of(database), autocommit=True) as connection:
        for statement in block(name, **variables).split(";\n"):
            if statement.strip():
                cursor = connection.execute(statement.encode())
                found = cursor.fetchall() if cursor.description else []
    return found


def run_sh(server: Postgres, name: str, **variables: str) -> None:
    """Runs a block in a shell, as Postgres's user, with the server's own programs."""
    tools = server.tool("psql").parent
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "PGHOST": "127.0.0.1", "PGPORT": str(server.port)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block(name)],
        env={**env, "PGUSER": "postgres", **variables},
        capture_output=True,
        text=True,
        check=False,
        **as_server_user(),
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def run() -> Iterator[RunDir]:
    found = RunDir.create("page")
    yield found
    found.destroy()


@pytest.fixture
def server(run: RunDir) -> Iterator[Postgres]:
    # The server is killed, not the machine, so the operating system still writes its buffers.
    with Postgres.create(run=run, settings={"synchronous_commit": "on"}) as found:
        run_sql(found, "role")
        yield found


def folder(server: Postgres, name: str) -> Path:
    path = server.run.path / name
    server._own(path)
    return path


@dataclass
class Record:
    """The store in one database, opened for each call."""

    dsn: str

    def add_customer(self) -> None:
        """Adds the Customer of the submissions, as the leader does."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(
                "INSERT INTO customers (name, tier, namespaces)"
                " VALUES ('acme', 'Standard', '{*}') ON CONFLICT DO NOTHING"
            )

    async def submit(self, *names: str, patience: float = 5.0) -> list[str]:
        """Ids of accepted submissions, to which the REST door would answer 202."""
        settings = Settings(dsn=self.dsn, db_pool_min=1, statement_timeout=patience)
        async with await open_pool(settings) as pool:
            record = RestStore(pool, settings)
            ids = []
            for name in names:
                items = [intake(id=str(uuid.uuid4()), door=Door.REST, name=name)]
                (outcome,) = await record.submit(
                    [SubmissionRequest("acme", items, None, lambda _: StoredResponse(202, {}))]
                )
                ids += [verdict.row.id for verdict in outcome.verdicts if verdict.row]
            return ids

    async def rows(self) -> list[WorkloadRow]:
        settings = Settings(dsn=self.dsn, db_pool_min=1)
        async with await open_pool(settings) as pool:
            record = RestStore(pool, settings)
            assert await record.wrong_counters() == []
            return [row async for row in record.get_active()]

    async def names(self) -> set[str]:
        return {row.name for row in await self.rows()}


def identity(server: Postgres, database: str) -> str:
    with psycopg.connect(server.dsn_of(database)) as connection:
        return str((connection.execute("SELECT identity FROM meta").fetchone() or [""])[0])


async def test_the_roles_are_enough_for_each_process(server: Postgres) -> None:
    owner, operator, door = (
        f"postgresql://{role}@127.0.0.1:{server.port}/niyanta"
        for role in ("niyanta", "niyanta_operator", "niyanta_door")
    )
    migrate(owner)
    run_sql(server, "role-replicas")
    run_sql(server, "three-roles", "niyanta")
    grant_roles(owner, door="niyanta_door", operator="niyanta_operator")
    settings = Settings(dsn=operator, db_pool_min=1)
    async with await open_pool(settings) as pool:
        assert await Leadership(pool, settings.identity, 4.0).try_acquire() == 1
        await StateManager(pool, settings).upsert_customers([CustomerRow("acme", "Standard", {}, ("*",))])
    await asyncio.to_thread(maintain_partitions, operator)
    (id_,) = await Record(door).submit("one")
    settings = Settings(dsn=door, db_pool_min=1)
    async with await open_pool(settings) as pool:
        record = RestStore(pool, settings)
        await record.move(id_, Event.SUSPEND)
        assert await record.rate_acquire("acme", limit=5, expiry=1, amount=1)
        await record.prune()
        assert (await record.get_queue_depth()).total.suspended == 1
    with Standby.of(server) as replica:
        reading = owner.replace(str(server.port), str(replica.port))
        async with await open_router(
            Settings(dsn=owner, replica_dsns=reading, db_pool_min=1, replica_check_interval=0.1)
        ) as router:
            await asyncio.to_thread(
                until, lambda: all(found.in_use for found in router.health()), what="it may look", interval=0.02
            )


async def test_a_pooler_in_transaction_mode_needs_nothing_of_a_session(server: Postgres) -> None:
    run_sql(server, "pooler")
    owner = f"postgresql://niyanta@127.0.0.1:{server.port}/niyanta"
    migrate(owner)
    Record(owner).add_customer()
    settings = Settings(dsn=owner, db_pool_min=1, db_pool_max=2, db_transaction_pooler=True)
    async with await open_pool(settings) as pool:
        record = RestStore(pool, settings)
        for _ in range(8):
            assert await record.get_queue_depth("acme")
        async with pool.connection() as connection:
            for name, value in (("statement_timeout", "5s"), ("TimeZone", "UTC"), ("transaction_timeout", "7s")):
                assert await (await connection.execute(f"SHOW {name}".encode())).fetchone() == (value,)
            prepared = await connection.execute(b"SELECT count(*) FROM pg_prepared_statements")
            assert await prepared.fetchone() == (0,)
            own = b"SELECT count(*) FROM pg_settings WHERE source = 'session' AND name <> 'application_name'"
            assert await (await connection.execute(own)).fetchone() == (0,)
    assert len(await Record(owner).submit("one", "two")) == 2


def test_what_to_set_and_look_at_is_known_to_postgres(server: Postgres) -> None:
    owner = f"postgresql://niyanta@127.0.0.1:{server.port}/niyanta"
    migrate(owner)
    Record(owner).add_customer()
    run_sql(server, "autovacuum")
    assert len(run_sql(server, "watch", "niyanta")) == 5


@pytest.mark.parametrize("release", ["this", "an older"])
async def test_a_dump_is_restored_and_migrated(server: Postgres, release: str) -> None:
    database = server.dsn_of("niyanta")
    known = migrations() if release == "this" else migrations()[:7]
    migrate(database, known=known)
    ids: list[str] = []
    if release == "this":
        Record(database).add_customer()
        ids = await Record(database).submit("one", "two")
    backup = folder(server, "backup")
    run_sh(server, "dump", BACKUP=str(backup))
    restored = server.create_database("niyanta_restored")
    run_sh(server, "restore", BACKUP=str(backup))
    assert migrate(restored) == [migration.name for migration in migrations()[len(known) :]]
    assert identity(server, "niyanta_restored") == identity(server, "niyanta")
    run_sql(server, "restored", "niyanta_restored")
    assert identity(server, "niyanta_restored") != identity(server, "niyanta")
    assert [row.id for row in await Record(restored).rows()] == sorted(ids)
    Record(restored).add_customer()
    assert len(await Record(restored).submit("three")) == 1


async def test_the_record_goes_back_to_a_moment(server: Postgres) -> None:
    database = server.dsn_of("niyanta")
    migrate(database)
    Record(database).add_customer()
    archive, backup = folder(server, "archive"), folder(server, "backup")
    run_sql(server, "archive", ARCHIVE=str(archive))
    server.stop()
    server.start()
    await Record(database).submit("before-the-backup")
    run_sh(server, "base-backup", BACKUP=str(backup))
    await Record(database).submit("after-the-backup")
    moment = server.value("SELECT clock_timestamp()::text")
    await Record(database).submit("by-accident")
    server.value("SELECT pg_switch_wal()")
    until(
        lambda: server.value("SELECT last_archived_wal FROM pg_stat_archiver") and _archived(server, archive),
        what="the log is archived",
    )
    server.stop()
    with Restored(server.run, name="restored", durable=True, settings={}) as restored:
        run_sh(
            server,
            "point-in-time",
            BACKUP=str(backup),
            ARCHIVE=str(archive),
            PGDATA=str(restored.make()),
            MOMENT=moment,
        )
        restored.start()
        until(lambda: not restored.value("SELECT pg_is_in_recovery()"), what="it is promoted")
        again = restored.dsn_of("niyanta")
        assert migrate(again) == []
        before = identity(restored, "niyanta")
        run_sql(restored, "restored", "niyanta")
        assert identity(restored, "niyanta") != before
        assert await Record(again).names() == {"before-the-backup", "after-the-backup"}
        assert len(await Record(again).submit("goes-on")) == 1


def _archived(server: Postgres, archive: Path) -> bool:
    """True when the last finished segment is archived."""
    name = server.value("SELECT pg_walfile_name(pg_current_wal_lsn() - 1::numeric)")
    return (archive / str(name)).exists() or len(list(archive.iterdir())) >= 2


class Restored(Postgres):
    """A server whose data directory is made by other means."""

    def make(self) -> Path:
        self.log.touch()
        self._own(self.data)
        return self.data


async def test_a_replica_is_made_as_the_page_says(server: Postgres) -> None:
    replica = Restored(server.run, name="by-hand", durable=True, settings={})
    with replica:
        run_sh(server, "replica", PGDATA=str(replica.make()))
        replica.start()
        until(
            lambda: server.value("SELECT active FROM pg_replication_slots WHERE slot_name = 'niyanta_1'"),
            what="streams",
        )
    until(lambda: not server.value("SELECT active FROM pg_replication_slots"), what="the slot is free")
    server.value("SELECT pg_drop_replication_slot('niyanta_1')")


async def test_accepted_work_survives_the_primary_with_a_synchronous_standby(server: Postgres) -> None:
    database = server.dsn_of("niyanta")
    migrate(database)
    Record(database).add_customer()
    with Standby.of(server) as standby:
        run_sql(server, "synchronous")
        until(
            lambda: server.value("SELECT sync_state FROM pg_stat_replication") == "quorum",
            what="the standby is synchronous",
        )
        ids = await Record(database).submit(*(f"w{number}" for number in range(20)))
        await asyncio.to_thread(standby.stop)
        with pytest.raises(StoreUnavailableError):
            await Record(database).submit("nobody-else-has-it", patience=1.0)
        await asyncio.to_thread(standby.start)
        ids += await Record(database).submit("goes-on")
        server.kill()
        await asyncio.to_thread(standby.promote)
        # Otherwise commits would wait for a standby that does not exist yet.
        standby._execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        standby._execute("SELECT pg_reload_conf()")
        assert set(ids) <= {row.id for row in await Record(standby.dsn_of("niyanta")).rows()}


async def test_what_is_lost_without_one(server: Postgres) -> None:
    database = server.dsn_of("niyanta")
    migrate(database)
    Record(database).add_customer()
    with Standby.of(server) as standby:
        await Record(database).submit("sent-over")
        await asyncio.to_thread(standby.catch_up)
        await asyncio.to_thread(standby.cut)
        await Record(database).submit("accepted-and-lost")
        server.kill()
        await asyncio.to_thread(standby.promote)
        assert await Record(standby.dsn_of("niyanta")).names() == {"sent-over"}
        run_sql(standby, "restored", "niyanta")


def test_every_block_is_tried() -> None:
    """Every block that the page marks as tested is named in a test."""
    named = set(re.findall(r'"([-\w]+)"', Path(__file__).read_text(encoding="utf-8")))
    assert set(BLOCKS) <= named
