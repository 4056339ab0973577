"""What the watch showed of Workload objects: the newest version, and conditions that a new leader can go on from."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.cluster.status import shown_statuses
from niyanta.cluster.status.conditions import UNKNOWN, conditions_of, shown
from niyanta.cluster.status.shown_statuses import ShownStatus, ShownStatuses
from niyanta.lifecycle import Event, Phase
from tests.cluster.status.test_conditions import story

pytestmark = pytest.mark.unit

PLACED, SINCE = story(Phase.PENDING, Event.PLACE)[-1]


def workload(uid: str = "u", version: str = "7", **status: Any) -> dict[str, Any]:
    meta = {"uid": uid, "name": "w", "namespace": "ns", "resourceVersion": version}
    return {"metadata": meta, "spec": {}, "status": status}


def test_an_event_tells_version_and_conditions() -> None:
    statuses = ShownStatuses()
    statuses.on_event("ADDED", workload(phase="Scheduled", conditions=conditions_of(PLACED, SINCE)))
    assert statuses.get("u") == ShownStatus(7, SINCE)
    assert statuses.get("another") == ShownStatus(0, UNKNOWN)


def test_an_event_that_comes_late_changes_nothing() -> None:
    statuses = ShownStatuses()
    statuses.wrote("u", "12", SINCE, finished=False)
    statuses.on_event("MODIFIED", workload(version="9"))
    assert statuses.get("u") == ShownStatus(12, SINCE)
    statuses.on_event("MODIFIED", workload(version="13"))
    assert statuses.get("u") == ShownStatus(13, UNKNOWN)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Cancelled"])
def test_finished_and_deleted_objects_are_forgotten(phase: str) -> None:
    statuses = ShownStatuses()
    for number in range(3):
        statuses.on_event("", workload(f"u{number}"))
    statuses.on_event("MODIFIED", workload("u0", phase=phase))
    statuses.on_event("DELETED", workload("u1"))
    statuses.wrote("u2", "8", SINCE, finished=True)
    assert len(statuses) == 0


@pytest.mark.parametrize(
    "obj",
    [
        {},
        {"metadata": {"uid": "u", "resourceVersion": "x"}},
        {"metadata": {"uid": "u"}, "status": {"conditions": 3}},
        {"metadata": {"uid": "u"}, "status": {"phase": ["list"]}},
        {"metadata": {"uid": "u"}, "status": "text"},
    ],
)
def test_an_object_that_cannot_be_read_must_be_read_before_its_status_is_written(obj: dict[str, Any]) -> None:
    statuses = ShownStatuses()
    statuses.on_event("ADDED", obj)
    assert statuses.get("u").version == 0


def test_the_number_of_objects_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_statuses, "MOST_OBJECTS", 3)
    statuses = ShownStatuses()
    for number in range(5):
        statuses.on_event("ADDED", workload(f"u{number}"))
    assert [statuses.get(f"u{number}").version for number in range(5)] == [0, 0, 7, 7, 7]


def test_an_empty_status_is_unknown() -> None:
    assert shown([]) == UNKNOWN
