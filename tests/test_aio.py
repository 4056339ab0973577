"""Backoff, retry, slices and timers on the event loop's clock."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest

from niyanta.aio import Backoff, Timer, in_slices, retry, ticking

pytestmark = pytest.mark.unit


def test_delays_double_up_to_the_longest_and_are_jittered_downwards() -> None:
    backoff = Backoff(first_seconds=1.0, longest_seconds=4.0)
    for nominal in (1.0, 2.0, 4.0, 4.0):
        assert nominal / 2 <= backoff.next() <= nominal
    backoff.reset()
    assert backoff.next() <= 1.0


def test_a_series_of_delays_leaves_the_backoff_as_it_was() -> None:
    backoff = Backoff(first_seconds=1.0, longest_seconds=8.0)
    assert len(list(islice(backoff, 5))) == 5
    assert backoff.next() <= 1.0


async def test_retry_repeats_the_named_errors_and_reports_each() -> None:
    failures = [ConnectionError("first"), ConnectionError("second")]
    reported: list[str] = []

    async def attempt() -> str:
        if failures:
            raise failures.pop(0)
        return "answer"

    backoff = Backoff(first_seconds=0.0, longest_seconds=0.0)
    answer = await retry(attempt, on=ConnectionError, backoff=backoff, report=lambda e, _: reported.append(str(e)))
    assert (answer, reported) == ("answer", ["first", "second"])


async def test_retry_raises_every_other_error() -> None:
    async def attempt() -> None:
        raise ValueError("not transient")

    backoff = Backoff(first_seconds=0.0, longest_seconds=0.0)
    with pytest.raises(ValueError, match="not transient"):
        await retry(attempt, on=ConnectionError, backoff=backoff, report=lambda *_: None)


async def test_slices_are_complete_tick_and_let_other_tasks_run() -> None:
    ticks: list[int] = []
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    seen = [list(part) async for part in in_slices(range(7), 3, tick=lambda: ticks.append(1))]
    task.cancel()
    assert seen == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(ticks) == 3
    assert others >= 2


def test_a_timer_is_due_at_once_and_then_once_per_interval() -> None:
    hourly, always = Timer(3600.0), Timer(0.0)
    assert [hourly.due(), hourly.due()] == [True, False]
    assert [always.due(), always.due()] == [True, True]


async def test_ticking_returns_the_result_and_raises_the_error_of_the_work() -> None:
    async def work() -> int:
        return 7

    async def failing() -> int:
        raise ValueError("no")

    ticks: list[int] = []
    assert await ticking(lambda: ticks.append(1), work()) == 7
    assert ticks
    with pytest.raises(ValueError, match="no"):
        await ticking(lambda: None, failing())


def test_a_timer_rests_longer_than_its_interval_when_asked_to() -> None:
    timer = Timer(0.0)
    assert timer.due()
    timer.rest(3600.0)
    assert not timer.due()
    hourly = Timer(3600.0)
    assert hourly.due()
    hourly.rest(0.0)
    assert not hourly.due(), "its interval stays"
