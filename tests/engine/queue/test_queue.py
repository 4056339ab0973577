"""The queue is in effective-priority order after any sequence of changes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyanta.engine.queue.order import MINUTE_US, QueueSettings, effective_priority, queue_key
from niyanta.engine.queue.queue import Queue
from niyanta.engine.types import PendingWorkload, Requirements, Subject

pytestmark = pytest.mark.unit

FIFO = QueueSettings(enable_priority=False, enable_aging=False)


def waiting(name: str, priority: int = 10, weight: int = 10, queued_at: int = 0) -> PendingWorkload:
    nothing = Requirements((("pods", 1),))
    return PendingWorkload(
        name, 1, 1, Subject("ns", "acme"), nothing, priority=priority, tier_weight=weight, queued_at=queued_at
    )


many = st.lists(
    st.builds(
        waiting,
        st.text("abcdef", min_size=1, max_size=4),
        st.integers(0, 100),
        st.sampled_from((1, 10, 50, 100)),
        st.integers(0, 60 * MINUTE_US),
    ),
    unique_by=lambda w: w.id,
    max_size=12,
)


def ids(queue: Queue) -> list[str]:
    return [w.id for w in queue.in_order()]


def test_a_premium_workload_goes_first_until_a_free_one_has_waited_long_enough() -> None:
    free = waiting("free", 10, 1, queued_at=0)
    # 10 * 50 against 10 * 1: 490 ahead, which is 98 minutes of waiting at 5 a minute.
    just_ahead = waiting("premium", 10, 50, queued_at=98 * MINUTE_US - 1)
    just_behind = waiting("premium", 10, 50, queued_at=98 * MINUTE_US + 1)
    assert ids(Queue(workloads=[free, just_ahead])) == ["premium", "free"]
    assert ids(Queue(workloads=[free, just_behind])) == ["free", "premium"]


def test_equal_keys_go_by_time_queued_and_then_by_id() -> None:
    settings = QueueSettings(enable_aging=False)
    queue = Queue(settings, [waiting("c", queued_at=1), waiting("b", queued_at=1), waiting("a", queued_at=2)])
    assert ids(queue) == ["b", "c", "a"]


def test_without_priority_and_aging_it_is_first_in_first_out() -> None:
    queue = Queue(FIFO, [waiting("late", 100, 100, queued_at=9), waiting("early", 0, 1, queued_at=3)])
    assert ids(queue) == ["early", "late"]


def test_without_priority_but_with_aging_it_is_first_in_first_out_too() -> None:
    settings = QueueSettings(enable_priority=False)
    queue = Queue(settings, [waiting("late", 100, 100, queued_at=9), waiting("early", 0, 1, queued_at=3)])
    assert ids(queue) == ["early", "late"]


@given(many, st.integers(60 * MINUTE_US, 10**17))
def test_the_constant_key_orders_as_effective_priority_does_at_any_time(
    workloads: list[PendingWorkload], now: int
) -> None:
    def exactly(w: PendingWorkload) -> tuple[int, int, str]:
        return -(w.priority * w.tier_weight * MINUTE_US + 5 * (now - w.queued_at)), w.queued_at, w.id

    assert ids(Queue(workloads=workloads)) == [w.id for w in sorted(workloads, key=exactly)]


def test_effective_priority_is_base_times_weight_plus_five_a_minute() -> None:
    assert effective_priority(10, 50, queued_at=MINUTE_US, now=4 * MINUTE_US) == 515.0
    assert effective_priority(10, 50, queued_at=MINUTE_US, now=0) == 500.0
    assert effective_priority(10, 50, queued_at=0, now=4 * MINUTE_US, settings=FIFO) == 0.0
    assert queue_key(10, 50, queued_at=7) == 500 * MINUTE_US - 35


@given(many, st.randoms(use_true_random=False))
def test_after_any_edits_the_order_equals_that_of_a_new_queue(workloads: list[PendingWorkload], rng: Random) -> None:
    queue = Queue()
    kept: dict[str, PendingWorkload] = {}
    for workload in workloads * 3:
        event = rng.randrange(5)
        if event == 0 and kept:
            gone = rng.choice(sorted(kept))
            assert queue.remove(gone) == kept.pop(gone)
        elif event == 1 and kept:
            first = next(queue.in_order())
            assert queue.remove(first.id) == kept.pop(first.id)
        else:
            edited = waiting(workload.id, rng.randrange(101), workload.tier_weight, workload.queued_at)
            edited = replace(edited, queue_class=rng.choice(("", "one", "two")))
            queue.push(edited)
            kept[edited.id] = edited
        if event == 2:  # builds the sorted orders, which later changes have to maintain
            for found in queue.classes():
                found.oldest(), found.highest()
    order = ids(Queue(workloads=kept.values()))
    assert ids(queue) == order
    for found in queue.classes():
        members = [kept[workload.id] for workload in found.in_order()]
        assert found.first() == members[0]
        assert found.oldest() == min(members, key=lambda w: (w.queued_at, w.id))
        assert found.highest() == min(members, key=lambda w: (-w.priority, w.queued_at, w.id))


def test_a_workload_that_is_not_in_the_queue_is_not_found() -> None:
    queue = Queue()
    assert queue.class_of("missing") is None
    assert queue.remove("missing") is None
    assert "missing" not in queue


def test_classes_come_and_go_with_their_workloads() -> None:
    queue = Queue()
    queue.push(replace(waiting("a"), queue_class="one"))
    queue.push(replace(waiting("b"), queue_class="one"))
    queue.push(waiting("c"))
    assert sorted((found.name, len(found)) for found in queue.classes()) == [("one", 2), ("row/c", 1)]
    queue.push(replace(waiting("a"), queue_class="two"))
    assert sorted((found.name, len(found)) for found in queue.classes()) == [("one", 1), ("row/c", 1), ("two", 1)]
    for name in "abc":
        queue.remove(name)
    assert (queue.classes(), queue.active(), len(queue)) == ([], {}, 0)
