"""Rows are read and moved without their specs, and specs are read in groups of few bytes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from niyanta.lifecycle import Door, Event, Phase
from niyanta.store import state as module
from niyanta.store.rows import RowChange
from niyanta.store.state import StateManager
from tests.store.make import intake

pytestmark = pytest.mark.store

DENSE: dict[str, Any] = {"template": {"x": [[] for _ in range(20_000)]}}
"""60 KB as text, and 1.2 MiB decoded."""


async def peak(work: Callable[[], Awaitable[object]]) -> float:
    """Most bytes in use during `work`, in MiB."""
    tracemalloc.start()
    try:
        await work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


async def test_pages_of_dense_specs_take_little_memory(state: StateManager, epoch: int) -> None:
    start = await state.cursor()
    items = [intake(spec=DENSE, door=Door.REST) for _ in range(100)]
    rows = await state.take_in(items, epoch=epoch)

    async def every_page() -> None:
        assert len((await state.changes_since(start, limit=1000))[0]) == 100
        assert len(await state.get_workloads([row.id for row in rows], with_spec=False)) == 100
        changes = [RowChange(row.id, row.version, Event.HOLD, "Test") for row in rows]
        assert len((await state.update_workload_status_batch(changes, epoch=epoch)).applied) == 100

    async def every_row() -> None:
        assert sum([len(row.spec["template"]["x"]) async for row in state.get_active()]) == 100 * 20_000

    assert await peak(every_page) < 5
    assert await peak(every_row) < 60


async def test_specs_are_read_in_groups_and_in_order(
    state: StateManager, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPEC_BYTES_AT_ONCE", 1000)
    items = [intake(spec={"n": number, "text": "x" * (100 * number)}) for number in range(30)]
    await state.take_in(items, epoch=epoch)
    bare = await state.get_workloads([item.id for item in items], with_spec=False)
    found = [row async for row in state.with_specs(bare)]
    assert [row.id for row in found] == [row.id for row in bare]
    assert {row.id: row.spec for row in found} == {item.id: item.spec for item in items}


async def test_an_edit_that_cannot_be_read_keeps_the_stored_spec(state: StateManager, epoch: int) -> None:
    first = intake(spec={"n": 1})
    await state.take_in([first], epoch=epoch)
    edit = intake(id=first.id, spec={}, generation=2, phase=Phase.FAILED, reason="InvalidSpec")
    await state.take_in([edit], epoch=epoch)
    row = await state.get_workload(first.id)
    assert row is not None
    assert (row.generation, row.spec) == (2, {"n": 1})
    assert row.spec_bytes > 0
