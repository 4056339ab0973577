"""The leader's work queue: coalesced by identity, closed while the process does not lead, safe from other threads."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from niyanta.scheduler.intake.work_queue import WorkQueue

pytestmark = pytest.mark.unit


def obj(uid: str = "u", generation: int = 1, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "generation": generation, **meta}, "spec": {"n": generation}}


@pytest.fixture
async def work_queue() -> WorkQueue:
    queue = WorkQueue(asyncio.get_running_loop())
    queue.open()
    return queue


async def test_closed_it_keeps_nothing(work_queue: WorkQueue) -> None:
    work_queue.close()
    work_queue.put_object(obj())
    work_queue.put_gone("u")
    work_queue.put_workloads(["u"])
    work_queue.put_customers()
    work_queue.put_defaults(["n"])
    work_queue.put_capacity()
    assert not work_queue.take()
    work_queue.open()
    assert not work_queue.take()


async def test_the_newest_generation_counts_and_repeats_are_dropped(work_queue: WorkQueue) -> None:
    work_queue.put_object(obj(generation=1))
    work_queue.put_object(obj(generation=3))
    work_queue.put_object(obj(generation=2))
    assert work_queue.take().objects["u"]["spec"] == {"n": 3}
    work_queue.put_object(obj(generation=3))
    assert not work_queue.take()
    work_queue.put_object(obj(generation=4))
    assert "u" in work_queue.take().objects


async def test_a_new_leadership_sees_every_generation_again(work_queue: WorkQueue) -> None:
    work_queue.put_object(obj())
    work_queue.take()
    work_queue.close()
    work_queue.open()
    work_queue.put_object(obj())
    assert "u" in work_queue.take().objects


async def test_what_is_gone_is_not_taken_in(work_queue: WorkQueue) -> None:
    work_queue.put_object(obj("a"))
    work_queue.put_gone("a")
    work_queue.put_object(obj("b"))
    work_queue.put_object(obj("b", deletionTimestamp="now"))
    work = work_queue.take()
    assert not work.objects
    assert set(work.gone) == {"a", "b"}


async def test_room_on_workers_is_work_once(work_queue: WorkQueue) -> None:
    assert not work_queue.take()
    work_queue.put_capacity()
    assert work_queue.take()
    assert not work_queue.take()


async def test_it_wakes_from_another_thread(work_queue: WorkQueue) -> None:
    waiting = asyncio.create_task(work_queue.wait(30))
    await asyncio.sleep(0)
    threading.Thread(target=work_queue.put_object, args=(obj(),)).start()
    await asyncio.wait_for(waiting, 5)
    assert work_queue.take().objects


async def test_waiting_ends_by_itself(work_queue: WorkQueue) -> None:
    await asyncio.wait_for(work_queue.wait(0.01), 5)
