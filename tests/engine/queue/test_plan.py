"""One cycle on the queue: heads in order, parks, wakes, budgets, and what a plan that isn't applied leaves behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.engine.placement.placer import MAX_UNANCHORED_TERMS
from niyanta.engine.queue.heads import Heads
from niyanta.engine.queue.plan import QueuePlan, plan_queue
from niyanta.engine.queue.queue import RETRY_WITHIN_US, Queue
from niyanta.engine.schedule import Options
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    Charge,
    Expression,
    Op,
    PeerTerm,
    PendingWorkload,
    Reason,
    Requirements,
    Selector,
    Subject,
)
from tests.engine.builders import GIB, node, snapshot, wants, workers

pytestmark = pytest.mark.unit

BIG = Requirements((("cpu", 64_000), ("memory", GIB), ("pods", 1)))
SMALL = Requirements((("cpu", 100), ("memory", GIB), ("pods", 1)))


def asks(
    name: str, requirements: Requirements, kind: str, customer: str = "acme", queued_at: int = 0
) -> PendingWorkload:
    subject = Subject("ns", customer)
    return replace(wants(name, requirements, subject), queue_class=kind, queued_at=queued_at)


def cycle(cluster: Snapshot, queue: Queue, now: int = 0, **options: object) -> QueuePlan:
    plan = plan_queue(cluster, queue, now, **options)  # type: ignore[arg-type]
    queue.follow(plan)
    for placement in plan.plan.placements:
        queue.remove(placement.id)
    return plan


def test_a_refused_class_costs_one_decision_and_hides_nothing() -> None:
    cluster = snapshot(node("a"))
    queue = Queue(workloads=[asks(f"big-{n}", BIG, "big", queued_at=n) for n in range(1000)])
    queue.push(asks("small", SMALL, "small", queued_at=5000))
    plan = cycle(cluster, queue)
    assert workers(plan.plan) == {"small": ("a",)}
    assert [rejection.id for rejection in plan.plan.rejections] == ["big-0"]
    assert queue.counts() == (0, 1)
    assert cycle(cluster, queue).plan.rejections == ()


def test_a_parked_class_wakes_when_a_worker_has_room_for_it_and_not_before() -> None:
    cluster = snapshot(node("a"))
    queue = Queue(workloads=[asks("big", BIG, "big")])
    cycle(cluster, queue)
    cluster.upsert_worker(node("b", cpu=32_000))
    assert cycle(cluster, queue).sources == ()
    cluster.upsert_worker(node("c", cpu=64_000))
    plan = cycle(cluster, queue)
    assert (plan.sources, workers(plan.plan)) == (("worker",), {"big": ("c",)})


def test_room_that_others_took_leaves_the_other_woken_classes_parked_without_a_decision() -> None:
    cluster = snapshot()
    queue = Queue(workloads=[asks(f"job-{n}", BIG, f"kind-{n}", queued_at=n) for n in range(50)])
    cycle(cluster, queue)
    cluster.upsert_worker(node("a", cpu=64_000))
    plan = cycle(cluster, queue)
    assert (len(plan.sources), workers(plan.plan)) == (50, {"job-0": ("a",)})
    assert len(plan.idle) == 49
    assert plan.plan.rejections == ()
    assert queue.counts()[1] == 49


def test_a_placement_that_does_not_come_about_leaves_what_it_kept_out_active() -> None:
    cluster = snapshot(node("a"))
    queue = Queue(workloads=[asks("first", replace(SMALL, requests=(("cpu", 4000), ("pods", 1))), "one", queued_at=0)])
    queue.push(asks("second", replace(SMALL, requests=(("cpu", 3000), ("pods", 1))), "two", queued_at=1))
    plan = plan_queue(cluster, queue, 0)
    assert workers(plan.plan) == {"first": ("a",)}
    queue.remove("first")  # cancelled between the plan and its commit
    queue.follow(plan, {"first"})
    assert workers(cycle(cluster, queue).plan) == {"second": ("a",)}


def test_a_class_that_changed_during_the_cycle_is_decided_again() -> None:
    cluster = snapshot(node("a"))
    queue = Queue(workloads=[asks("job", BIG, "kind")])
    plan = plan_queue(cluster, queue, 0)
    queue.push(asks("job", SMALL, "kind"))
    queue.follow(plan)
    assert workers(cycle(cluster, queue).plan) == {"job": ("a",)}


def test_a_customer_at_its_limit_is_passed_over_and_reported_once() -> None:
    cluster = snapshot(node("a"))
    queue = Queue(workloads=[asks(f"job-{n}", SMALL, f"kind-{n}", "busy", n) for n in range(100)])
    queue.push(asks("other", SMALL, "kind", "quiet", 1000))
    options = Options(remaining={"busy": 0})
    plan = cycle(cluster, queue, options=options)
    assert workers(plan.plan) == {"other": ("a",)}
    assert {rejection.counts[0][0] for rejection in plan.plan.rejections} == {Reason.CONCURRENCY}
    assert len(plan.limited) == len(plan.plan.rejections) == 100
    assert cycle(cluster, queue, options=options, limited=plan.limited).plan.rejections == ()
    assert len(cycle(cluster, queue).plan.placements) > 0


def test_a_workload_that_avoids_a_worker_does_not_park_its_class() -> None:
    cluster = snapshot(node("a"))
    queue = Queue(workloads=[replace(asks("picky", SMALL, "kind"), excluded=frozenset({"a"}))])
    queue.push(asks("plain", SMALL, "kind", queued_at=9))
    assert workers(cycle(cluster, queue).plan) == {"plain": ("a",)}
    cycle(cluster, queue)
    queue.push(asks("picky", SMALL, "kind"))
    assert workers(cycle(cluster, queue).plan) == {"picky": ("a",)}


def test_a_try_without_a_wake_counts_what_it_places_as_missed() -> None:
    cluster = snapshot(node("a"))
    queue = Queue(workloads=[asks("big", BIG, "big")])
    cycle(cluster, queue)
    assert queue.due(RETRY_WITHIN_US // 2 - 1, 10) == []
    cluster.upsert_worker(node("a", cpu=64_000))
    cluster.take_changes()  # a change that gets lost
    due = queue.due(RETRY_WITHIN_US, 10)
    assert [found.name for found in due] == ["big"]
    plan = cycle(cluster, queue, RETRY_WITHIN_US, retries=due)
    assert (plan.missed, workers(plan.plan)) == (("big",), {"big": ("a",)})


def test_a_class_whose_room_was_taken_when_its_time_came_is_tried_again_later() -> None:
    cluster = snapshot()
    queue = Queue(workloads=[asks(f"job-{n}", BIG, f"kind-{n}", queued_at=n) for n in range(2)])
    cycle(cluster, queue)
    due = queue.due(RETRY_WITHIN_US, 10)
    cluster.upsert_worker(node("a", cpu=64_000))
    assert workers(cycle(cluster, queue, RETRY_WITHIN_US, retries=due).plan) == {"job-0": ("a",)}
    assert [found.name for found in queue.due(2 * RETRY_WITHIN_US, 10)] == ["kind-1"]


def test_a_cycle_without_time_leaves_woken_classes_to_the_next_one() -> None:
    cluster = snapshot()
    queue = Queue(workloads=[asks(f"job-{n}", BIG, f"kind-{n}", queued_at=n) for n in range(64)])
    cycle(cluster, queue)
    for n in range(64):
        cluster.upsert_worker(node(f"w{n:02}", cpu=64_000))
    first = cycle(cluster, queue, stop=lambda: True)
    for placement in first.plan.placements:
        cluster.charge(Charge(placement.id, placement.workers[0], BIG.requests))
    assert 0 < len(first.plan.placements) < 64
    assert first.plan.undecided > 0
    rest = cycle(cluster, queue)
    assert len(first.plan.placements) + len(rest.plan.placements) == 64


def test_refused_work_of_one_customer_is_put_off_until_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("niyanta.engine.queue.heads.REFUSED_WORK", 100)
    monkeypatch.setattr("niyanta.engine.queue.heads.DECISION_WORK", 10)
    queue = Queue(workloads=[asks(f"wall-{n}", BIG, f"kind-{n}", "greedy", n) for n in range(10)])
    queue.push(asks("other", SMALL, "kind", "quiet", 1000))
    heads = Heads(queue.active())
    seen = []
    while (cursor := heads.next()) is not None:
        seen.append(cursor.workload().id)
        heads.leave(20)
    assert seen == ["wall-0", "wall-1", "other", *(f"wall-{n}" for n in range(2, 10))]
    assert heads.deferred == 1


def test_too_many_terms_of_a_customer_wait_for_fewer_and_take_no_room_of_others() -> None:
    cluster = snapshot(node("a"), node("b"))

    def carries(number: int) -> Requirements:
        terms = tuple(
            PeerTerm(Selector(labels=(Expression(f"key-{part}-{number}", Op.EXISTS),))) for part in range(1000)
        )
        return replace(SMALL, near=terms)  # near what doesn't run: they stay in use while the class is parked

    queue = Queue(workloads=[asks(f"job-{n}", carries(n), f"kind-{n}", "greedy", n) for n in range(3)])
    queue.push(asks("other", SMALL, "kind", "quiet", 1000))
    plan = cycle(cluster, queue)
    assert workers(plan.plan) == {"other": ("a",)}
    found = {rejection.id: rejection.counts[0][0] for rejection in plan.plan.rejections}
    assert found == {"job-0": Reason.NEAR, "job-1": Reason.NEAR, "job-2": Reason.TERM_LIMIT}
    assert cluster.affinity.unanchored["greedy"] <= MAX_UNANCHORED_TERMS
    queue.remove("job-0")
    for _ in range(2):
        plan = cycle(cluster, queue)
    assert {rejection.id for rejection in plan.plan.rejections} <= {"job-1", "job-2"}
    assert queue.class_of("job-2").park.counts[0][0] is Reason.NEAR  # type: ignore[union-attr]
