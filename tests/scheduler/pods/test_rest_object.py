"""Workload objects of REST submissions: their names, labels, owners, and creation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.lifecycle import Door
from niyanta.resources.labels import REST_ID
from niyanta.scheduler.pods.rest_object import is_object_of, manifest, object_name, rest_id
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest
from tests.scheduler.conftest import SubmitRest
from tests.scheduler.demand.test_stats_collector import ROW

REST_ROW = replace(ROW, id="0a1b2c3d-0000-4000-8000-000000000000", door=Door.REST, name="job", labels={"app": "x"})


@pytest.mark.unit
def test_the_object_is_named_by_its_row_and_labelled_with_its_id() -> None:
    made = manifest(REST_ROW)
    assert made["metadata"]["name"] == object_name(REST_ROW) == "job-0a1b2c3d"
    assert made["metadata"]["labels"] == {"app": "x", REST_ID: REST_ROW.id}
    assert rest_id(made) == REST_ROW.id
    assert rest_id({"metadata": {}}) == ""


@pytest.mark.unit
def test_an_object_with_a_copied_label_belongs_to_no_row() -> None:
    made = manifest(REST_ROW)
    made["metadata"]["uid"] = "u"
    assert is_object_of(made, REST_ROW)
    assert is_object_of(made, replace(REST_ROW, object_uid="u"))
    assert not is_object_of(made, replace(REST_ROW, object_uid="another"))
    assert not is_object_of(made, replace(REST_ROW, door=Door.KUBERNETES))
    made["metadata"]["name"] = "copied"
    assert not is_object_of(made, REST_ROW)


@pytest.mark.store
async def test_the_object_is_created_once_and_owns_the_pods(
    leader: LeaderUnderTest, cluster: FakeCluster, submit_rest: SubmitRest
) -> None:
    (uid,) = await submit_rest("job")
    await leader.pods_of(uid)
    row = await leader.row(uid)
    assert row.object_uid in cluster.objects
    assert cluster.faults.calls["create_workload"] == 1
    (pod,) = cluster.live_pods(uid)
    assert [owner.uid for owner in pod.metadata.owner_references] == [row.object_uid]
