"""Queries about workers that tasks beside the leader's loop put to it: the loop answers when no cycle is under way.

The pools' scaling asks, `maintenance` answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class DrainQuery:
    """A query of a task beside the leader's loop. The answer is a number of workloads, or -1: the worker takes pods."""

    worker: str
    reason: str
    evict: bool
    answer: asyncio.Future[int]


class DrainQueries:
    """Open queries of one leadership, in the order they were put."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` lets the leader's loop run a round."""
        self._wake = wake
        self._open: list[DrainQuery] = []

    async def evict(self, worker: str, reason: str) -> int:
        """Put the workloads on a worker back into the queue, as fresh attempts that don't count as retries; returns how
        many. Those whose pods are just being created stay: evict again."""
        return await self._put(worker, reason=reason, evict=True)

    async def is_free(self, worker: str) -> bool:
        """True if nothing is placed on a worker and nothing can be: it is cordoned, and the engine knows."""
        return await self._put(worker, reason="", evict=False) == 0

    async def _put(self, worker: str, *, reason: str, evict: bool) -> int:
        query = DrainQuery(worker, reason, evict, asyncio.get_running_loop().create_future())
        self._open.append(query)
        self._wake()
        return await query.answer

    def open(self) -> list[DrainQuery]:
        """Queries that wait for an answer; those whose task gave up meanwhile are dropped."""
        self._open = [query for query in self._open if not query.answer.done()]
        return list(self._open)

    def answer(self, query: DrainQuery, value: int) -> None:
        """Answer a query, unless its task gave up meanwhile."""
        self._open.remove(query)
        if not query.answer.done():
            query.answer.set_result(value)

    def cancel(self) -> None:
        """Leadership is over: no query will be answered."""
        for query in self._open:
            query.answer.cancel()
