"""Anti-affinity holds on workers and in zones, for concurrent submissions, and in both directions."""

from __future__ import annotations

from collections import Counter

import pytest

from testing.scenarios.placement import PlacementScenario, workload
from testing.waiting import until

pytestmark = pytest.mark.e2e

ZONE = "topology.kubernetes.io/zone"
HOT = {"spec": {"capabilities": ["hot", "cold"]}}


def away_from(*types: str, **more: str) -> dict[str, object]:
    return {"types": list(types), **more}


def test_a_new_workload_with_a_rule_avoids_running_ones(scenario: PlacementScenario) -> None:
    scenario.pool("main", 2, **HOT)
    scenario.submit(workload("hot", type="hot"))
    (first,) = scenario.wait_running("hot")
    # Without the rule, Pack would choose the same worker.
    scenario.submit(workload("cold", type="cold", anti=[away_from("hot")]))
    (second,) = scenario.wait_running("cold")
    assert first != second
    scenario.check()


def test_a_new_workload_without_a_rule_respects_the_rules_of_running_ones(scenario: PlacementScenario) -> None:
    scenario.pool("main", 1, **HOT)
    scenario.submit(workload("cold", type="cold", anti=[away_from("hot")]))
    scenario.wait_running("cold")
    scenario.submit(workload("hot", type="hot"))
    scenario.wait_pending("hot", "0/1 workers", "1 anti-affinity on kubernetes.io/hostname")
    scenario.check()
    scenario.delete("cold")
    scenario.wait_running("hot")


@pytest.mark.parametrize("ruled_first", [True, False], ids=["rule-first", "rule-second"])
def test_two_workloads_created_at_once_do_not_share_a_worker(scenario: PlacementScenario, ruled_first: bool) -> None:
    # There is one worker: both would run on it if placement of one ignored the other.
    scenario.pool("main", 1, **HOT)
    pair = [workload("ruled", type="cold", anti=[away_from("hot")]), workload("plain", type="hot")]
    scenario.submit_at_once(*(pair if ruled_first else reversed(pair)))
    names = ("ruled", "plain")

    def phases() -> Counter[str]:
        return Counter(scenario.status(name).get("phase", "") for name in names)

    until(lambda: phases() == {"Running": 1, "Pending": 1}, what="one runs and one waits")
    waiting = next(name for name in names if scenario.status(name)["phase"] == "Pending")
    scenario.wait_pending(waiting, "1 anti-affinity on kubernetes.io/hostname")
    scenario.check()


def test_a_burst_of_rivals_gets_one_worker_each(scenario: PlacementScenario) -> None:
    scenario.pool("main", 6)
    rivals = [
        workload(f"rival-{n}", labels={"app": "db"}, anti=[{"workloadSelector": {"matchLabels": {"app": "db"}}}])
        for n in range(8)
    ]
    scenario.submit_at_once(*rivals)
    names = [rival["metadata"]["name"] for rival in rivals]

    def phases() -> Counter[str]:
        return Counter(scenario.status(name).get("phase", "") for name in names)

    until(lambda: phases() == {"Running": 6, "Pending": 2}, what="six run and two wait")
    waiting = [name for name in names if scenario.status(name)["phase"] == "Pending"]
    for name in waiting:
        scenario.wait_pending(name, "0/6 workers", "6 anti-affinity on kubernetes.io/hostname")
    where = Counter(node for name in names for node in scenario.nodes_of(name))
    assert set(where.values()) == {1}
    assert len(where) == 6
    scenario.check()


def test_replicas_of_one_workload_keep_apart(scenario: PlacementScenario) -> None:
    scenario.pool("main", 3)
    alone = {"anti": [{"workloadSelector": {"matchLabels": {"app": "quorum"}}}], "labels": {"app": "quorum"}}
    scenario.submit(workload("three", replicas=3, **alone))  # type: ignore[arg-type]
    scenario.wait_running("three")
    assert len(set(scenario.nodes_of("three"))) == 3
    scenario.submit(workload("one-more", **alone))  # type: ignore[arg-type]
    scenario.wait_pending("one-more", "3 anti-affinity on kubernetes.io/hostname")
    scenario.check()


def test_rivals_in_one_zone_keep_to_different_zones(scenario: PlacementScenario) -> None:
    scenario.pool("a", 2, labels={ZONE: "a"})
    scenario.pool("b", 2, labels={ZONE: "b"})
    rule = {"workloadSelector": {"matchLabels": {"app": "db"}}, "topologyKey": ZONE}
    scenario.submit_at_once(*(workload(f"db-{n}", labels={"app": "db"}, anti=[rule]) for n in range(2)))
    scenario.wait_running("db-0", "db-1")
    zones = {
        scenario.api.get(f"/api/v1/nodes/{node}")["metadata"]["labels"][ZONE]
        for name in ("db-0", "db-1")
        for node in scenario.nodes_of(name)
    }
    assert zones == {"a", "b"}
    scenario.submit(workload("db-2", labels={"app": "db"}, anti=[rule]))
    scenario.wait_pending("db-2", "0/4 workers", f"4 anti-affinity on {ZONE}")
    scenario.check()


def test_the_scope_limits_the_workloads_that_a_rule_selects(scenario: PlacementScenario) -> None:
    other = scenario.add_namespace("other")
    scenario.add_customer("rival", other)
    scenario.pool("main", 1, **HOT)
    scenario.submit(workload("hot", type="hot"), namespace=other)
    scenario.wait_running("hot", namespace=other)
    # The same rule matches no workload in its own namespace, and one in the cluster.
    scenario.submit(workload("local", type="cold", anti=[away_from("hot", scope="Namespace")]))
    scenario.wait_running("local")
    scenario.submit(workload("global", type="cold", anti=[away_from("hot", scope="Cluster")]))
    scenario.wait_pending("global", "1 anti-affinity on kubernetes.io/hostname")
    scenario.check()


def test_a_customer_needs_permission_for_the_cluster_scope(scenario: PlacementScenario) -> None:
    other = scenario.add_namespace("other")
    scenario.add_customer("rival", other)
    scenario.pool("main", 1, **HOT)
    scenario.submit(workload("greedy", type="cold", anti=[away_from("hot", scope="Cluster")]), namespace=other)
    status = scenario.wait_phase("greedy", "Held", namespace=other)
    assert status["reason"] == "ClusterScopeNotAllowed"
    assert "spec.affinity.anti[0].scope" in status["message"]
    scenario.submit(workload("hot", type="hot"))
    scenario.wait_running("hot")
    scenario.check()
