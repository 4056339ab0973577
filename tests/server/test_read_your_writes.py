"""Read your writes, with two real API processes on a primary and a replica whose replay is paused."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from niyanta.settings import Settings
from niyanta.store.postgres.migrate import migrate
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from testing.processes.niyanta import clean_environment, niyanta_command
from testing.processes.postgres import Postgres
from testing.processes.run_directory import RunDir
from testing.processes.standby import Standby
from testing.waiting import until
from tests.server.conftest import ACME, OTHER
from tests.server.make import manifest
from tests.server.test_processes import Api

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

POSITION = "Niyanta-Position"


@dataclass
class Doors:
    """Two processes of one release, `one` and `two`, with their database servers and API keys."""

    primary: Postgres
    replica: Standby
    one: Api
    two: Api
    keys: dict[str, str]

    @property
    def name(self) -> str:
        """The replica's name in the metrics."""
        return f"127.0.0.1:{self.replica.port}"

    def sample(self, api: Api, metric: str, **labels: str) -> float:
        for family in text_string_to_metric_families(api.process.metrics()):
            for sample in family.samples:
                if sample.name == metric and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0

    def reads(self, api: Api) -> float:
        """Statements that the replica has answered for a process."""
        return self.sample(api, "niyanta_postgres_reads_total", target=self.name)

    def wait_in_use(self) -> None:
        for api in (self.one, self.two):
            until(
                lambda api=api: self.sample(api, "niyanta_postgres_replica_in_use", replica=self.name) == 1,
                what="the replica is read from",
            )


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    run = RunDir.create("replicas")
    try:
        with Postgres.create(run=run, settings={"synchronous_commit": "on"}) as primary:
            migrate(primary.dsn)
            keys = asyncio.run(_keys(primary.dsn))
            with Standby.of(primary) as replica:
                # A lag limit that is never reached: the tests assert which reads must not use the lagging replica.
                env = {
                    "NIYANTA_REPLICA_DSNS": replica.dsn,
                    "NIYANTA_MAX_REPLICA_LAG": "600",
                    "NIYANTA_REPLICA_CHECK_INTERVAL": "0.2",
                }
                one, two = (Api(run, primary.dsn, name, **env) for name in ("one", "two"))
                found = Doors(primary, replica, one, two, keys)
                for api in (one, two):
                    api.process.wait_ready()
                found.wait_in_use()
                yield found
    finally:
        run.destroy()


async def _keys(dsn: str) -> dict[str, str]:
    async with await open_pool(Settings(dsn=dsn, db_pool_min=1)) as pool:
        await RestStore(pool, Settings(dsn=dsn)).upsert_customers([ACME, OTHER])
        chain = ApiKeys(pool)
        keys = {name: (await chain.create(name, Role.CUSTOMER))[1] for name in ("acme", "other")}
        return {**keys, "admin": (await chain.create("ops", Role.ADMIN))[1]}


@asynccontextmanager
async def asking(api: Api, key: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30) as client:
        yield client


async def listed(client: httpx.AsyncClient, position: str = "") -> list[str]:
    answer = await client.get("/v1/workloads", headers={POSITION: position} if position else {})
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["items"]]


async def depth(client: httpx.AsyncClient, position: str = "") -> int:
    answer = await client.get("/v1/metrics/queue-depth", headers={POSITION: position} if position else {})
    return int(answer.json()["total"])


async def test_a_caller_sees_its_write_at_once_and_others_see_it_later(doors: Doors) -> None:
    async with (
        asking(doors.one, doors.keys["acme"]) as one,
        asking(doors.two, doors.keys["acme"]) as two,
        asking(doors.one, doors.keys["other"]) as other,
        asking(doors.one, doors.keys["admin"]) as admin,
    ):
        first = (await one.post("/v1/workloads", json=manifest("first"))).json()
        await asyncio.to_thread(doors.replica.catch_up)
        assert await listed(two) == ["first"]
        await asyncio.to_thread(doors.replica.pause_replay)
        try:
            sent = await one.post("/v1/workloads", json=manifest("second"))
            position = sent.headers[POSITION]
            second = sent.json()["href"]

            assert await listed(one) == ["second", "first"], "the process has the customer's position"
            assert await depth(one) == 2
            before = doors.reads(doors.two)
            assert await listed(two) == ["first"], "another process reads the replica"
            assert await depth(two) == 1
            assert (await two.get("/v1/customer/stats")).json()["counts"]["pending"] == 1
            assert doors.reads(doors.two) > before
            before = doors.reads(doors.two)
            assert await listed(two, position) == ["second", "first"], "with the position, the primary"
            assert await depth(two, position) == 2
            assert doors.reads(doors.two) == before

            named = await two.get("/v1/workloads", params={"name": "second"})
            assert [item["name"] for item in named.json()["items"]] == ["second"], "by name: never a replica"

            found = await two.get(second)
            assert (found.status_code, found.json()["phase"]) == (200, "Pending"), "unknown to the replica"
            explained = (await two.get(f"{second}/explain")).json()
            assert explained["position"] == {"ahead": 1, "exact": True}
            assert [item["event"] for item in (await two.get(f"{second}/events")).json()["items"]] == ["Accepted"]
            assert (await two.get(f"{first['href']}/explain")).json()["position"] == {"ahead": 0, "exact": True}

            moved = await one.post(f"{first['href']}/cancel")
            assert moved.json()["phase"] == "Cancelled"
            assert (await one.get(first["href"])).json()["phase"] == "Cancelled"
            assert (await two.get(first["href"])).json()["phase"] == "Pending"
            answer = await two.get(first["href"], headers={POSITION: moved.headers[POSITION]})
            assert answer.json()["phase"] == "Cancelled"
            # Changes read the primary: on the replica the workload is still Pending.
            assert (await two.post(f"{first['href']}/suspend")).status_code == 409

            assert (await admin.get("/v1/metrics/queue-depth")).json()["byCustomer"] == {"acme": 1}, (
                "written by another caller"
            )
            for_acme = manifest("third", customer="acme")
            assert (await admin.post("/v1/workloads", json=for_acme)).headers[POSITION] > position
            assert (await admin.get("/v1/metrics/queue-depth")).json()["byCustomer"] == {"acme": 2}
            assert await listed(one) == ["third", "second", "first"], "also an admin's writes for it"
            assert await listed(other) == []
        finally:
            await asyncio.to_thread(doors.replica.resume_replay)
        await asyncio.to_thread(doors.replica.catch_up)
        before = doors.reads(doors.two)
        assert await listed(two) == ["third", "second", "first"]
        assert await listed(two, position) == ["third", "second", "first"]
        assert doors.reads(doors.two) == before + 6, "a replica that has replayed the position is used"


@pytest.mark.parametrize("wrong", ["", "x", "0/0/0", "123456789/0", "0/1 OR 1=1"])
async def test_an_invalid_position_is_refused(doors: Doors, wrong: str) -> None:
    async with asking(doors.one, doors.keys["acme"]) as client:
        answer = await client.get("/v1/workloads", headers={POSITION: wrong})
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:niyanta:problem:bad-request")
        assert POSITION in answer.json()["detail"]


async def test_a_position_that_no_server_has_reached_is_read_from_the_primary(doors: Doors) -> None:
    async with asking(doors.one, doors.keys["other"]) as client:
        assert await listed(client, "FFFFFFFF/FFFFFFFF") == []


async def test_a_replayed_answer_carries_a_position_too(doors: Doors) -> None:
    body, headers = manifest("once"), {"Idempotency-Key": "once"}
    async with asking(doors.one, doors.keys["acme"]) as one, asking(doors.two, doors.keys["acme"]) as two:
        await asyncio.to_thread(doors.replica.pause_replay)
        try:
            assert (await one.post("/v1/workloads", json=body, headers=headers)).status_code == 202
            again = await two.post("/v1/workloads", json=body, headers=headers)
            assert again.headers["Idempotency-Replayed"] == "true"
            assert "once" in await listed(two)
            assert "once" in await listed(two, again.headers[POSITION])
            batch = await two.post("/v1/workloads:batch", json=manifest("batched"))
            assert batch.headers[POSITION] > again.headers[POSITION]
        finally:
            await asyncio.to_thread(doors.replica.resume_replay)


async def test_the_command_line_sees_the_change_of_the_previous_command(doors: Doors, tmp_path: Path) -> None:
    """Through one address that alternates between the processes."""
    turn = itertools.cycle((doors.one, doors.two))

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(next(turn).url.rpartition(":")[2])
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pipe(reader, there[1]), _pipe(there[0], writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    env = {**clean_environment(), "NIYANTA_API_URL": url, "NIYANTA_API_KEY": doors.keys["acme"]}

    async def niyanta(state: str, *args: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [niyanta_command(), *args],
            env={**env, "XDG_STATE_HOME": str(tmp_path / state), "XDG_CONFIG_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(manifest("by-command")))
    await asyncio.to_thread(doors.replica.pause_replay)
    try:
        id_ = (await niyanta("mine", "submit", "-f", str(file), "-o", "id")).strip()
        assert id_ in await niyanta("mine", "list", "-o", "id")  # answered by the other process
    finally:
        await asyncio.to_thread(doors.replica.resume_replay)
        server.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_callers_do_not_notice_the_outage_of_a_replica_and_metrics_hold_no_secret(doors: Doors) -> None:
    async with asking(doors.two, doors.keys["acme"]) as two:
        names = await listed(two)
        await asyncio.to_thread(doors.replica.kill)
        answers: list[Any] = await asyncio.gather(*(listed(two) for _ in range(20)))
        assert answers == [names] * 20
        up = {"metric": "niyanta_postgres_replica_up", "replica": doors.name}
        await asyncio.to_thread(
            until, lambda: doors.sample(doors.two, **up) == 0, what="the replica is reported as down"
        )
        await asyncio.to_thread(doors.replica.start)
        await asyncio.to_thread(doors.wait_in_use)
        before = doors.reads(doors.two)
        assert await listed(two) == names
        assert doors.reads(doors.two) > before
        shown = await asyncio.to_thread(doors.two.process.metrics)
        assert "postgresql://" not in shown
        assert "postgres@" not in shown
