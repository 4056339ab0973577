"""Conditions of Workloads: their statuses in every phase, and their times over every transition."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from niyanta.cluster.status.conditions import (
    ACCEPTED,
    FAILED,
    FINISHED,
    RUNNING,
    SCHEDULED,
    SUCCEEDED,
    SUSPENDED,
    TYPES,
    UNKNOWN,
    Since,
    conditions_of,
    followed,
    shown,
)
from niyanta.lifecycle import TRANSITIONS, Door, Event, Phase
from niyanta.settings import Settings
from niyanta.store.rows import RowChange, WorkloadRow
from niyanta.store.workloads.queue_key import QueueKeys
from niyanta.store.workloads.transitions import transition

pytestmark = pytest.mark.unit

CREATED = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEYS = QueueKeys(Settings())


def at(minutes: int) -> datetime:
    """A time that many minutes after the creation."""
    return CREATED + timedelta(minutes=minutes)


def new_row(phase: Phase = Phase.PENDING, **fields: Any) -> WorkloadRow:
    values: dict[str, Any] = {
        "id": "7f9c2ba4-e88f-4b2b-a5b9-2d1c55dd0a11",
        "door": Door.KUBERNETES,
        "namespace": "team",
        "name": "train",
        "customer": "acme",
        "type": "",
        "labels": {},
        "generation": 3,
        "spec": {},
        "class_id": "c",
        "replicas": 2,
        "phase": phase,
        "version": 1,
        "priority": 10,
        "tier_weight": 1,
        "queued_at_us": round(CREATED.timestamp() * 1e6),
        "created_at": CREATED,
    }
    if phase in (Phase.HELD, Phase.SUSPENDED):
        values["paused_at"] = CREATED
    if phase is Phase.FAILED:
        values["finished_at"] = CREATED
    return WorkloadRow(**(values | fields))


def moved(row: WorkloadRow, event: Event, minutes: int) -> WorkloadRow:
    """The row after an event, as the store makes it."""
    workers = ("n1", "n2") if event is Event.PLACE else None
    change = RowChange(row.id, row.version, event, reason=f"Because{event.value}", workers=workers)
    return transition(row, change, now_us=round(at(minutes).timestamp() * 1e6), keys=KEYS)


def story(first: Phase, *events: Event) -> list[tuple[WorkloadRow, Since]]:
    """A new row and its states after events, one a minute, each followed as it happens."""
    row = new_row(first)
    since = followed(row, now=CREATED.timestamp())
    states = [(row, since)]
    for minutes, event in enumerate(events, start=1):
        row = moved(row, event, minutes)
        since = followed(row, since, now=at(minutes).timestamp())
        states.append((row, since))
    return states


def true_ones(since: Since) -> set[str]:
    return {kind for kind, held in zip(TYPES, since.holds, strict=True) if held}


def minutes_of(since: Since) -> dict[str, int]:
    """Type -> minutes after the creation at which it last changed."""
    return {kind: round((when - CREATED.timestamp()) / 60) for kind, when in zip(TYPES, since.at, strict=True)}


@pytest.mark.parametrize(
    ("phase", "fields", "expected"),
    [
        (Phase.PENDING, {}, {ACCEPTED}),
        (Phase.PENDING, {"attempt": 2}, {ACCEPTED}),
        (Phase.HELD, {}, set()),
        (Phase.SUSPENDED, {}, {ACCEPTED, SUSPENDED}),
        (Phase.SCHEDULED, {"attempt": 1, "scheduled_at": at(1)}, {ACCEPTED, SCHEDULED}),
        (Phase.RUNNING, {"attempt": 1, "scheduled_at": at(1), "started_at": at(2)}, {ACCEPTED, SCHEDULED, RUNNING}),
        (
            Phase.SUCCEEDED,
            {"attempt": 1, "scheduled_at": at(1), "started_at": at(2), "finished_at": at(3)},
            {ACCEPTED, SCHEDULED, FINISHED, SUCCEEDED},
        ),
        (
            Phase.FAILED,
            {"attempt": 1, "scheduled_at": at(1), "started_at": at(2), "finished_at": at(3)},
            {ACCEPTED, SCHEDULED, FINISHED, FAILED},
        ),
        (Phase.FAILED, {}, {FINISHED, FAILED}),
        (Phase.CANCELLED, {"finished_at": at(1)}, {ACCEPTED, FINISHED}),
        (
            Phase.CANCELLED,
            {"attempt": 1, "scheduled_at": at(1), "finished_at": at(3)},
            {ACCEPTED, SCHEDULED, FINISHED},
        ),
    ],
)
def test_each_phase_has_its_conditions(phase: Phase, fields: dict[str, Any], expected: set[str]) -> None:
    row = new_row(phase, **fields)
    since = followed(row, now=at(9).timestamp())
    assert true_ones(since) == expected
    conditions = conditions_of(row, since)
    assert [condition["type"] for condition in conditions] == list(TYPES)
    assert {condition["type"] for condition in conditions if condition["status"] == "True"} == expected
    assert {condition["observedGeneration"] for condition in conditions} == {3}
    assert all(condition["reason"] for condition in conditions)


@pytest.mark.parametrize(("phase", "event"), sorted(TRANSITIONS, key=str))
def test_over_each_transition_only_conditions_that_change_get_a_new_time(phase: Phase, event: Event) -> None:
    ways: dict[Phase, tuple[Phase, tuple[Event, ...]]] = {
        Phase.PENDING: (Phase.PENDING, ()),
        Phase.HELD: (Phase.PENDING, (Event.HOLD,)),
        Phase.SUSPENDED: (Phase.PENDING, (Event.SUSPEND,)),
        Phase.SCHEDULED: (Phase.PENDING, (Event.PLACE,)),
        Phase.RUNNING: (Phase.PENDING, (Event.PLACE, Event.START)),
    }
    first, events = ways[phase]
    states = story(first, *events, event)
    (_, before), (_, after) = states[-2:]
    moment = int(at(len(events) + 1).timestamp())
    for kind, was, now, was_at, now_at in zip(TYPES, before.holds, after.holds, before.at, after.at, strict=True):
        assert now_at == (was_at if was == now else moment), kind
    assert true_ones(after) != true_ones(before) or event in (Event.HOLD, Event.RETRY, Event.REQUEUE)


def test_the_times_of_a_life_with_a_retry_and_a_pause() -> None:
    states = story(
        Phase.HELD,
        *(Event.RELEASE, Event.PLACE, Event.START, Event.RETRY),
        *(Event.PLACE, Event.START, Event.SUSPEND, Event.RESUME, Event.PLACE, Event.START, Event.SUCCEED),
    )
    minutes = [minutes_of(since) for _, since in states]
    assert [found[ACCEPTED] for found in minutes] == [0] + [1] * 11
    assert [found[SCHEDULED] for found in minutes] == [0, 0, 2, 2, 4, 5, 5, 7, 7, 9, 9, 9]
    assert [found[RUNNING] for found in minutes] == [0, 0, 0, 3, 4, 4, 6, 7, 7, 7, 10, 11]
    assert [found[SUSPENDED] for found in minutes] == [0] * 7 + [7] + [8] * 4
    assert [found[FINISHED] for found in minutes] == [0] * 11 + [11]
    assert [found[SUCCEEDED] for found in minutes] == [0] * 11 + [11]
    assert [found[FAILED] for found in minutes] == [0] * 12


def test_a_message_that_changes_keeps_the_times() -> None:
    (row, since), *_ = story(Phase.PENDING)
    assert followed(replace(row, message="12 workers lack GPUs"), since, now=at(5).timestamp()) == since


def test_a_held_workload_that_fails_was_never_accepted() -> None:
    (_, _), (row, since) = story(Phase.HELD, Event.FAIL)
    assert minutes_of(since)[ACCEPTED] == 0
    assert conditions_of(row, since)[0]["reason"] == "BecauseFail"


@pytest.mark.parametrize(
    ("phase", "reason"), [(Phase.SUCCEEDED, "Succeeded"), (Phase.FAILED, "Failed"), (Phase.CANCELLED, "Cancelled")]
)
def test_finished_names_the_end_and_failed_its_reason(phase: Phase, reason: str) -> None:
    row = new_row(phase, attempt=1, scheduled_at=at(1), finished_at=at(2), reason="PodFailed", message="exit code 1")
    found = {c["type"]: c for c in conditions_of(row, followed(row, now=0))}
    assert (found[FINISHED]["reason"], found[FINISHED]["message"]) == (reason, "exit code 1")
    assert found[FAILED]["reason"] == ("PodFailed" if phase is Phase.FAILED else phase.value)


# --- a new leader ----------------------------------------------------------------------------------------------------


def test_a_new_leader_takes_from_the_object_what_the_row_does_not_tell() -> None:
    *_, (row, since) = story(Phase.HELD, Event.RELEASE, Event.PLACE, Event.START, Event.RETRY)
    read = shown(conditions_of(row, since))
    assert read == since
    assert followed(row, read, now=at(60).timestamp()) == since


def test_what_disagrees_with_the_row_has_the_rows_time_or_changed_now() -> None:
    (_, before), (row, _) = story(Phase.PENDING, Event.PLACE)
    found = minutes_of(followed(row, shown(conditions_of(row, before)), now=at(60).timestamp()))
    assert found[SCHEDULED] == 1
    *_, (row, before), (back, _) = story(Phase.PENDING, Event.PLACE, Event.START, Event.REQUEUE)
    found = minutes_of(followed(back, shown(conditions_of(row, before)), now=at(60).timestamp()))
    assert (found[ACCEPTED], found[SCHEDULED], found[RUNNING]) == (0, 60, 60)


def test_without_a_status_a_new_leader_derives_the_times_from_the_row() -> None:
    *_, (row, since) = story(Phase.PENDING, Event.PLACE, Event.START)
    assert followed(row, now=at(60).timestamp()) == since
    (row, since), *_ = story(Phase.SUSPENDED)
    assert followed(row, now=at(60).timestamp()) == since


@pytest.mark.parametrize(
    "conditions",
    [
        [{}],
        [{"type": FINISHED, "status": "True"}],
        [{"type": FINISHED, "status": "Unknown", "lastTransitionTime": "2026-03-01T12:00:00Z"}],
        [{"type": FINISHED, "status": "True", "lastTransitionTime": "noon"}],
        [{"type": FINISHED, "status": "True", "lastTransitionTime": 12}],
        [{"type": "Theirs", "status": "True", "lastTransitionTime": "2026-03-01T12:00:00Z"}],
        [{"type": ["list"], "status": ["list"]}],
    ],
)
def test_conditions_that_cannot_be_read_are_unknown(conditions: list[dict[str, Any]]) -> None:
    assert shown(conditions) == UNKNOWN


def test_the_compact_form_loses_nothing() -> None:
    for holds in itertools.product((True, False, None), repeat=len(TYPES)):
        since = Since(holds, tuple(int(CREATED.timestamp()) + index for index in range(len(TYPES))))
        assert Since.unpack(since.pack()) == since
