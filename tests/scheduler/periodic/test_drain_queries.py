"""Drain queries: they wait for an answer, in the order of their arrival, until their task or the leadership ends."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.scheduler.periodic.drain_queries import DrainQueries

pytestmark = pytest.mark.unit


class Wakes:
    """Counts the calls of `wake`."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_queries_wake_the_loop_and_are_answered_in_order() -> None:
    wakes = Wakes()
    queries = DrainQueries(wakes)
    evict = asyncio.create_task(queries.evict("n1", "WorkerScaledDown"))
    free = asyncio.create_task(queries.is_free("n2"))
    await asyncio.sleep(0)
    assert wakes.count == 2
    first, second = queries.open()
    assert (first.worker, first.reason, first.evict) == ("n1", "WorkerScaledDown", True)
    assert (second.worker, second.evict) == ("n2", False)
    queries.answer(first, 3)
    queries.answer(second, 0)
    assert (await evict, await free) == (3, True)
    assert queries.open() == []


@pytest.mark.parametrize(("answer", "is_free"), [(0, True), (2, False), (-1, False)])
async def test_a_worker_is_free_only_without_workloads_and_when_cordoned(answer: int, is_free: bool) -> None:
    queries = DrainQueries(lambda: None)
    task = asyncio.create_task(queries.is_free("n1"))
    await asyncio.sleep(0)
    (query,) = queries.open()
    queries.answer(query, answer)
    assert await task is is_free


async def test_a_cancelled_query_is_dropped() -> None:
    queries = DrainQueries(lambda: None)
    task = asyncio.create_task(queries.evict("n1", "r"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert queries.open() == []


async def test_a_query_that_is_cancelled_while_it_is_answered_gets_no_answer() -> None:
    queries = DrainQueries(lambda: None)
    task = asyncio.create_task(queries.evict("n1", "r"))
    await asyncio.sleep(0)
    (query,) = queries.open()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    queries.answer(query, 1)
    assert queries.open() == []


async def test_the_end_of_leadership_cancels_open_queries() -> None:
    queries = DrainQueries(lambda: None)
    task = asyncio.create_task(queries.is_free("n1"))
    await asyncio.sleep(0)
    queries.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
