"""The leader's mail: coalesced by identity, closed while nobody leads, safe from other threads."""

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
async def inbox() -> WorkQueue:
    box = WorkQueue(asyncio.get_running_loop())
    box.open()
    return box


async def test_closed_it_keeps_nothing(inbox: WorkQueue) -> None:
    inbox.close()
    inbox.put_object(obj())
    inbox.put_gone("u")
    inbox.put_workloads(["u"])
    inbox.put_customers()
    inbox.put_defaults(["n"])
    inbox.put_capacity()
    inbox.note("u", "R", "m")
    assert not inbox.take()
    inbox.open()
    assert not inbox.take()


async def test_the_newest_generation_counts_and_repeats_are_dropped(inbox: WorkQueue) -> None:
    inbox.put_object(obj(generation=1))
    inbox.put_object(obj(generation=3))
    inbox.put_object(obj(generation=2))
    assert inbox.take().objects["u"]["spec"] == {"n": 3}
    inbox.put_object(obj(generation=3))
    assert not inbox.take()
    inbox.put_object(obj(generation=4))
    assert "u" in inbox.take().objects


async def test_a_new_leadership_sees_every_generation_again(inbox: WorkQueue) -> None:
    inbox.put_object(obj())
    inbox.take()
    inbox.close()
    inbox.open()
    inbox.put_object(obj())
    assert "u" in inbox.take().objects


async def test_what_is_gone_is_not_taken_in(inbox: WorkQueue) -> None:
    inbox.put_object(obj("a"))
    inbox.put_gone("a")
    inbox.put_object(obj("b"))
    inbox.put_object(obj("b", deletionTimestamp="now"))
    mail = inbox.take()
    assert not mail.objects
    assert set(mail.gone) == {"a", "b"}


async def test_notes_are_mail_that_moves_nothing(inbox: WorkQueue) -> None:
    inbox.note("u", "R", "one")
    inbox.note("u", "R", "two")
    mail = inbox.take()
    assert mail
    assert not mail.moves
    assert mail.notes["u"].message == "two"
    inbox.put_capacity()
    assert inbox.take().moves


async def test_it_wakes_from_another_thread(inbox: WorkQueue) -> None:
    waiting = asyncio.create_task(inbox.wait(30))
    await asyncio.sleep(0)
    threading.Thread(target=inbox.put_object, args=(obj(),)).start()
    await asyncio.wait_for(waiting, 5)
    assert inbox.take().objects


async def test_waiting_ends_by_itself(inbox: WorkQueue) -> None:
    await asyncio.wait_for(inbox.wait(0.01), 5)
