"""The leader's work queue: coalesced by identity, closed while the process does not lead, safe from other threads."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from niyanta.scheduler.intake.work_queue import MOST_GONE, MOST_OBJECT_BYTES, MOST_OBJECTS, WorkQueue

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


async def test_a_change_of_labels_is_work_and_other_changes_of_metadata_are_not(work_queue: WorkQueue) -> None:
    work_queue.put_object(obj(labels={"team": "a"}))
    work_queue.take()
    work_queue.put_object(obj(labels={"team": "a"}, annotations={"x": "y"}))
    assert not work_queue.take()
    work_queue.put_object(obj(labels={"team": "b"}))
    assert work_queue.take().objects["u"]["metadata"]["labels"] == {"team": "b"}


async def test_a_slice_is_bounded_and_fair_between_namespaces_and_the_rest_follows_at_once(
    work_queue: WorkQueue,
) -> None:
    for number in range(2 * MOST_OBJECTS):
        work_queue.put_object(obj(f"a-{number}", namespace="a"))
        work_queue.put_gone(f"gone-{number}")
    work_queue.put_object(obj("b", namespace="b"))
    first = work_queue.take()
    assert "b" in first.objects
    assert (len(first.objects), len(first.gone)) == (MOST_OBJECTS, MOST_GONE)
    await asyncio.wait_for(work_queue.wait(30), 5)
    assert not work_queue.take(objects=False).objects
    assert len(work_queue.take().objects) == MOST_OBJECTS


async def test_a_slice_is_bounded_by_the_size_of_its_objects(work_queue: WorkQueue) -> None:
    for number in range(10):
        work_queue.put_object(obj(f"u-{number}", annotations={"large": "x" * (MOST_OBJECT_BYTES // 4)}))
    assert 4 <= len(work_queue.take().objects) <= 5


async def test_objects_that_no_encoder_takes_still_arrive(work_queue: WorkQueue) -> None:
    work_queue.put_object(obj(labels={"n": 2**70}))
    assert work_queue.take().objects["u"]["metadata"]["labels"] == {"n": 2**70}
