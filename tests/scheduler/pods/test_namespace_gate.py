"""Turns of one namespace: in order, few at a time, single probes while its breaker is open, and no endless wait."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.scheduler.pods import namespace_gate
from niyanta.scheduler.pods.namespace_gate import FAILURES, FIRST_IN_FLIGHT, NamespaceGate, NamespaceGates

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PROBE_SECONDS", "LONGEST_PROBE_SECONDS"):
        monkeypatch.setattr(namespace_gate, name, 0.01)


async def started(gate: NamespaceGate, count: int) -> list[asyncio.Task[bool]]:
    """Requests that have asked for a turn."""
    tasks = [asyncio.create_task(gate.enter()) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def having_turns(tasks: list[asyncio.Task[bool]]) -> list[int]:
    return [number for number, task in enumerate(tasks) if task.done() and task.result()]


async def opened(gate: NamespaceGate) -> None:
    """Open the breaker."""
    for _ in range(FAILURES):
        assert await gate.enter()
        gate.leave(False)
    assert gate.breaker.open


async def test_turns_are_limited_and_given_in_order() -> None:
    gate = NamespaceGate(2)
    tasks = await started(gate, 4)
    assert having_turns(tasks) == [0, 1]
    gate.leave(True)
    await asyncio.sleep(0)
    assert having_turns(tasks) == [0, 1, 2]
    gate.leave(True)
    gate.leave(True)
    await asyncio.gather(*tasks)
    gate.leave(True)
    assert gate.idle


async def test_more_requests_go_at_once_while_they_are_answered_and_fewer_when_they_fail() -> None:
    gate = NamespaceGate(6)
    tasks = await started(gate, 40)
    assert len(having_turns(tasks)) == FIRST_IN_FLIGHT
    for _ in range(10):
        gate.leave(True)
        await asyncio.sleep(0)
    assert len(having_turns(tasks)) - 10 == 6
    gate.leave(False)
    await asyncio.sleep(0)
    assert len(having_turns(tasks)) - 10 == 6, "it takes the others' answers to go on"
    for task in tasks:
        task.cancel()


async def test_an_open_breaker_lets_single_probes_through_until_one_succeeds() -> None:
    gate = NamespaceGate(4)
    await opened(gate)
    tasks = await started(gate, 3)
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert having_turns(tasks) == [0]
    gate.leave(False)
    await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
    assert having_turns(tasks) == [0, 1]
    gate.leave(True)
    assert await tasks[2]
    assert not gate.breaker.open


async def test_no_request_waits_for_ever_behind_an_open_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace_gate, "GIVE_UP_SECONDS", 0.05)
    gate = NamespaceGate(4)
    await opened(gate)
    tasks = await started(gate, 3)
    await tasks[0]  # the probe, which doesn't end
    assert await asyncio.gather(*tasks[1:]) == [False, False]


async def test_a_request_that_is_cancelled_gives_its_turn_back() -> None:
    gate = NamespaceGate(1)
    first, second, third = await started(gate, 3)
    assert await first
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gate.leave(True)
    assert await third
    fourth = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.leave(True)  # gives the turn to the fourth, which is cancelled before it runs on
    fourth.cancel()
    await asyncio.gather(fourth, return_exceptions=True)
    assert gate.idle


async def test_namespaces_without_requests_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace_gate, "REMEMBERED_GATES", 3)
    gates = NamespaceGates(2)
    await opened(gates.of("bad"))
    for number in range(10):
        assert await gates.of(f"n-{number}").enter()
        gates.of(f"n-{number}").leave(True)
    assert gates.of("bad").breaker.open
    assert gates.open_breakers() == 1
