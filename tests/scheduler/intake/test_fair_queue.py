"""The fair queue: namespaces take turns, and a slice is bounded by number and by size."""

from __future__ import annotations

import pytest

from niyanta.scheduler.intake.fair_queue import FairQueue

pytestmark = pytest.mark.unit


def filled(**namespaces: int) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue()
    for namespace, count in namespaces.items():
        for number in range(count):
            queue.put(namespace, f"{namespace}-{number}", number)
    return queue


def test_one_namespaces_backlog_delays_another_by_no_slice() -> None:
    queue = filled(a=10_000, b=2)
    taken = queue.take(10)
    assert [key for key in taken if key.startswith("b")] == ["b-0", "b-1"]
    assert len(taken) == 10
    assert len(queue) == 9992


def test_turns_go_on_between_slices() -> None:
    queue = filled(a=3, b=3, c=3)
    assert [next(iter(queue.take(1))) for _ in range(4)] == ["a-0", "b-0", "c-0", "a-1"]


def test_a_slice_ends_when_its_size_is_reached_and_has_one_item_at_least() -> None:
    queue = filled(a=5)
    assert len(queue.take(5, most_bytes=100, size=lambda _: 60)) == 2
    assert len(queue.take(5, most_bytes=100, size=lambda _: 500)) == 1


def test_a_later_item_replaces_an_earlier_one_and_a_removed_one_is_gone() -> None:
    queue = filled(a=2)
    queue.put("a", "a-0", 7)
    queue.put("b", "a-1", 8)
    queue.remove("nothing")
    assert queue.take(5) == {"a-0": 7, "a-1": 8}
    queue.put("a", "x", 1)
    queue.remove("x")
    assert len(queue) == 0
    assert queue.take(5) == {}
