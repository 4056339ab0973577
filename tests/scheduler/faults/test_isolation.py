"""Isolation of the item that makes a batch fail: everything else is written, and the cost is bounded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from niyanta.scheduler.faults.isolation import CONFLICTS_IN_A_ROW, MOST_CULPRITS_PER_GROUP, in_isolation
from niyanta.store.errors import ConflictError, StaleEpochError, StoreError, StoreUnavailableError

pytestmark = pytest.mark.unit


class Sink:
    """A batch writer that fails for batches with one of `bad`."""

    def __init__(self, bad: set[int], error: Exception | None = None) -> None:
        self.bad = bad
        self.error = error or StoreError("bad value")
        self.written: list[int] = []
        self.calls = 0

    async def write(self, part: Sequence[int]) -> list[int]:
        self.calls += 1
        if self.bad.intersection(part):
            raise self.error
        self.written += part
        return list(part)


async def test_one_batch_is_one_write_if_nothing_fails() -> None:
    sink = Sink(set())
    batch = await in_isolation(range(500), sink.write, group=str)
    assert (sink.calls, batch.results, batch.culprits) == (1, [list(range(500))], [])


async def test_culprits_are_found_and_all_others_are_written_in_order() -> None:
    sink = Sink({3, 77, 78})
    batch = await in_isolation(range(100), sink.write, group=lambda _: "one")
    assert [item for item, _ in batch.culprits] == [3, 77, 78]
    assert sink.written == [number for number in range(100) if number not in sink.bad]


async def test_one_namespaces_culprits_cost_a_bounded_number_of_writes_and_others_none_of_theirs() -> None:
    sink = Sink({number for number in range(500) if number % 2})
    batch = await in_isolation(range(500), sink.write, group=lambda number: "bad" if number % 2 else "good")
    assert sink.written == list(range(0, 500, 2))
    assert {item for item, _ in batch.culprits} == sink.bad
    assert sink.calls < 20 * MOST_CULPRITS_PER_GROUP


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), StaleEpochError("a newer leader")])
async def test_a_fault_that_everything_shares_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        await in_isolation(range(10), Sink({1}, error).write, group=str)


async def test_a_conflict_is_repeated_and_one_that_lasts_concerns_its_item_alone() -> None:
    sink = Sink({1}, ConflictError("again"))
    batch = await in_isolation([0, 1], sink.write, group=str)
    assert [item for item, _ in batch.culprits] == [1]
    assert sink.written == [0]
    assert sink.calls == 2 * CONFLICTS_IN_A_ROW + 1
