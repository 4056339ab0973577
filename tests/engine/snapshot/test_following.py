"""A change that raises is left out alone, and the whole state mends what it left behind."""

from __future__ import annotations

import pytest

from niyanta.engine.snapshot.deltas import (
    Delta,
    DeltaPublisher,
    PodCharged,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.snapshot.following import follow
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import Charge, WorkerInfo

pytestmark = pytest.mark.unit

N1, N2 = (WorkerInfo(name, "pool", (), (), (("cpu", 4000), ("pods", 10)), slots=5) for name in ("n1", "n2"))
CHARGES = tuple(Charge(f"c-{number}", worker, (("cpu", 100),)) for number, worker in enumerate(("n1", "n2", "n2")))


@pytest.fixture
def _bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """The charge c-1 raises when it is half applied, and so does the worker n1."""
    add, upsert = Snapshot._add, Snapshot.upsert_worker

    def bad_add(self: Snapshot, counted: object, worker: int) -> None:
        if counted.charge.key == "c-1":  # type: ignore[attr-defined]
            raise ValueError("a charge that can't be counted")
        add(self, counted, worker)  # type: ignore[arg-type]

    def bad_upsert(self: Snapshot, info: WorkerInfo) -> None:
        upsert(self, info)
        if info.name == "n1":
            raise ValueError("a worker that can't be indexed")

    monkeypatch.setattr(Snapshot, "_add", bad_add)
    monkeypatch.setattr(Snapshot, "upsert_worker", bad_upsert)


def cpu_in_use(snapshot: Snapshot, worker: str) -> int:
    return dict(snapshot.worker_usage(worker).used).get("cpu", 0)


@pytest.mark.usefixtures("_bad")
def test_changes_that_raise_lose_no_others() -> None:
    deltas: list[Delta] = [WorkerUpserted(N1), WorkerUpserted(N2), *map(PodCharged, CHARGES)]
    snapshot, faults = follow(Snapshot(), deltas)
    assert [fault.subject for fault in faults] == ["n1", "c-1"]
    assert snapshot.workers == ("n2",), "nothing is placed on a worker that is known in part"
    assert cpu_in_use(snapshot, "n2") == 100


@pytest.mark.usefixtures("_bad")
def test_entries_of_the_whole_state_that_raise_lose_no_others() -> None:
    snapshot, faults = follow(Snapshot(), [StateReplaced((N1, N2), CHARGES)])
    assert [fault.subject for fault in faults] == ["n1", "c-1"]
    assert cpu_in_use(snapshot, "n2") == 100


def test_the_whole_state_mends_what_a_change_left_behind() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshot, "_add", lambda *_: 1 / 0)
        damaged, faults = follow(Snapshot(), [WorkerUpserted(N1), PodCharged(CHARGES[0])])
    assert len(faults) == 1
    assert cpu_in_use(damaged, "n1") == 0
    mended, faults = follow(damaged, [StateReplaced((N1,), CHARGES[:1])])
    assert not faults
    assert cpu_in_use(mended, "n1") == 100
    assert mended.freed == damaged.freed, "no capacity was freed"


def test_a_cursor_that_starts_over_reads_the_whole_state_once() -> None:
    publisher = DeltaPublisher(lambda: StateReplaced((N1,), ()))
    cursor = publisher.cursor()
    cursor.take()
    publisher.publish(WorkerRemoved("n2"))
    cursor.restart()
    assert cursor.has_unread
    assert [type(delta) for delta in cursor.take()] == [StateReplaced]
    publisher.publish(WorkerRemoved("n2"))
    assert cursor.take() == [WorkerRemoved("n2")]
