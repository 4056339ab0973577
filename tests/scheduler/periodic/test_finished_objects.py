"""Finished objects: what is kept, and what is chosen for deletion."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from niyanta.lifecycle import Door, Phase
from niyanta.scheduler.cluster_api import ClusterWrites, PodWriteError, WriteProblem
from niyanta.scheduler.periodic import expiry as expiry_module
from niyanta.scheduler.periodic.expiry import ObjectExpiry
from niyanta.scheduler.periodic.finished_objects import ChosenObject, DeletionCause, FinishedObjects
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow
from tests.fakes.leader import until

pytestmark = pytest.mark.unit

SECOND = 1_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)
START_US = round(START.timestamp()) * SECOND


def finished_objects(*, per_namespace: int = 1_000, total: int = 20_000, rest_ttl: int = 3600) -> FinishedObjects:
    return FinishedObjects(
        Settings(finished_objects_per_namespace=per_namespace, finished_objects=total, rest_object_ttl_seconds=rest_ttl)
    )


def row(
    ended_after: float, *, namespace: str = "team", customer: str = "acme", door: Door = Door.KUBERNETES
) -> WorkloadRow:
    """A row that ended some seconds after START."""
    made_for_rest = door is Door.REST
    return WorkloadRow(
        id=str(uuid.uuid4()),
        door=door,
        namespace=namespace,
        name="job",
        customer=customer,
        type="",
        labels={},
        generation=1,
        spec={},
        class_id="",
        replicas=1,
        phase=Phase.SUCCEEDED,
        version=4,
        priority=10,
        tier_weight=10,
        queued_at_us=0,
        finished_at=START + timedelta(seconds=ended_after),
        object_uid=str(uuid.uuid4()) if made_for_rest else None,
        object_name="job-1" if made_for_rest else None,
    )


def chosen(finished: FinishedObjects, *, seconds: float) -> list[ChosenObject]:
    """What is chosen some seconds after START, in the order of its turns."""
    for _ in range(10):
        finished.choose(START_US + round(seconds * SECOND))
    found = []
    while namespaces := finished.namespaces_waiting():
        found += [item for name in namespaces if (item := finished.take(name)) is not None]
    return found


def uid(of: WorkloadRow) -> str:
    assert of.object is not None
    return of.object[1]


def test_an_object_of_a_user_without_a_time_to_live_is_kept() -> None:
    finished = finished_objects()
    finished.note_row(row(0), None)
    assert chosen(finished, seconds=10 * 365 * 86_400) == []
    assert len(finished) == 1


def test_an_object_goes_when_its_own_time_to_live_is_over() -> None:
    finished = finished_objects()
    job = row(5)
    finished.note_row(job, 60)
    assert chosen(finished, seconds=64.9) == []
    (found,) = chosen(finished, seconds=65)
    assert (found.obj.uid, found.cause) == (job.id, DeletionCause.TTL)


@pytest.mark.parametrize(("own", "seconds"), [(None, 3600), (60, 60), (7200, 7200), (0, 0)])
def test_an_object_of_a_rest_submission_goes_after_the_setting_or_its_own_time(own: int | None, seconds: int) -> None:
    finished = finished_objects()
    job = row(0, door=Door.REST)
    finished.note_row(job, own)
    assert chosen(finished, seconds=seconds - 1) == []
    (found,) = chosen(finished, seconds=seconds)
    assert found.obj.uid == job.object_uid


def test_an_edit_of_the_time_to_live_counts_from_the_end() -> None:
    finished = finished_objects()
    job = row(0)
    finished.note_row(job, 60)
    finished.note_row(job, 600)
    assert chosen(finished, seconds=599) == []
    finished.note_row(job, None)
    assert chosen(finished, seconds=10_000) == []
    finished.note_row(job, 1)
    assert len(chosen(finished, seconds=10_000)) == 1


def test_a_deletion_that_waits_is_given_up_when_an_edit_keeps_the_object() -> None:
    finished = finished_objects()
    job = row(0)
    finished.note_row(job, 60)
    finished.choose(START_US + 60 * SECOND)
    finished.note_row(job, None)
    assert finished.namespaces_waiting() == []
    assert uid(job) in finished


def test_the_oldest_of_a_crowded_namespace_go() -> None:
    finished = finished_objects(per_namespace=2)
    rows = [row(ended) for ended in (3, 1, 2, 4)]
    quiet = row(0, namespace="quiet")
    for job in (*rows, quiet):
        finished.note_row(job, None)
    found = chosen(finished, seconds=10)
    assert [item.obj.uid for item in found] == [rows[1].id, rows[2].id]
    assert {item.cause for item in found} == {DeletionCause.NAMESPACE_LIMIT}


def test_the_oldest_of_all_go_beyond_the_total() -> None:
    finished = finished_objects(total=3)
    rows = [row(ended, namespace=f"team-{ended}") for ended in (5, 1, 4, 2, 3)]
    for job in rows:
        finished.note_row(job, None)
    found = chosen(finished, seconds=10)
    assert [item.obj.finished_us - START_US for item in found] == [1 * SECOND, 2 * SECOND]
    assert {item.cause for item in found} == {DeletionCause.TOTAL_LIMIT}


@pytest.mark.parametrize("named", [True, False])
def test_beyond_the_total_the_owner_with_most_loses_its_oldest(*, named: bool) -> None:
    finished = finished_objects(total=300)
    small = [row(ended, namespace="small", customer="small" if named else "") for ended in range(50)]
    for job in small:
        finished.note_row(job, None)
    for number in range(1_000):
        namespace = f"big-{number % 20}" if named else "big"
        finished.note_row(row(100 + number, namespace=namespace, customer="big" if named else ""), None)
    found = chosen(finished, seconds=2_000)
    assert [item.obj.finished_us for item in sorted(found, key=lambda item: item.obj.finished_us)] == [
        START_US + (100 + number) * SECOND for number in range(750)
    ]
    assert {job.id for job in small} <= finished.uids() - {item.obj.uid for item in found}


def test_choices_of_one_round_are_bounded() -> None:
    finished = finished_objects(total=100)
    for number in range(2_000):
        finished.note_row(row(number, namespace=f"team-{number % 40}", customer=f"customer-{number % 40}"), None)
    numbers = []
    for _ in range(5):
        finished.choose(START_US + 5_000 * SECOND)
        numbers.append(sum(len(uids) for uids in finished._waiting.values()))
    assert numbers == [500, 1_000, 1_500, 1_900, 1_900]


def test_objects_that_cannot_be_deleted_cost_no_other_its_place() -> None:
    finished = finished_objects(per_namespace=1_000, total=3)
    stuck = [row(ended, namespace="stuck") for ended in range(5)]
    for job in stuck:
        finished.note_row(job, None)
    for item in chosen(finished, seconds=10):
        finished.give_back(item)
    others = [row(20, namespace="other")]
    finished.note_row(others[0], None)
    finished.choose(START_US + 30 * SECOND)
    assert finished.namespaces_waiting() == ["stuck"]
    assert all(uid(job) in finished for job in (*stuck, *others))


def test_a_deletion_that_failed_waits_behind_the_others_of_its_namespace() -> None:
    finished = finished_objects(per_namespace=1)
    rows = [row(ended) for ended in range(4)]
    for job in rows:
        finished.note_row(job, None)
    finished.choose(START_US)
    first = finished.take("team")
    assert first is not None
    finished.give_back(first)
    turns = [item.obj.uid for _ in range(3) if (item := finished.take("team")) is not None]
    assert turns == [rows[1].id, rows[2].id, rows[0].id]


def test_namespaces_take_turns() -> None:
    finished = finished_objects(per_namespace=1)
    for name in ("a", "b"):
        for ended in range(4):
            finished.note_row(row(ended, namespace=name), None)
    finished.choose(START_US)
    turns = []
    while waiting := finished.namespaces_waiting():
        turns.append(waiting[0])
        finished.take(waiting[0])
    assert turns in (list("ababab"), list("bababa"))


def test_an_object_that_is_gone_is_forgotten_wherever_it_was() -> None:
    finished = finished_objects(per_namespace=1)
    rows = [row(ended) for ended in range(3)]
    for job in rows:
        finished.note_row(job, 1)
    finished.choose(START_US + 2 * SECOND)
    under_way = finished.take("team")
    assert under_way is not None
    for job in rows:
        finished.forget(uid(job))
    finished.give_back(under_way)
    assert (len(finished), finished.namespaces_waiting(), finished.uids()) == (0, [], set())


def test_the_delay_is_that_of_the_oldest_deletion_that_is_due() -> None:
    finished = finished_objects()
    for ended in (0, 10):
        finished.note_row(row(ended), 0)
    assert finished.delay_us(START_US) == 0
    finished.choose(START_US)
    finished.choose(START_US + 10 * SECOND)
    assert finished.delay_us(START_US + 25 * SECOND) == 25 * SECOND


def test_rows_without_an_object_are_not_noted() -> None:
    finished = finished_objects()
    without = row(0, door=Door.REST)
    finished.note_row(replace(without, object_uid=None, object_name=None), None)
    finished.note_row(replace(row(0), phase=Phase.RUNNING), None)
    assert len(finished) == 0


def test_an_object_without_a_row_goes_by_the_time_in_its_status() -> None:
    finished = finished_objects(per_namespace=1)
    times = ["2026-01-01T00:00:09Z", "2026-01-01T00:00:03Z", "no time"]
    objects = [
        {
            "metadata": {"uid": f"u{n}", "namespace": "team", "name": "job", "creationTimestamp": START.isoformat()},
            "spec": {},
            "status": {"phase": "Failed", "completionTime": text},
        }
        for n, text in enumerate(times)
    ]
    for obj in objects:
        finished.note_without_row(obj, is_rest=False)
    assert [item.obj.uid for item in chosen(finished, seconds=10)] == ["u2", "u1"]


class Objects:
    """The API server's objects, in number; implements `ClusterWrites.delete_workload`."""

    def __init__(self) -> None:
        self.present: set[str] = set()

    async def delete_workload(self, namespace: str, name: str, uid: str) -> None:
        self.present.remove(uid)


async def test_fifty_thousand_finished_workloads_leave_the_count_flat() -> None:
    settings = Settings(finished_object_deletions_per_second=1_000_000.0)
    clock = cast(Clock, SimpleNamespace(now=lambda: START_US))
    state = SchedulerState.of_leadership(1, settings, clock=clock)
    finished, objects = state.finished_objects, Objects()
    expiry = ObjectExpiry(state, cast(ClusterWrites, objects), on_lost=lambda: None)
    counts = []
    for batch in range(100):
        for number in range(500):
            job = row(batch, namespace=f"team-{number % 40}")
            objects.present.add(job.id)
            finished.note_row(job, None)
        expiry.run()
        await until(lambda: not expiry.under_way, "the deletions end")
        counts.append((len(objects.present), len(finished)))
    assert max(counts) == counts[-1] == (20_000, 20_000)
    assert finished.uids() == objects.present
    orders = (finished._owners, finished._by_expiry, *finished._by_age_of.values(), *finished._by_age_in.values())
    assert sum(len(order._heap) for order in orders) <= 5 * 20_000, "what was forgotten takes no memory"


async def test_a_namespace_with_one_object_that_is_refused_is_tried_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(expiry_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    tries = 0

    class Refusing(Objects):
        async def delete_workload(self, namespace: str, name: str, uid: str) -> None:
            nonlocal tries
            tries += 1
            raise PodWriteError(WriteProblem.FORBIDDEN, "denied")

    state = SchedulerState.of_leadership(1, Settings(), clock=cast(Clock, SimpleNamespace(now=lambda: START_US)))
    expiry = ObjectExpiry(state, cast(ClusterWrites, Refusing()), on_lost=lambda: None)
    state.finished_objects.note_row(row(0), 0)
    for _ in range(12):
        now[0] += 301.0
        expiry.run()
        expiry.run()  # while the only chosen object is under way
        await until(lambda: not expiry.under_way, "the deletion fails")
    now[0] += 100.0
    expiry.run()
    await until(lambda: not expiry.under_way, "no deletion is under way")
    assert tries == 12
