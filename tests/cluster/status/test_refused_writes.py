"""Statuses that a webhook refuses are repeated rarely, and others keep their delay."""

from __future__ import annotations

import time

import pytest

from niyanta.cluster.status import refused_writes, workload_status
from niyanta.cluster.status.refused_writes import LONGEST_REPEAT_SECONDS, MOST_NAMESPACES, RefusedWrites, repeat_after
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.cluster.status.write_pace import WritePace
from niyanta.lifecycle import Phase
from tests.cluster.status.test_workload_status import DEBOUNCE, MOST_WAIT, Server, row_in, server, writer
from tests.fakes.scripted_api_server import until

__all__ = ["server", "writer"]

pytestmark = pytest.mark.unit

REFUSED = 300
PAUSE = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_writes, "PAUSE_SECONDS", PAUSE)
    monkeypatch.setattr(refused_writes, "FIRST_REPEAT_SECONDS", 0.02)


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times at which a write took its turn of the shared pace."""
    taken: list[float] = []
    real = WritePace.take

    def take(pace: WritePace, now: float) -> float:
        taken.append(now)
        return real(pace, now)

    monkeypatch.setattr(WritePace, "take", take)
    return taken


async def test_refused_statuses_of_one_namespace_leave_the_others_their_pace(
    server: Server, writer: WorkloadStatusWriter, tokens: list[float]
) -> None:
    server.refusing = "refusing"
    for number in range(REFUSED):
        writer.write(row_in(Phase.RUNNING, f"refused-{number}", namespace="refusing"))
    await until(lambda: server.asked.count("refusing") >= refused_writes.REFUSALS)
    began, asked = time.monotonic(), server.asked.count("refusing")
    bystanders = 20
    for number in range(bystanders):
        changed = time.monotonic()
        writer.write(row_in(Phase.RUNNING, f"bystander-{number}", namespace="other"))
        await until(lambda number=number: server.phases(f"bystander-{number}"))  # type: ignore[misc]
        assert time.monotonic() - changed < MOST_WAIT + DEBOUNCE
    seconds = time.monotonic() - began
    most = refused_writes.CONCURRENCY * (seconds / PAUSE + 1) + workload_status.MOST_AT_ONCE
    assert server.asked.count("refusing") - asked <= most
    at_once = workload_status.MOST_AT_ONCE + workload_status.MOST_URGENT_AT_ONCE
    assert len(tokens) <= bystanders + refused_writes.REFUSALS + at_once


async def test_refused_statuses_are_written_when_the_webhook_is_gone(
    server: Server, writer: WorkloadStatusWriter
) -> None:
    server.refusing = "refusing"
    for number in range(20):
        writer.write(row_in(Phase.SUCCEEDED, f"refused-{number}", namespace="refusing"))
    await until(lambda: server.asked.count("refusing") > 20)
    server.refusing = ""
    writer.write(row_in(Phase.SUCCEEDED, "new", namespace="refusing"))
    await until(lambda: len(server.applied) == 21)
    assert sorted(name for name, *_ in server.applied) == sorted(["new", *(f"refused-{n}" for n in range(20))])


async def test_a_refused_state_goes_over_into_its_next_one(server: Server, writer: WorkloadStatusWriter) -> None:
    server.refusing = "refusing"
    writer.write(row_in(Phase.RUNNING, namespace="refusing"))
    await until(lambda: len(server.asked) >= 3)
    writer.write(row_in(Phase.SUCCEEDED, namespace="refusing"))
    assert writer._waiting["train"].refusals >= 2 or writer._busy
    server.refusing = ""
    await until(lambda: "Succeeded" in server.phases())
    assert server.phases()[-1] == "Succeeded"


def test_repetitions_become_rare() -> None:
    assert repeat_after(1) <= refused_writes.FIRST_REPEAT_SECONDS
    assert repeat_after(2) >= refused_writes.FIRST_REPEAT_SECONDS
    assert LONGEST_REPEAT_SECONDS / 2 <= repeat_after(10_000) <= LONGEST_REPEAT_SECONDS


async def test_a_namespace_refuses_until_it_accepts_a_status() -> None:
    async def write(_: str) -> bool:
        return True

    writes = RefusedWrites(write, WritePace())
    for number in range(refused_writes.REFUSALS):
        assert not writes.refuses("a")
        writes.refused("a")
        writes.refused(f"other-{number}")
    assert writes.refuses("a")
    assert not writes.refuses("other-0")
    writes.accepted("a")
    assert not writes.refuses("a")


async def test_few_namespaces_are_remembered() -> None:
    async def write(_: str) -> bool:
        return True

    writes = RefusedWrites(write, WritePace())
    for number in range(MOST_NAMESPACES + 10):
        writes.refused(f"n-{number}")
    assert len(writes._in_a_row) <= MOST_NAMESPACES
