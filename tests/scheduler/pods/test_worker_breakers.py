"""Breakers of workers: a worker whose kubelet rejects the pods of several workloads gets no work for a growing time."""

from __future__ import annotations

import pytest

from niyanta.engine.snapshot.deltas import Delta, StateReplaced, WorkerRemoved, WorkerUpserted
from niyanta.engine.types import WorkerInfo
from niyanta.scheduler.pods.worker_breakers import (
    EVERYONE,
    FIRST_EXCLUSION_SECONDS,
    OF_ONE_CUSTOMER,
    REJECTIONS,
    WorkerBreakers,
)
from tests.scheduler.pods.test_breaker import SteppedClock

pytestmark = pytest.mark.unit


def worker(name: str = "n1", *, cordoned: bool = False) -> WorkerInfo:
    return WorkerInfo(name=name, pool="p", labels=(), tags=(), allocatable=(("pods", 110),), cordoned=cordoned)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def breakers(clock: SteppedClock) -> WorkerBreakers:
    """Breakers that know the workers n1 and n2."""
    breakers = WorkerBreakers(clock)
    breakers.adjust([StateReplaced((worker("n1"), worker("n2")), ())])
    return breakers


def reject(breakers: WorkerBreakers, name: str = "n1", *, workloads: int = REJECTIONS, customer: str = "acme") -> None:
    for number in range(workloads):
        breakers.rejected(name, f"{customer}-{number}", customer)


def reject_of_all(breakers: WorkerBreakers) -> None:
    """Rejections that close n1 to all customers."""
    reject(breakers, workloads=OF_ONE_CUSTOMER)
    reject(breakers, workloads=REJECTIONS - OF_ONE_CUSTOMER, customer="bolt")


def closed_to(deltas: list[Delta]) -> dict[str, set[str]]:
    return {d.worker.name: set(d.worker.rejected_customers) for d in deltas if isinstance(d, WorkerUpserted)}


def cordoned(deltas: list[Delta]) -> dict[str, bool]:
    return {delta.worker.name: delta.worker.cordoned for delta in deltas if isinstance(delta, WorkerUpserted)}


def test_rejections_of_one_customer_close_the_worker_to_that_customer_alone(breakers: WorkerBreakers) -> None:
    reject(breakers, workloads=10 * REJECTIONS)
    assert breakers.open() == {"n1": {"acme"}}
    assert breakers.changed()
    deltas = breakers.adjust([])
    assert cordoned(deltas) == {"n1": False}
    assert closed_to(deltas) == {"n1": {"acme"}}
    assert breakers.adjust([]) == []


def test_rejections_of_two_customers_close_the_worker_to_all_work(breakers: WorkerBreakers) -> None:
    reject_of_all(breakers)
    assert breakers.open() == {"n1": {EVERYONE}}
    assert cordoned(breakers.adjust([])) == {"n1": True}


def test_many_rejections_of_one_customer_and_one_of_another_do_not(breakers: WorkerBreakers) -> None:
    reject(breakers, workloads=10 * REJECTIONS)
    reject(breakers, workloads=1, customer="bolt")
    assert breakers.open() == {"n1": {"acme"}}


def test_rejections_of_one_workload_do_not(breakers: WorkerBreakers) -> None:
    for _ in range(10 * REJECTIONS):
        breakers.rejected("n1", "w", "acme")
    assert not breakers.open()


def test_a_pod_that_runs_starts_the_count_again(breakers: WorkerBreakers) -> None:
    reject(breakers, workloads=REJECTIONS - 1)
    breakers.accepted("n1", "acme")
    reject(breakers, workloads=REJECTIONS - 1)
    assert not breakers.open()


def test_a_pod_of_another_customer_that_runs_opens_the_worker_to_the_others(breakers: WorkerBreakers) -> None:
    reject(breakers)
    reject(breakers, workloads=REJECTIONS - OF_ONE_CUSTOMER, customer="bolt")
    assert breakers.open() == {"n1": {"acme", EVERYONE}}
    breakers.accepted("n1", "bolt")
    assert breakers.open() == {"n1": {"acme"}}
    breakers.accepted("n1", "acme")
    assert not breakers.open()


def test_it_gets_work_again_and_the_next_rejection_closes_it_for_longer(
    breakers: WorkerBreakers, clock: SteppedClock
) -> None:
    reject(breakers)
    breakers.adjust([])
    clock.now += FIRST_EXCLUSION_SECONDS
    assert breakers.changed()
    assert closed_to(breakers.adjust([])) == {"n1": set()}
    breakers.rejected("n1", "w", "acme")
    clock.now += FIRST_EXCLUSION_SECONDS
    assert breakers.open() == {"n1": {"acme"}}
    clock.now += FIRST_EXCLUSION_SECONDS
    assert not breakers.open()


def test_a_worker_that_was_closed_to_all_is_closed_again_by_two_customers_only(
    breakers: WorkerBreakers, clock: SteppedClock
) -> None:
    reject_of_all(breakers)
    clock.now += FIRST_EXCLUSION_SECONDS
    reject(breakers, workloads=3 * REJECTIONS)
    assert breakers.open() == {"n1": {"acme"}}
    reject(breakers, workloads=1, customer="bolt")
    assert EVERYONE in breakers.open()["n1"]


def test_changes_of_a_closed_worker_keep_it_closed(breakers: WorkerBreakers, clock: SteppedClock) -> None:
    reject_of_all(breakers)
    breakers.adjust([])
    assert cordoned(breakers.adjust([WorkerUpserted(worker("n1")), WorkerUpserted(worker("n2"))])) == {
        "n1": True,
        "n2": False,
    }
    (replaced,) = breakers.adjust([StateReplaced((worker("n1"), worker("n2")), ())])
    assert isinstance(replaced, StateReplaced)
    assert [info.cordoned for info in replaced.workers] == [True, False]
    clock.now += FIRST_EXCLUSION_SECONDS
    assert cordoned(breakers.adjust([])) == {"n1": False}


def test_a_worker_that_was_cordoned_meanwhile_stays_cordoned(breakers: WorkerBreakers, clock: SteppedClock) -> None:
    reject_of_all(breakers)
    breakers.adjust([WorkerUpserted(worker("n1", cordoned=True))])
    clock.now += FIRST_EXCLUSION_SECONDS
    assert cordoned(breakers.adjust([])) == {"n1": True}


def test_a_worker_that_is_removed_is_forgotten(breakers: WorkerBreakers) -> None:
    reject_of_all(breakers)
    breakers.adjust([WorkerRemoved("n1")])
    assert not breakers.open()
    assert cordoned(breakers.adjust([WorkerUpserted(worker("n1"))])) == {"n1": False}
