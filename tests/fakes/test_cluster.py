"""The fake cluster answers as a real one: mypy holds it to the protocol, these tests to the promises of its methods."""

from __future__ import annotations

import pytest

from niyanta.scheduler.cluster_api import ClusterApi, PodWriteError, WriteProblem
from tests.fakes.cluster import FakeCluster

pytestmark = pytest.mark.unit

OWNER = {"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "name": "w", "controller": True}

_TYPED: ClusterApi = FakeCluster()


def manifest(*, uid: str = "u", node: str = "n1") -> dict[str, object]:
    labels = {"niyanta.io/workload-uid": uid, "niyanta.io/attempt": "1", "niyanta.io/index": "0"}
    meta = {"name": "p", "namespace": "team", "labels": labels, "ownerReferences": [OWNER | {"uid": uid}]}
    return {"metadata": {**meta, "finalizers": ["niyanta.io/outcome"]}, "spec": {"nodeName": node}}


async def test_creating_the_same_pod_twice_is_fine_and_another_of_its_name_is_not() -> None:
    cluster = FakeCluster()
    await cluster.create_pod("team", manifest())
    await cluster.create_pod("team", manifest())
    assert len(cluster.pods("u")) == 1
    for other in (manifest(uid="v"), manifest(node="n2")):
        with pytest.raises(PodWriteError) as refused:
            await cluster.create_pod("team", other)
        assert refused.value.problem is WriteProblem.NAME_TAKEN


async def test_a_deleted_pod_stays_until_it_has_ended_and_is_released() -> None:
    cluster = FakeCluster()
    await cluster.create_pod("team", manifest())
    (pod,) = cluster.pods("u")
    await cluster.delete_pod(pod)
    assert [(found.deleting, found.over) for found in cluster.pods("u")] == [(True, False)]
    await cluster.delete_pod(pod, force=True)
    assert [(found.deleting, found.over) for found in cluster.pods("u")] == [(True, True)]
    await cluster.release_pod(pod)
    assert cluster.pods("u") == []
    await cluster.delete_pod(pod)  # idempotent
    await cluster.release_pod(pod)


async def test_a_pod_of_the_same_name_with_another_uid_is_left_alone() -> None:
    cluster = FakeCluster()
    await cluster.create_pod("team", manifest())
    (old,) = cluster.pods("u")
    await cluster.release_pod(old)
    await cluster.delete_pod(old, force=True)
    await cluster.create_pod("team", manifest())
    await cluster.delete_pod(old, force=True)
    assert not cluster.pods("u")[0].deleting
