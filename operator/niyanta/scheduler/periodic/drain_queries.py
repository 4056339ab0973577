"""Drain queries: requests of pool scaling to evict a worker's workloads, or to learn that a worker is free.

`pools.executor` puts them from a task of its own; `maintenance` answers in the leader's loop, while no cycle runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class DrainQuery:
    """One query. The answer is a number of workloads, or -1 if the worker isn't cordoned."""

    worker: str
    reason: str
    evict: bool
    answer: asyncio.Future[int]


class DrainQueries:
    """Open queries of one leadership, in the order of their arrival."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` lets the leader's loop run a round."""
        self._wake = wake
        self._open: list[DrainQuery] = []

    async def evict(self, worker: str, reason: str) -> int:
        """Put the workloads on a worker back into the queue, as fresh attempts that don't count as retries; returns
        their number. Workloads whose pods are just being created stay, so the caller evicts again later."""
        return await self._put(worker, reason=reason, evict=True)

    async def is_free(self, worker: str) -> bool:
        """True if a worker is cordoned and no workload is placed on it or can be placed on it any more."""
        return await self._put(worker, reason="", evict=False) == 0

    async def _put(self, worker: str, *, reason: str, evict: bool) -> int:
        query = DrainQuery(worker, reason, evict, asyncio.get_running_loop().create_future())
        self._open.append(query)
        self._wake()
        return await query.answer

    def open(self) -> list[DrainQuery]:
        """Queries that wait for an answer. Cancelled queries are dropped."""
        self._open = [query for query in self._open if not query.answer.done()]
        return list(self._open)

    def answer(self, query: DrainQuery, value: int) -> None:
        """Answer a query, unless it was cancelled."""
        self._open.remove(query)
        if not query.answer.done():
            query.answer.set_result(value)

    def fail(self, query: DrainQuery, error: Exception) -> None:
        """Raise an error where the query waits, unless it was cancelled."""
        self._open.remove(query)
        if not query.answer.done():
            query.answer.set_exception(error)

    def cancel(self) -> None:
        """Cancel all open queries: leadership is over."""
        for query in self._open:
            query.answer.cancel()
