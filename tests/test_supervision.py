"""Supervision: a background task that fails is started again, and ends only by its own return."""

from __future__ import annotations

import asyncio

import pytest

from niyanta import supervision
from niyanta.containment import Boundary, SharedFaultError
from niyanta.supervision import supervised
from tests.fakes.leader import contained_errors, until

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(supervision, "LONGEST_PAUSE_SECONDS", 0.001)


class Task:
    """A background task that raises the given errors, one in each run, and then runs on."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.steady = asyncio.Event()

    async def run(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.steady.set()
        await asyncio.Event().wait()


async def test_a_task_that_raises_is_started_again() -> None:
    before = contained_errors(Boundary.TASK)
    task = Task(KeyError("x"), SharedFaultError("away"), ExceptionGroup("tasks", [ValueError("y")]))
    running = asyncio.create_task(supervised("task", task.run))
    await asyncio.wait_for(task.steady.wait(), 30)
    assert not running.done()
    assert contained_errors(Boundary.TASK) == before + 2, "outages are no unexpected errors"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_task_that_returns_ends_when_its_end_means_something() -> None:
    ended: list[str] = []

    async def work() -> None:
        pass

    await supervised("task", work, on_return=lambda: ended.append("task"))
    assert ended == ["task"]


async def test_a_task_that_returns_is_started_again_otherwise() -> None:
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)

    running = asyncio.create_task(supervised("task", work))
    await until(lambda: len(runs) > 1, "it runs again")
    running.cancel()
