"""Pods of a row: whatever disagrees with it is a stranger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from niyanta.cluster.api.objects import Pod
from niyanta.lifecycle import Door, Phase
from niyanta.scheduler.cluster_api import pods_of
from niyanta.store.rows import WorkloadRow
from tests.fakes.cluster import FakeCluster
from tests.fakes.scripted_api_server import owner, pod

pytestmark = pytest.mark.unit

UID = "7c5e4c7e-0000-4000-8000-000000000001"
ROW = WorkloadRow(
    id=UID,
    door=Door.KUBERNETES,
    namespace="ns",
    name="w",
    customer="acme",
    type="batch",
    labels={},
    generation=1,
    spec={},
    class_id="c",
    replicas=1,
    phase=Phase.RUNNING,
    version=1,
    priority=0,
    tier_weight=1,
    queued_at_us=0,
    attempt=2,
)


def take_in(cluster: FakeCluster, name: str, *, attempt: str = "2", index: str = "0", **fields: Any) -> None:
    labels = {"niyanta.io/workload-uid": UID, "niyanta.io/attempt": attempt, "niyanta.io/index": index}
    cluster.set_pod(msgspec.convert(pod(name, 1, **{"labels": labels, "owners": [owner(UID)], **fields}), Pod))


def test_pods_of_the_row_and_of_its_past_attempts_are_found() -> None:
    cluster = FakeCluster()
    take_in(cluster, "w-7c5e4c7e-2-0")
    take_in(cluster, "w-7c5e4c7e-1-0", attempt="1")
    assert {found.attempt for found in pods_of(cluster, ROW)} == {1, 2}


@pytest.mark.parametrize(
    "forged",
    [
        {"name": "another-name"},
        {"name": "w-7c5e4c7e-3-0", "attempt": "3"},
        {"name": "w-7c5e4c7e-0-0", "attempt": "0"},
        {"name": "w-7c5e4c7e--1--1", "attempt": "junk", "index": "junk"},
        {"name": "w-7c5e4c7e-2-0", "namespace": "other"},
        {"name": "w-7c5e4c7e-2-0", "owners": [owner("another")]},
        {"name": "w-7c5e4c7e-2-0", "owners": []},
    ],
)
def test_a_pod_that_disagrees_with_the_row_is_a_stranger(forged: dict[str, Any]) -> None:
    cluster = FakeCluster()
    take_in(cluster, **forged)
    assert pods_of(cluster, ROW) == []


def test_a_submission_without_an_object_has_no_pods() -> None:
    cluster = FakeCluster()
    take_in(cluster, "w-7c5e4c7e-2-0")
    assert pods_of(cluster, replace(ROW, door=Door.REST)) == []
    assert len(pods_of(cluster, replace(ROW, door=Door.REST, object_name="w", object_uid=UID))) == 1
