"""Turns: one piece of work of a customer at a time, and others between two of them."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.server.limits.turns import LONGEST_PAUSE_SECONDS, Turns

pytestmark = pytest.mark.unit


async def test_another_customer_waits_for_one_piece_of_work_at_most() -> None:
    turns, done = Turns(), []

    async def work(customer: str) -> None:
        async with turns.of(customer):
            done.append(customer)  # as work that doesn't await

    await asyncio.gather(*(work(customer) for customer in ["a"] * 50 + ["b"]))
    assert done.index("b") <= 1
    assert len(done) == 51
    assert turns._queues == {}


async def test_long_work_is_followed_by_a_pause_of_its_customer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("niyanta.server.limits.turns.LONG_SECONDS", -1.0)
    monkeypatch.setattr("niyanta.server.limits.turns.PAUSE", 1e9)
    turns = Turns()

    async def work(customer: str) -> None:
        async with turns.of(customer):
            pass

    first = asyncio.create_task(work("a"))
    await asyncio.sleep(0)
    started = asyncio.get_running_loop().time()
    other = asyncio.create_task(work("a"))
    async with turns.of("b"):
        assert asyncio.get_running_loop().time() - started < LONGEST_PAUSE_SECONDS / 2
    await asyncio.gather(first, other)
    assert asyncio.get_running_loop().time() - started >= LONGEST_PAUSE_SECONDS


async def test_a_turn_ends_with_an_error_and_with_a_cancellation() -> None:
    turns = Turns()

    async def failing() -> None:
        async with turns.of("a"):
            raise ValueError("bad manifest")

    with pytest.raises(ValueError, match="bad manifest"):
        await failing()
    async with turns.of("a"):
        waiting = asyncio.create_task(failing())
        await asyncio.sleep(0)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert turns._queues == {}
