"""Gangs are placed all or none: no replica runs until all have room."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from testing.cluster.cluster import CommandError
from testing.scenarios.placement import PlacementScenario, workload
from testing.scenarios.workloads import node_names
from testing.waiting import until

pytestmark = pytest.mark.e2e

A100 = {"gpu": {"model": "A100", "count": 4}}


def test_no_replica_of_eight_runs_while_one_lacks_room(scenario: PlacementScenario) -> None:
    scenario.pool("gpu", 1, spec=A100, gpus=4)
    # Seven GPUs: a second worker with three.
    scenario.add_nodes("gpu", 1, gpus=3)
    scenario.wait_pool(f"{scenario.unique}-gpu", 2)
    scenario.submit(workload("pretrain", replicas=8, gpu={"models": ["A100"], "count": 1}))
    scenario.wait_pending("pretrain", "0/2 workers", "2 have room for one replica but not for all replicas together")
    # The pending group reserves nothing: other workloads use the room.
    scenario.submit(workload("small", gpu={"models": ["A100"], "count": 4}))
    scenario.wait_running("small")
    scenario.delete("small")
    scenario.add_nodes("gpu", 1, gpus=1)
    scenario.wait_phase("pretrain", "Running")
    pods = scenario.pods("pretrain")
    assert sorted(pod["metadata"]["labels"]["niyanta.io/index"] for pod in pods) == [str(n) for n in range(8)]
    assert {pod["metadata"]["labels"]["niyanta.io/attempt"] for pod in pods} == {"1"}
    status = scenario.status("pretrain")
    assert sorted(node_names(status)) == scenario.nodes_of("pretrain")
    scenario.check()


def test_a_group_over_two_pools_shows_the_pool_of_each_pod(scenario: PlacementScenario) -> None:
    pools = {node: f"{scenario.unique}-{short}" for short in ("a", "b") for node in scenario.pool(short, 1, cpu="4")}
    scenario.submit(workload("spread", cpu="3", replicas=2))
    scenario.wait_running("spread")
    placed = scenario.status("spread")["assignments"]
    assert {entry["nodeName"]: entry["poolName"] for entry in placed} == pools
    pods = {pod["metadata"]["name"]: pod for pod in scenario.pods("spread")}
    for entry in placed:
        pod = pods[entry["podName"]]
        assert pod["spec"]["nodeName"] == entry["nodeName"]
        assert pod["metadata"]["labels"]["niyanta.io/pool"] == entry["poolName"]
    scenario.check()


def test_two_groups_that_fit_one_at_a_time_never_block_each_other(scenario: PlacementScenario) -> None:
    scenario.pool("main", 2, cpu="4")
    scenario.submit_at_once(*(workload(f"group-{n}", cpu="1", replicas=6) for n in range(2)))
    names = ["group-0", "group-1"]

    def one_runs() -> str | None:
        running = [name for name in names if scenario.status(name).get("phase") == "Running"]
        return running[0] if len(running) == 1 else None

    first = until(one_runs, what="one group runs")
    (other,) = (name for name in names if name != first)
    scenario.wait_pending(other, "have room for one replica but not for all replicas together")
    scenario.check()
    scenario.delete(first)
    scenario.wait_running(other)
    scenario.check()


def test_a_group_with_zone_anti_affinity_needs_as_many_zones(scenario: PlacementScenario) -> None:
    zone = "topology.kubernetes.io/zone"
    for name in ("a", "b"):
        scenario.pool(name, 2, labels={zone: name})
    rule = {"workloadSelector": {"matchLabels": {"app": "quorum"}}, "topologyKey": zone}
    scenario.submit(workload("quorum", replicas=3, labels={"app": "quorum"}, anti=[rule]))
    scenario.wait_pending("quorum", "0/4 workers")
    scenario.pool("c", 1, labels={zone: "c"})
    scenario.wait_running("quorum")
    assert len(set(scenario.nodes_of("quorum"))) == 3
    scenario.check()


ZONE = "topology.kubernetes.io/zone"


def apply(scenario: PlacementScenario, name: str, **fields: Any) -> None:
    """`kubectl apply` of a Workload."""
    manifest = workload(name, **fields)
    manifest["metadata"]["namespace"] = scenario.namespace
    scenario.workloads[scenario.namespace, name] = manifest
    scenario.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))


def test_a_group_with_a_required_topology_starts_in_one_zone_or_not_at_all(scenario: PlacementScenario) -> None:
    small = scenario.pool("small", 2, labels={ZONE: "a"}, cpu="2")
    scenario.pool("other", 1, labels={ZONE: "b"}, cpu="3")
    # Seven cores have room for all five pods, but neither zone does.
    apply(scenario, "tied", cpu="1", replicas=5, topology={"key": ZONE})
    scenario.wait_pending(
        "tied", "3 have room for one replica", f"in one domain of {ZONE}: a has room for", "b has room for"
    )
    assert scenario.pods("tied") == []
    scenario.add_nodes("other", 1, labels={ZONE: "b"}, cpu="4")
    scenario.wait_running("tied")
    assert not set(scenario.nodes_of("tied")) & set(small)
    patch = ("patch", "nwl", "-n", scenario.namespace, "tied", "--type=merge", "-p", '{"spec": {"topology": null}}')
    with pytest.raises(CommandError, match="topology: can't be changed after creation"):
        scenario.cluster.kubectl(*patch)
    scenario.check()


def test_a_group_with_a_preferred_topology_starts_across_zones_if_none_holds_it(scenario: PlacementScenario) -> None:
    zones = {name: scenario.pool(name, 2, labels={ZONE: name}, cpu="3") for name in ("a", "b")}
    wish = {"key": ZONE, "mode": "Preferred"}
    apply(scenario, "within", cpu="2", replicas=2, topology=wish)
    scenario.wait_running("within")
    assert any(set(scenario.nodes_of("within")) <= set(nodes) for nodes in zones.values())
    scenario.delete("within")
    apply(scenario, "across", cpu="2", replicas=3, topology=wish)
    scenario.wait_running("across")
    assert len(set(scenario.nodes_of("across"))) == 3
    scenario.check()
