"""Names of queue classes follow what decides placement, and nothing else."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest

from niyanta.engine.queue.queue import Queue
from niyanta.engine.types import Expression, Op, PeerTerm, PendingWorkload, Requirements, Scope, Selector, Subject
from niyanta.scheduler.memory.queue_classes import MOST_VISIBLE_KEYS, QueueClasses

pytestmark = pytest.mark.unit

POD = Requirements((("cpu", 100), ("pods", 1)))


def job(number: int, **labels: str) -> Subject:
    return Subject("ns", "acme", labels=tuple(sorted({"job": str(number), **labels}.items())))


def term(key: str, scope: Scope = Scope.NAMESPACE) -> Requirements:
    return replace(POD, anti=(PeerTerm(Selector(labels=(Expression(key, Op.EXISTS),)), scope=scope),))


def test_equal_requirements_are_shared_and_share_a_class() -> None:
    classes = QueueClasses()
    one, number = classes.share(POD)
    other, same = classes.share(replace(POD))
    assert (one is other, number) == (True, same)
    assert classes.name(number, job(1), 1) == classes.name(number, job(2), 1)
    assert classes.share(replace(POD, gpu_count=1))[1] != number


def test_requirements_are_forgotten_with_their_last_workload() -> None:
    classes = QueueClasses()
    for amount in range(1000):
        classes.share(Requirements((("cpu", amount), ("pods", 1))))
    gc.collect()
    assert len(classes._numbers) <= 1


@pytest.mark.parametrize(
    "other", [replace(job(1), namespace="other"), replace(job(1), customer="bolt"), replace(job(1), type="etl")]
)
def test_namespace_customer_type_and_replicas_are_part_of_a_class(other: Subject) -> None:
    classes = QueueClasses()
    assert classes.name(1, job(1), 1) != classes.name(1, other, 1)
    assert classes.name(1, job(1), 1) != classes.name(1, job(1), 2)


@pytest.mark.parametrize("scope", list(Scope))
def test_a_label_that_a_term_names_splits_the_classes_in_its_reach(scope: Scope) -> None:
    classes = QueueClasses()
    classes.note_terms(term("team", scope), Subject("ns", "acme"))
    assert classes.name(1, job(1, team="a"), 1) != classes.name(1, job(1, team="b"), 1)
    far = [replace(job(1, team=team), namespace="far", customer="far") for team in "ab"]
    assert (classes.name(1, far[0], 1) != classes.name(1, far[1], 1)) == (scope is Scope.CLUSTER)


def test_queued_workloads_move_when_a_key_becomes_visible() -> None:
    classes, queue = QueueClasses(), Queue()
    for number in range(4):
        subject = job(number, team="ab"[number % 2])
        queue.push(PendingWorkload(f"w{number}", 1, 1, subject, POD, queue_class=classes.name(1, subject, 1)))
    assert len(queue.classes()) == 1
    classes.note_terms(term("team"), Subject("ns", "acme"))
    moved = list(classes.take_outdated(queue))
    assert len(moved) == 4
    assert list(classes.take_outdated(queue)) == []
    for workload in moved:
        queue.push(replace(workload, queue_class=classes.name(1, workload.subject, 1)))
    assert sorted(len(found) for found in queue.classes()) == [2, 2]


def test_beyond_the_bound_of_keys_every_label_counts() -> None:
    classes = QueueClasses()
    for number in range(MOST_VISIBLE_KEYS + 1):
        classes.note_terms(term(f"key-{number}"), Subject("ns", "acme"))
    assert classes.name(1, job(1), 1) != classes.name(1, job(2), 1)
