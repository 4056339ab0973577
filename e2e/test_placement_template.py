"""What kube-scheduler would enforce of a pod template, placement enforces: bound pods pass no scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from testing.scenarios.placement import Fleet, workload

pytestmark = pytest.mark.e2e

DEDICATED = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": affinity}}


def test_node_selector(fleet: Fleet) -> None:
    fleet.pool("slow", 2, labels={"disk": "hdd"})
    (fast,) = fleet.pool("fast", 1, labels={"disk": "ssd"})
    fleet.submit(workload("fast", pod={"nodeSelector": {"disk": "ssd"}}))
    fleet.submit(workload("never", pod={"nodeSelector": {"disk": "tape"}}))
    assert fleet.wait_running("fast") == [fast]
    fleet.wait_waiting("never", "0/3 workers", "3 node selector or node affinity does not match")
    fleet.check()


def test_a_pools_tag_is_no_node_label(fleet: Fleet) -> None:
    fleet.pool("tagged", 1, spec={"tags": {"disk": "ssd"}})
    fleet.submit(workload("by-tag", hard={"workerTags": {"disk": "ssd"}}))
    fleet.submit(workload("by-label", pod={"nodeSelector": {"disk": "ssd"}}))
    fleet.wait_running("by-tag")
    fleet.wait_waiting("by-label", "1 node selector or node affinity does not match")
    fleet.check()


def test_required_node_affinity_any_term_all_expressions(fleet: Fleet) -> None:
    fleet.pool("x", 1, labels={"size": "1", "shape": "round"})
    (square,) = fleet.pool("y", 1, labels={"size": "4", "shape": "square"})
    big_and_square = {
        "matchExpressions": [
            {"key": "size", "operator": "Gt", "values": ["3"]},
            {"key": "shape", "operator": "NotIn", "values": ["round"]},
        ]
    }
    flat = {"matchExpressions": [{"key": "shape", "operator": "In", "values": ["flat"]}]}
    fleet.submit(workload("any-term", pod=required(flat, big_and_square)))
    fleet.submit(workload("flat", pod=required(flat)))
    by_name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [square]}]}
    fleet.submit(workload("by-name", pod=required(by_name)))
    assert fleet.wait_running("any-term", "by-name") == [square, square]
    fleet.wait_waiting("flat", "2 node selector or node affinity does not match")
    fleet.check()


def test_taints_keep_off_those_that_do_not_tolerate_them(fleet: Fleet) -> None:
    (tainted,) = fleet.pool("tainted", 1, taints=[DEDICATED])
    fleet.submit(workload("plain"))
    fleet.submit(workload("other-value", pod={"tolerations": [{**DEDICATED, "value": "web"}]}))
    fleet.submit(workload("by-value", pod={"tolerations": [DEDICATED]}))
    fleet.submit(workload("by-key", pod={"tolerations": [{"key": "dedicated", "operator": "Exists"}]}))
    assert fleet.wait_running("by-value", "by-key") == [tainted, tainted]
    for name in ("plain", "other-value"):
        fleet.wait_waiting(name, "0/1 workers", "1 untolerated taint dedicated")
    fleet.check()


def test_a_taint_that_only_advises_keeps_nobody_off(fleet: Fleet) -> None:
    (node,) = fleet.pool("advised", 1, taints=[{**DEDICATED, "effect": "PreferNoSchedule"}])
    fleet.submit(workload("plain"))
    assert fleet.wait_running("plain") == [node]
    fleet.check()


def test_host_ports_are_taken_once_per_worker(fleet: Fleet) -> None:
    fleet.pool("main", 2)
    web = [{"containerPort": 80, "hostPort": 8080}]
    fleet.submit_at_once(*(workload(f"web-{number}", ports=web) for number in range(2)))
    workers = fleet.wait_running("web-0", "web-1")
    assert len(set(workers)) == 2
    fleet.submit(workload("web-2", ports=web), workload("dns", ports=[{**web[0], "protocol": "UDP"}]))
    fleet.wait_running("dns")
    fleet.wait_waiting("web-2", "0/2 workers", "2 host port taken: 8080")
    fleet.check()


def test_init_containers_and_sidecars_count_as_the_kubelet_counts_them(fleet: Fleet) -> None:
    def container(name: str, cpu: str, **more: str) -> dict[str, Any]:
        requests = {"requests": {"cpu": cpu, "memory": "1Mi"}}
        return {"name": name, "image": "registry.invalid/none", "resources": requests, **more}

    fleet.pool("main", 1, cpu="4")
    init = {"initContainers": [container("side", "1", restartPolicy="Always"), container("setup", "3")]}
    # 1 + max(1, 3): the sidecar runs beside the set-up.
    fleet.submit(workload("fits", cpu="1", pod=init))
    fleet.wait_running("fits")
    fleet.submit(workload("no-room", cpu="1m"))
    fleet.wait_waiting("no-room", "1 insufficient cpu")
    fleet.check()


def test_defaults_of_a_limit_range_count(fleet: Fleet) -> None:
    limits = [{"type": "Container", "defaultRequest": {"cpu": "3", "memory": "1Gi"}}]
    path = f"/api/v1/namespaces/{fleet.namespace}/limitranges"
    fleet.api.post(path, {"metadata": {"name": "defaults"}, "spec": {"limits": limits}})
    fleet.pool("main", 1, cpu="4")
    bare = {"containers": [{"name": "main", "image": "registry.invalid/none"}]}
    fleet.submit(workload("first", pod=bare))
    fleet.wait_running("first")
    fleet.submit(workload("second", pod=bare))
    fleet.wait_waiting("second", "1 insufficient cpu")
    fleet.check()


@pytest.mark.parametrize(
    ("field", "pod"),
    [
        ("persistentVolumeClaim", {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}),
        ("podAntiAffinity", {"affinity": {"podAntiAffinity": {}}}),
        ("topologySpreadConstraints", {"topologySpreadConstraints": [{"maxSkew": 1}]}),
        ("resourceClaims", {"resourceClaims": [{"name": "gpu"}]}),
    ],
)
def test_what_placement_can_not_enforce_is_refused_by_name(fleet: Fleet, field: str, pod: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=field):
        fleet.submit(workload("refused", pod=pod))
