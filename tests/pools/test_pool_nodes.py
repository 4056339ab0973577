"""Pods that keep their worker from being removed."""

from __future__ import annotations

import pytest

from niyanta.cluster.api.objects import OwnerReference, Pod, PodMetadata
from niyanta.pools.pool_nodes import is_foreign
from niyanta.resources.labels import API_VERSION, WORKLOAD_UID

pytestmark = pytest.mark.unit


def pod(kind: str, *, api_version: str = API_VERSION, controller: bool = True) -> Pod:
    owner = OwnerReference(api_version=api_version, kind=kind, uid="u1", controller=controller)
    return Pod(metadata=PodMetadata(name="p", labels={WORKLOAD_UID: "w1"}, owner_references=(owner,)))


@pytest.mark.parametrize(
    "owned",
    [
        pod("Workload", controller=False),
        pod("Workload", api_version="example.com/v1"),
        pod("DaemonSet", api_version="apps/v1", controller=False),
        pod("Node", api_version="v1", controller=False),
        pod("ReplicaSet", api_version="apps/v1"),
    ],
)
def test_a_pod_of_others_counts_whatever_owners_its_author_has_added(owned: Pod) -> None:
    assert is_foreign(owned)


@pytest.mark.parametrize(
    "owned", [pod("Workload"), pod("DaemonSet", api_version="apps/v1"), pod("Node", api_version="v1")]
)
def test_pods_of_workloads_and_of_the_node_do_not_count(owned: Pod) -> None:
    assert not is_foreign(owned)
