"""Turns of one namespace: in order, few at a time, single probes while its breaker is open, and no endless wait. Turns
of many: some are left for others, and nobody waits for others for long."""

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
    gate = NamespaceGates(4).of("ns")
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
    gate = NamespaceGates(12).of("ns")
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
    gate = NamespaceGates(8).of("ns")
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
    gate = NamespaceGates(8).of("ns")
    await opened(gate)
    tasks = await started(gate, 3)
    await tasks[0]  # the probe, which doesn't end
    assert await asyncio.gather(*tasks[1:]) == [False, False]


async def test_a_request_that_is_cancelled_gives_its_turn_back() -> None:
    gate = NamespaceGates(2).of("ns")
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
    gates = NamespaceGates(4)
    await opened(gates.of("bad"))
    for number in range(10):
        assert await gates.of(f"n-{number}").enter()
        gates.of(f"n-{number}").leave(True)
    assert gates.of("bad").breaker.open
    assert gates.open_breakers() == 1


@pytest.fixture
def _no_ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates whose requests have been answered before."""
    monkeypatch.setattr(namespace_gate, "FIRST_IN_FLIGHT", 1000)


async def in_flight(gates: NamespaceGates, customer: str, *namespaces: str) -> int:
    """Number of turns that requests get, of 100 in each namespace, none of which is answered."""
    return sum([len(having_turns(await started(gates.of(name, customer), 100))) for name in namespaces])


@pytest.mark.usefixtures("_no_ramp")
async def test_slow_namespaces_of_one_customer_leave_turns_for_others() -> None:
    gates = NamespaceGates(48)
    assert await in_flight(gates, "acme", "a0") == 24
    assert await in_flight(gates, "acme", "a1", "a2", "a3", "a4", "a5") == 8, "its own other namespaces get a turn"
    assert await in_flight(gates, "beta", "b0") == 8
    assert await in_flight(gates, "gamma", "c0", "c1") > 0


@pytest.mark.usefixtures("_no_ramp")
async def test_namespaces_without_a_customer_are_customers_of_their_own() -> None:
    gates = NamespaceGates(8)
    assert await in_flight(gates, "", "a0") == 4
    assert await in_flight(gates, "", "a1") == 2


async def test_customers_take_turns_and_so_do_their_namespaces() -> None:
    gates = NamespaceGates(1)
    first = gates.of("a0", "acme")
    assert await first.enter()
    order: list[str] = []

    async def request(namespace: str, customer: str) -> None:
        gate = gates.of(namespace, customer)
        assert await gate.enter()
        order.append(namespace)
        gate.leave(True)

    waiting = [("a0", "acme")] * 3 + [("a1", "acme")] * 2 + [("b0", "beta")] * 2
    tasks = [asyncio.create_task(request(*names)) for names in waiting]
    await asyncio.sleep(0)
    first.leave(True)
    await asyncio.gather(*tasks)
    assert order == ["a1", "b0", "a0", "b0", "a1", "a0", "a0"], "a0 has just had a turn"
    assert first.idle


async def test_a_probe_that_becomes_due_while_turns_are_given_is_made_soon() -> None:
    """The clock passes the time of the probe right after the gate was found not to be ready."""
    gate = NamespaceGates(4).of("ns")
    await opened(gate)
    due = gate.breaker._probe_at
    asked = 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return due - 1e-6 if asked == 1 else due + 1e-6

    gate.breaker._clock = clock
    async with asyncio.timeout(10):
        assert await gate.enter()
    assert asked > 1
