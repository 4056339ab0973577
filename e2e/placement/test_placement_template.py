"""Placement enforces the scheduling fields of a pod template, because bound pods do not pass kube-scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from testing.scenarios.placement import PlacementScenario, workload

pytestmark = pytest.mark.e2e

DEDICATED = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": affinity}}


def test_a_node_selector_limits_the_workers(scenario: PlacementScenario) -> None:
    scenario.pool("slow", 2, labels={"disk": "hdd"})
    (fast,) = scenario.pool("fast", 1, labels={"disk": "ssd"})
    scenario.submit(workload("fast", pod={"nodeSelector": {"disk": "ssd"}}))
    scenario.submit(workload("never", pod={"nodeSelector": {"disk": "tape"}}))
    assert scenario.wait_running("fast") == [fast]
    scenario.wait_pending("never", "0/3 workers", "3 node selector or node affinity does not match")
    scenario.check()


def test_a_pools_tag_does_not_match_a_node_selector(scenario: PlacementScenario) -> None:
    scenario.pool("tagged", 1, spec={"tags": {"disk": "ssd"}})
    scenario.submit(workload("by-tag", hard={"workerTags": {"disk": "ssd"}}))
    scenario.submit(workload("by-label", pod={"nodeSelector": {"disk": "ssd"}}))
    scenario.wait_running("by-tag")
    scenario.wait_pending("by-label", "1 node selector or node affinity does not match")
    scenario.check()


def test_node_affinity_needs_all_expressions_of_any_term(scenario: PlacementScenario) -> None:
    scenario.pool("x", 1, labels={"size": "1", "shape": "round"})
    (square,) = scenario.pool("y", 1, labels={"size": "4", "shape": "square"})
    big_and_square = {
        "matchExpressions": [
            {"key": "size", "operator": "Gt", "values": ["3"]},
            {"key": "shape", "operator": "NotIn", "values": ["round"]},
        ]
    }
    flat = {"matchExpressions": [{"key": "shape", "operator": "In", "values": ["flat"]}]}
    scenario.submit(workload("any-term", pod=required(flat, big_and_square)))
    scenario.submit(workload("flat", pod=required(flat)))
    by_name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [square]}]}
    scenario.submit(workload("by-name", pod=required(by_name)))
    assert scenario.wait_running("any-term", "by-name") == [square, square]
    scenario.wait_pending("flat", "2 node selector or node affinity does not match")
    scenario.check()


def test_a_taint_rejects_workloads_that_do_not_tolerate_it(scenario: PlacementScenario) -> None:
    (tainted,) = scenario.pool("tainted", 1, taints=[DEDICATED])
    any_value = {"key": "dedicated", "operator": "Exists"}
    owner = scenario.add_customer("dedicated", tolerations=[any_value])
    scenario.submit(workload("plain", customer=owner))
    scenario.submit(workload("other-value", pod={"tolerations": [{**DEDICATED, "value": "web"}]}, customer=owner))
    scenario.submit(workload("by-value", pod={"tolerations": [DEDICATED]}, customer=owner))
    scenario.submit(workload("by-key", pod={"tolerations": [any_value]}, customer=owner))
    assert scenario.wait_running("by-value", "by-key") == [tainted, tainted]
    for name in ("plain", "other-value"):
        scenario.wait_pending(name, "0/1 workers", "1 untolerated taint dedicated")
    scenario.check()


def test_a_prefer_no_schedule_taint_rejects_no_workload(scenario: PlacementScenario) -> None:
    (node,) = scenario.pool("advised", 1, taints=[{**DEDICATED, "effect": "PreferNoSchedule"}])
    scenario.submit(workload("plain"))
    assert scenario.wait_running("plain") == [node]
    scenario.check()


def test_a_host_port_is_used_once_per_worker(scenario: PlacementScenario) -> None:
    scenario.pool("main", 2)
    web = [{"containerPort": 80, "hostPort": 8080}]
    scenario.submit_at_once(*(workload(f"web-{number}", ports=web) for number in range(2)))
    workers = scenario.wait_running("web-0", "web-1")
    assert len(set(workers)) == 2
    scenario.submit(workload("web-2", ports=web), workload("dns", ports=[{**web[0], "protocol": "UDP"}]))
    scenario.wait_running("dns")
    scenario.wait_pending("web-2", "0/2 workers", "2 host port taken: 8080")
    scenario.check()


def test_init_containers_and_sidecars_count_as_the_kubelet_counts_them(scenario: PlacementScenario) -> None:
    def container(name: str, cpu: str, **more: str) -> dict[str, Any]:
        requests = {"requests": {"cpu": cpu, "memory": "1Mi"}}
        return {"name": name, "image": "registry.invalid/none", "resources": requests, **more}

    scenario.pool("main", 1, cpu="4")
    init = {"initContainers": [container("side", "1", restartPolicy="Always"), container("setup", "3")]}
    # 1 + max(1, 3): the sidecar runs beside the init container.
    scenario.submit(workload("fits", cpu="1", pod=init))
    scenario.wait_running("fits")
    scenario.submit(workload("no-room", cpu="1m"))
    scenario.wait_pending("no-room", "1 insufficient cpu")
    scenario.check()


def test_default_requests_of_a_limit_range_count(scenario: PlacementScenario) -> None:
    limits = [{"type": "Container", "defaultRequest": {"cpu": "3", "memory": "1Gi"}}]
    path = f"/api/v1/namespaces/{scenario.namespace}/limitranges"
    scenario.api.post(path, {"metadata": {"name": "defaults"}, "spec": {"limits": limits}})
    scenario.pool("main", 1, cpu="4")
    bare = {"containers": [{"name": "main", "image": "registry.invalid/none"}]}
    scenario.submit(workload("first", pod=bare))
    scenario.wait_running("first")
    scenario.submit(workload("second", pod=bare))
    scenario.wait_pending("second", "1 insufficient cpu")
    scenario.check()


@pytest.mark.parametrize(
    ("field", "pod"),
    [
        ("persistentVolumeClaim", {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}),
        ("podAntiAffinity", {"affinity": {"podAntiAffinity": {}}}),
        ("topologySpreadConstraints", {"topologySpreadConstraints": [{"maxSkew": 1}]}),
        ("resourceClaims", {"resourceClaims": [{"name": "gpu"}]}),
    ],
)
def test_fields_that_placement_can_not_enforce_are_refused_by_name(
    scenario: PlacementScenario, field: str, pod: dict[str, Any]
) -> None:
    with pytest.raises(RuntimeError, match=field):
        scenario.submit(workload("refused", pod=pod))
