"""Breakers of workers: a worker whose kubelet rejects the pods of several workloads gets no work for a growing time."""

from __future__ import annotations

import pytest

from niyanta.engine.snapshot.deltas import Delta, StateReplaced, WorkerRemoved, WorkerUpserted
from niyanta.engine.types import WorkerInfo
from niyanta.scheduler.pods.worker_breakers import FIRST_EXCLUSION_SECONDS, REJECTIONS, WorkerBreakers
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


def reject(breakers: WorkerBreakers, name: str = "n1", *, workloads: int = REJECTIONS) -> None:
    for number in range(workloads):
        breakers.rejected(name, f"w-{number}")


def cordoned(deltas: list[Delta]) -> dict[str, bool]:
    return {delta.worker.name: delta.worker.cordoned for delta in deltas if isinstance(delta, WorkerUpserted)}


def test_rejections_of_different_workloads_close_the_worker_to_all_work(breakers: WorkerBreakers) -> None:
    reject(breakers)
    assert breakers.open() == {"n1"}
    assert breakers.changed()
    assert cordoned(breakers.adjust([])) == {"n1": True}
    assert breakers.adjust([]) == []


def test_rejections_of_one_workload_do_not(breakers: WorkerBreakers) -> None:
    for _ in range(10 * REJECTIONS):
        breakers.rejected("n1", "w")
    assert not breakers.open()


def test_a_pod_that_runs_starts_the_count_again(breakers: WorkerBreakers) -> None:
    reject(breakers, workloads=REJECTIONS - 1)
    breakers.accepted("n1")
    reject(breakers, workloads=REJECTIONS - 1)
    assert not breakers.open()


def test_it_gets_work_again_and_the_next_rejection_closes_it_for_longer(
    breakers: WorkerBreakers, clock: SteppedClock
) -> None:
    reject(breakers)
    breakers.adjust([])
    clock.now += FIRST_EXCLUSION_SECONDS
    assert breakers.changed()
    assert cordoned(breakers.adjust([])) == {"n1": False}
    breakers.rejected("n1", "w")
    clock.now += FIRST_EXCLUSION_SECONDS
    assert breakers.open() == {"n1"}
    clock.now += FIRST_EXCLUSION_SECONDS
    assert not breakers.open()


def test_changes_of_a_closed_worker_keep_it_closed(breakers: WorkerBreakers, clock: SteppedClock) -> None:
    reject(breakers)
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
    reject(breakers)
    breakers.adjust([WorkerUpserted(worker("n1", cordoned=True))])
    clock.now += FIRST_EXCLUSION_SECONDS
    assert cordoned(breakers.adjust([])) == {"n1": True}


def test_a_worker_that_is_removed_is_forgotten(breakers: WorkerBreakers) -> None:
    reject(breakers)
    breakers.adjust([WorkerRemoved("n1")])
    assert not breakers.open()
    assert cordoned(breakers.adjust([WorkerUpserted(worker("n1"))])) == {"n1": False}
