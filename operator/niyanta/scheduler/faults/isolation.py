"""Isolation of the item that makes a batch fail: the batch is repeated in halves until that item is alone.

`transitions`, `intake.admission` and `placing.pending_reasons` write their batches through `in_isolation`; the items at
fault are parked or left out by them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from niyanta.containment import SharedFaultError
from niyanta.store.errors import ConflictError, StoreError, too_slow

T = TypeVar("T")
R = TypeVar("R")

MOST_CULPRITS_PER_GROUP = 16
"""Items of one group that are found out in one batch. The group's other items in failing parts count as culprits too,
so that one tenant's items cost a bounded number of transactions."""

CONFLICTS_IN_A_ROW = 3
"""Conflicts after which a part counts as failing: a transaction that lost a race succeeds when it is repeated."""

CONFLICT_PAUSE_SECONDS = 0.05


@dataclass(slots=True)
class IsolatedBatch(Generic[T, R]):
    """Results of the parts that were written, in order, and the items that could not be written."""

    results: list[R] = field(default_factory=list)
    culprits: list[tuple[T, Exception]] = field(default_factory=list)


async def in_isolation(
    items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[R]], *, group: Callable[[T], str]
) -> IsolatedBatch[T, R]:
    """Write `items` as one batch, or in parts, in their order, if an unexpected error prevents that.

    `group`: namespace of an item. Raises SharedFaultError: what was written until then stays written, so `write` must
    be repeatable.
    """
    batch: IsolatedBatch[T, R] = IsolatedBatch()
    found: Counter[str] = Counter()
    parts = [list(items)] if items else []
    last: Exception | None = None
    while parts:
        part = parts.pop()
        if last is not None:
            exhausted = [item for item in part if found[group(item)] >= MOST_CULPRITS_PER_GROUP]
            batch.culprits += [(item, last) for item in exhausted]
            part = [item for item in part if found[group(item)] < MOST_CULPRITS_PER_GROUP]
        if not part:
            continue
        try:
            batch.results.append(await _written(part, write))
        except Exception as error:
            if not _concerns(error, part):
                raise
            last = error
            if len(part) == 1:
                batch.culprits.append((part[0], error))
                found[group(part[0])] += 1
                continue
            half = len(part) // 2
            parts += [part[half:], part[:half]]
    return batch


async def _written(part: Sequence[T], write: Callable[[Sequence[T]], Awaitable[R]]) -> R:
    for _ in range(CONFLICTS_IN_A_ROW - 1):
        try:
            return await write(part)
        except ConflictError:
            await asyncio.sleep(CONFLICT_PAUSE_SECONDS)
    return await write(part)


def _concerns(error: Exception, part: Sequence[object]) -> bool:
    """True if an error may be due to an item of the part: an unexpected one, a conflict that lasts, or a statement that
    was cancelled because it took too long, if smaller ones may succeed."""
    if not isinstance(error, SharedFaultError) or isinstance(error, ConflictError):
        return True
    return isinstance(error, StoreError) and too_slow(error) and len(part) > 1
