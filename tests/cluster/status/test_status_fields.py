"""Statuses of Workloads, as the CustomResourceDefinition describes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.cluster.status.conditions import followed
from niyanta.cluster.status.status_fields import status_of
from niyanta.engine.queue.order import QueueSettings
from niyanta.lifecycle import Event, Phase
from niyanta.resources.models.base import parse
from niyanta.resources.models.workload import WorkloadStatus
from niyanta.store.rows import WorkloadRow
from tests.cluster.status.test_conditions import CREATED, new_row, story

pytestmark = pytest.mark.unit

NOW = round(CREATED.timestamp() * 1e6)


def status(row: WorkloadRow) -> dict[str, object]:
    found = status_of(row, followed(row, now=NOW / 1e6), QueueSettings(), now=NOW)
    parse(WorkloadStatus, found)
    return found


def test_a_waiting_workload_has_no_placement() -> None:
    found = status(new_row())
    assert found.keys() == {
        *("observedGeneration", "phase", "customer", "pods", "effectivePriority", "attempts"),
        *("queuedTime", "conditions"),
    }
    assert (found["phase"], found["pods"], found["queuedTime"]) == ("Pending", "0/2", "2026-03-01T12:00:00Z")


def test_a_placed_workload_shows_each_pod_and_the_times() -> None:
    *_, (row, _) = story(Phase.PENDING, Event.PLACE, Event.START, Event.SUCCEED)
    found = status(replace(row, pool="gpu", score=87.6))
    assert found["assignments"] == [
        {"index": 0, "nodeName": "n1", "poolName": "gpu", "podName": "train-7f9c2ba4-1-0"},
        {"index": 1, "nodeName": "n2", "poolName": "gpu", "podName": "train-7f9c2ba4-1-1"},
    ]
    assert (found["placement"], found["pods"], found["score"]) == ("2 workers", "2/2", 88)
    assert found["scheduledTime"] == "2026-03-01T12:01:00Z"
    assert found["startTime"] == "2026-03-01T12:02:00Z"
    assert found["completionTime"] == "2026-03-01T12:03:00Z"


def test_pods_of_a_group_over_several_pools_show_their_own() -> None:
    *_, (row, _) = story(Phase.PENDING, Event.PLACE, Event.START)
    found = status(replace(row, pool="gpu", pools=("gpu", "cpu")))
    assert found["assignments"] == [
        {"index": 0, "nodeName": "n1", "poolName": "gpu", "podName": "train-7f9c2ba4-1-0"},
        {"index": 1, "nodeName": "n2", "poolName": "cpu", "podName": "train-7f9c2ba4-1-1"},
    ]


@pytest.mark.parametrize(
    ("events", "pods"),
    [
        ((), "0/2"),
        ((Event.PLACE,), "0/2"),
        ((Event.PLACE, Event.START), "2/2"),
        ((Event.PLACE, Event.START, Event.SUCCEED), "2/2"),
        ((Event.PLACE, Event.START, Event.FAIL), "0/2"),
        ((Event.PLACE, Event.START, Event.CANCEL), "0/2"),
    ],
)
def test_pods_are_those_that_are_ready_or_succeeded(events: tuple[Event, ...], pods: str) -> None:
    *_, (row, _) = story(Phase.PENDING, *events)
    assert status(row)["pods"] == pods


@pytest.mark.parametrize(("score", "shown"), [(0.4, 0), (99.6, 100), (100.0001, 100), (-0.1, 0)])
def test_the_score_is_an_integer(score: float, shown: int) -> None:
    assert status(new_row(score=score))["score"] == shown
