"""Reads over a primary and two streaming replicas, all real servers: which one answers, and which are skipped."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError

from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.postgres import queries
from niyanta.store.postgres.migrate import migrate
from niyanta.store.reads.reads import Reads
from niyanta.store.reads.router import ReadRouter, open_router, replica_names
from niyanta.store.rows import CustomerRow
from niyanta.store.state import StateManager
from testing.processes.postgres import Postgres
from testing.processes.standby import Standby
from tests.store.make import intake

pytestmark = [pytest.mark.store, pytest.mark.timeout(180)]

MOST_LAG = 1.0
_EXTRA = {
    "where": b"SELECT inet_server_port()",
    "slow_on_replicas": b"SELECT CASE WHEN pg_is_in_recovery() THEN pg_sleep(30)::text ELSE 'primary' END"
    b" FROM customers",
    "newer_table": b"SELECT count(*) FROM newer_than_the_replicas",
}


@dataclass
class Trio:
    primary: Postgres
    first: Standby
    second: Standby

    @property
    def replicas(self) -> tuple[Standby, Standby]:
        return self.first, self.second


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    with Postgres.create(settings={"synchronous_commit": "on"}) as primary:
        migrate(primary.dsn)
        conflicts = {"max_standby_streaming_delay": "0"}
        with (
            Standby.of(primary, name="first", settings=conflicts) as first,
            Standby.of(primary, name="second") as second,
        ):
            yield Trio(primary, first, second)


@pytest.fixture(autouse=True)
def statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements that show which server answered, or that take long there."""
    library = {**queries._library(), **_EXTRA}
    monkeypatch.setattr(queries, "_library", lambda: library)


@asynccontextmanager
async def routed(primary: str, *replicas: str, **more: Any) -> AsyncIterator[ReadRouter]:
    known: dict[str, Any] = {"max_replica_lag": MOST_LAG, "replica_check_interval": 0.1, "db_pool_min": 1}
    settings = Settings(dsn=primary, replica_dsns="\n".join(replicas), **{**known, "statement_timeout": 2.0, **more})
    async with await open_router(settings) as router:
        yield router


@pytest.fixture
async def router(trio: Trio) -> AsyncIterator[ReadRouter]:
    async with routed(trio.primary.dsn, *(replica.dsn for replica in trio.replicas)) as router:
        await in_use(router, trio.first, trio.second)
        yield router


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], what: str, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def in_use(router: ReadRouter, *wanted: Postgres) -> None:
    """Returns when exactly these replicas are read from."""
    names = {f"127.0.0.1:{server.port}" for server in wanted}

    def so() -> bool:
        return {found.replica for found in router.health() if found.in_use} == names

    await until(so, f"in use: {names}, and no other: {router.health()}")


async def who(reads: Reads) -> int:
    """The port of the server that answers."""
    ((port,),) = await reads._source.fetch("where")
    return int(port)


async def answering(router: ReadRouter, times: int = 6, position: int = 0) -> set[int]:
    return {await who(router.reads(position)) for _ in range(times)}


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def write(router: ReadRouter, name: str) -> None:
    await StateManager(router.primary, Settings()).upsert_customers([CustomerRow(name, "Free")])


async def names(reads: Reads) -> set[str]:
    return {row.name for row in await reads.get_customers()}


async def test_replicas_take_turns_and_the_record_itself_stays_on_the_primary(trio: Trio, router: ReadRouter) -> None:
    replicas = [f"127.0.0.1:{replica.port}" for replica in trio.replicas]
    before = [sample("niyanta_postgres_reads_total", target=name) for name in (*replicas, "primary")]
    seen = [await who(router.reads()) for _ in range(6)]
    assert sorted(seen) == sorted([trio.first.port, trio.second.port] * 3)
    assert all(one != other for one, other in pairwise(seen))
    after = [sample("niyanta_postgres_reads_total", target=name) for name in (*replicas, "primary")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 3, 0]
    one_request = router.reads()
    assert len({await who(one_request) for _ in range(5)}) == 1, "an answer shows one state of the record"
    assert await who(StateManager(router.primary, Settings())) == trio.primary.port
    for name in replicas:
        assert sample("niyanta_postgres_replica_up", replica=name) == 1
        assert sample("niyanta_postgres_replica_lag_seconds", replica=name) < MOST_LAG


async def test_an_idle_primary_does_not_look_like_lag(trio: Trio, router: ReadRouter) -> None:
    end = time.monotonic() + 3 * MOST_LAG
    while time.monotonic() < end:
        assert await answering(router, 2) == {trio.first.port, trio.second.port}
        await asyncio.sleep(0.05)


async def test_a_replica_that_falls_behind_is_skipped_and_comes_back(trio: Trio, router: ReadRouter) -> None:
    name = f"127.0.0.1:{trio.first.port}"
    await asyncio.to_thread(trio.first.pause_replay)
    try:
        await write(router, "late")
        await in_use(router, trio.second)
        assert await answering(router) == {trio.second.port}
        await until(lambda: sample("niyanta_postgres_replica_lag_seconds", replica=name) > MOST_LAG, "the lag is shown")
        assert (
            sample("niyanta_postgres_replica_up", replica=name),
            sample("niyanta_postgres_replica_in_use", replica=name),
        ) == (1, 0)
        assert "late" in await names(router.reads())
    finally:
        await asyncio.to_thread(trio.first.resume_replay)
    await in_use(router, trio.first, trio.second)


async def test_a_replica_that_lost_its_primary_is_behind_although_it_has_replayed_all_it_got(
    trio: Trio, router: ReadRouter
) -> None:
    await asyncio.to_thread(trio.first.cut)
    try:
        await write(router, "after-the-cut")
        await in_use(router, trio.second)
        received = "SELECT pg_last_wal_receive_lsn() IS NULL OR pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()"
        assert await asyncio.to_thread(trio.first.value, received), "by its own account it is up to date"
    finally:
        await asyncio.to_thread(trio.first.reconnect)
    await in_use(router, trio.first, trio.second)


async def test_without_a_fresh_replica_the_primary_answers(trio: Trio, router: ReadRouter) -> None:
    for replica in trio.replicas:
        await asyncio.to_thread(replica.pause_replay)
    try:
        await write(router, "both-late")
        await in_use(router)
        before = sample("niyanta_postgres_reads_on_primary_total", reason="no_replica")
        assert await answering(router, 3) == {trio.primary.port}
        assert sample("niyanta_postgres_reads_on_primary_total", reason="no_replica") == before + 3
    finally:
        for replica in trio.replicas:
            await asyncio.to_thread(replica.resume_replay)
    await in_use(router, trio.first, trio.second)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_no_read_fails_while_a_replica_is_away_and_it_comes_back(
    trio: Trio, router: ReadRouter, how: str
) -> None:
    before = sample("niyanta_postgres_reads_on_primary_total", reason="failed")
    half = router.reads()
    while await who(half) != trio.second.port:
        half = router.reads()
    await asyncio.to_thread(getattr(trio.second, how))
    assert await who(half) == trio.primary.port, "a request under way goes on with the primary"
    assert sample("niyanta_postgres_reads_on_primary_total", reason="failed") > before
    assert trio.second.port not in await answering(router, 10)
    await in_use(router, trio.first)
    assert sample("niyanta_postgres_replica_up", replica=f"127.0.0.1:{trio.second.port}") == 0
    await asyncio.to_thread(trio.second.start)
    await in_use(router, trio.first, trio.second)


async def test_a_replica_that_hangs_costs_a_read_no_more_than_the_statement_timeout(
    trio: Trio, router: ReadRouter
) -> None:
    trio.second.pause()
    try:
        started = time.monotonic()
        ports = await asyncio.gather(*(who(router.reads()) for _ in range(4)))
        assert time.monotonic() - started < 3.5  # 2 s, and what a busy machine adds
        assert set(ports) <= {trio.first.port, trio.primary.port}
        await in_use(router, trio.first)
    finally:
        trio.second.resume()
    await in_use(router, trio.first, trio.second)


async def test_a_read_that_recovery_cancels_is_asked_on_the_primary(trio: Trio) -> None:
    async with routed(trio.primary.dsn, trio.first.dsn, statement_timeout=20.0) as router:
        await in_use(router, trio.first)
        await write(router, "globex")
        await asyncio.to_thread(trio.first.catch_up)
        reading = asyncio.create_task(router.reads()._source.fetch("slow_on_replicas"))
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        await until(lambda: asyncio.to_thread(_true, trio.first, sleeping), "the read is under way")
        # Replaying this lock conflicts with the read of the table. A weaker lock is not replayed at all.
        lock = "BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE; COMMIT"
        await asyncio.to_thread(trio.primary.value, lock)
        assert {row for (row,) in await reading} == {"primary"}
        await in_use(router, trio.first)


def _true(server: Postgres, statement: str) -> bool:
    return bool(server.value(statement))


async def test_a_slow_read_is_not_repeated_on_the_primary(trio: Trio) -> None:
    async with routed(trio.primary.dsn, trio.second.dsn, statement_timeout=1.0) as router:
        await in_use(router, trio.second)
        await write(router, "globex")
        await asyncio.to_thread(trio.second.catch_up)
        before = sample("niyanta_postgres_reads_total", target="primary")
        with pytest.raises(StoreUnavailableError, match="statement timeout"):
            await router.reads()._source.fetch("slow_on_replicas")
        assert sample("niyanta_postgres_reads_total", target="primary") == before
        assert await answering(router, 2) == {trio.second.port}


async def test_a_schema_that_is_not_there_yet_is_no_error(trio: Trio, router: ReadRouter) -> None:
    """A new release migrates the primary and starts; its replicas still have the old schema."""
    for replica in trio.replicas:
        await asyncio.to_thread(replica.pause_replay)
    try:
        await asyncio.to_thread(trio.primary.value, "CREATE TABLE newer_than_the_replicas (a int)")
        assert await router.reads()._source.fetch("newer_table") == [(0,)]
    finally:
        for replica in trio.replicas:
            await asyncio.to_thread(replica.resume_replay)
    await in_use(router, trio.first, trio.second)


async def test_a_client_sees_its_writes_without_waiting(trio: Trio) -> None:
    # Checks are rare here: a replica that has replayed enough is used although its last check is old.
    async with routed(trio.primary.dsn, trio.first.dsn, max_replica_lag=120.0, replica_check_interval=30.0) as router:
        await in_use(router, trio.first)
        await asyncio.to_thread(trio.first.pause_replay)
        try:
            await write(router, "mine")
            position = await router.position()
            assert position is not None
            before = sample("niyanta_postgres_reads_on_primary_total", reason="position")
            assert "mine" not in await names(router.reads()), "others see the record as it was"
            assert "mine" in await names(router.reads(position))
            assert await answering(router, 2, position) == {trio.primary.port}
            assert sample("niyanta_postgres_reads_on_primary_total", reason="position") == before + 3
        finally:
            await asyncio.to_thread(trio.first.resume_replay)
        await asyncio.to_thread(trio.first.catch_up)
        reads = router.reads(position)
        assert "mine" in await names(reads)
        assert await who(reads) == trio.first.port


async def test_a_workload_that_a_replica_does_not_know_is_asked_of_the_primary(trio: Trio, router: ReadRouter) -> None:
    for replica in trio.replicas:
        await asyncio.to_thread(replica.pause_replay)
    try:
        (row,) = await StateManager(router.primary, Settings()).take_in([intake()], epoch=None)
        before = sample("niyanta_postgres_reads_on_primary_total", reason="missing")
        reads = router.reads()
        assert await reads.get_workload(row.id) == row
        assert await who(reads) == trio.primary.port, "the rest of the answer comes from where the row is"
        assert await router.reads().get_workload(str(uuid.uuid4())) is None
        assert sample("niyanta_postgres_reads_on_primary_total", reason="missing") == before + 2
    finally:
        for replica in trio.replicas:
            await asyncio.to_thread(replica.resume_replay)
    await in_use(router, trio.first, trio.second)


async def test_without_replicas_all_reads_go_to_the_primary_and_no_checks_run(trio: Trio) -> None:
    async with routed(trio.primary.dsn) as router:
        assert router._watching is None
        assert type(router.reads()) is Reads
        assert await who(router.reads()) == trio.primary.port
        assert await router.position() is None


async def test_servers_that_are_no_replica_of_the_primary_are_not_read_from(
    trio: Trio, postgres: Postgres, dsn: str
) -> None:
    """Another system, another database of the replica, and a promoted replica."""
    elsewhere = await asyncio.to_thread(trio.primary.create_database, "elsewhere")
    await asyncio.to_thread(migrate, elsewhere)
    await asyncio.to_thread(trio.second.catch_up)
    with await asyncio.to_thread(Standby.of, trio.primary, name="accident") as accident:
        wrong = (dsn, trio.second.dsn_of("elsewhere"), accident.dsn)
        async with routed(trio.primary.dsn, trio.first.dsn, *wrong) as router:
            await in_use(router, trio.first, accident)
            await asyncio.to_thread(accident.promote)
            await in_use(router, trio.first)
            await until(lambda: all(replica.checked_at > 0 for replica in router.replicas), "all were checked")
            assert [replica.problem for replica in router.replicas] == [
                "",
                "it is not a replica: it accepts writes",
                "it is another database",
                "it is not a replica: it accepts writes",
            ]
            assert await answering(router, 4) == {trio.first.port}
        # A primary with a replica of another primary.
        async with routed(dsn, trio.first.dsn) as router:
            await until(lambda: "another system" in router.replicas[0].problem, "the check failed")
            assert await answering(router, 2) == {postgres.port}


async def test_after_a_failover_only_replicas_of_the_new_primary_are_used() -> None:
    with await asyncio.to_thread(Postgres.create, settings={"synchronous_commit": "on"}) as old:
        await asyncio.to_thread(migrate, old.dsn)
        with (
            await asyncio.to_thread(Standby.of, old, name="heir") as heir,
            await asyncio.to_thread(Standby.of, old, name="follower") as follower,
        ):
            # As users write it: the host of the two that accepts writes.
            either = f"postgresql://postgres@127.0.0.1:{old.port},127.0.0.1:{heir.port}/postgres"
            async with routed(either, follower.dsn) as router:
                await in_use(router, follower)
                await asyncio.to_thread(heir.catch_up)
                await asyncio.to_thread(old.kill)
                await asyncio.to_thread(heir.promote)
                await until(lambda: "timeline" in router.replicas[0].problem, "the check failed")
                assert await answering(router, 2) == {heir.port}
                await asyncio.to_thread(follower.follow, heir)
                await in_use(router, follower)
                await write(router, "on-the-new-primary")
                await asyncio.to_thread(follower.catch_up)
                reads = router.reads()
                assert "on-the-new-primary" in await names(reads)
                assert await who(reads) == follower.port


def test_connection_strings_come_one_per_line_and_are_never_shown() -> None:
    secret = "hunter2"
    text = f"""
        postgresql://app:{secret}@a.example/niyanta postgresql://app:{secret}@b.example:6432/niyanta
        host=c.example user=app password={secret}

        postgresql://app:{secret}@a.example/other
    """
    found = Settings(replica_dsns=text).replicas
    assert len(found) == 4
    assert replica_names(found) == ["a.example:5432", "b.example:6432", "c.example:5432", "a.example:5432#4"]
    with pytest.raises(ValueError, match="number 2 is not a connection string") as caught:
        replica_names(["host=a", f"nonsense {secret}"])
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ValidationError, match="at least twice"):
        Settings(max_replica_lag=1.0, replica_check_interval=0.6)
