"""Workloads land on the right workers of a real control plane: GPU, region, compliance, capability, slots, room."""

from __future__ import annotations

from collections import Counter

import pytest

from testing.scenarios.placement import PlacementScenario, workload
from testing.scenarios.workloads import node_names
from testing.waiting import until

pytestmark = pytest.mark.e2e

A100 = {"gpu": {"model": "A100", "count": 4, "memory": "80Gi"}}
T4 = {"gpu": {"model": "T4", "count": 2, "memory": "16Gi"}}


def gpu(*models: str, count: int = 1, **more: str) -> dict[str, object]:
    return {"models": list(models), "count": count, **more}


# GPU


def test_gpu_workloads_run_only_on_workers_with_that_gpu(scenario: PlacementScenario) -> None:
    scenario.pool("cpu", 2, cpu="64")
    a100 = scenario.pool("a100", 1, spec=A100, gpus=4)
    t4 = scenario.pool("t4", 1, spec=T4, gpus=2)
    scenario.submit(
        workload("one-of-a100", gpu=gpu("A100", count=2)),
        workload("one-of-t4", gpu=gpu("T4")),
        workload("big-memory", gpu={"minMemory": "40Gi"}),
        workload("any", gpu={"count": 1}),
    )
    assert scenario.wait_running("one-of-a100", "one-of-t4", "big-memory") == [a100[0], t4[0], a100[0]]
    assert scenario.wait_running("any")[0] in (*a100, *t4)
    scenario.submit(workload("too-many", gpu=gpu("A100", count=4)), workload("unknown", gpu=gpu("H100")))
    scenario.wait_pending("too-many", "0/4 workers", "3 GPU model is not A100", "1 insufficient nvidia.com/gpu")
    scenario.wait_pending("unknown", "0/4 workers", "4 GPU model is not H100")
    scenario.check()
    scenario.check_no_needless_wait()


def test_labels_of_a_node_describe_its_gpu_when_its_pool_does_not(scenario: PlacementScenario) -> None:
    labels = {"nvidia.com/gpu.product": "L40S", "nvidia.com/gpu.memory": "46068"}
    scenario.pool("plain", 1, cpu="64")
    (labelled,) = scenario.pool("labelled", 1, gpus=2, labels=labels)
    scenario.submit(
        workload("by-model", gpu=gpu("L40S", minMemory="40Gi")),
        workload("by-template", requests={"nvidia.com/gpu": "1"}),
    )
    assert scenario.wait_running("by-model", "by-template") == [labelled, labelled]
    scenario.submit(workload("by-template-too", requests={"nvidia.com/gpu": "1"}))
    scenario.wait_pending("by-template-too", "0/2 workers", "1 without GPU", "1 insufficient nvidia.com/gpu")
    scenario.check()


def test_a_pool_may_name_another_gpu_resource(scenario: PlacementScenario) -> None:
    (node,) = scenario.pool(
        "odd",
        1,
        spec={"gpu": {"model": "MI300X", "count": 2, "resource": "example.com/accelerator"}},
        gpus=2,
        gpu_resource="example.com/accelerator",
    )
    scenario.submit(workload("odd", gpu=gpu("MI300X", count=2)))
    assert scenario.wait_running("odd") == [node]
    (pod,) = scenario.pods("odd")
    assert pod["spec"]["containers"][0]["resources"]["requests"]["example.com/accelerator"] == "2"
    scenario.check()


def test_workloads_without_gpu_use_gpu_workers_last(scenario: PlacementScenario) -> None:
    # Pack alone would prefer the GPU workers, because they are fuller.
    with_gpu = scenario.pool("a100", 2, spec=A100, gpus=4, cpu="8")
    scenario.submit(workload("training", cpu="4", gpu=gpu("A100")))
    scenario.wait_running("training")
    (plain,) = scenario.pool("cpu", 1, cpu="4")
    scenario.submit(*(workload(f"etl-{number}", cpu="2") for number in range(2)))
    assert scenario.wait_running("etl-0", "etl-1") == [plain, plain]
    scenario.submit(workload("etl-2", cpu="2"))
    assert scenario.wait_running("etl-2")[0] in with_gpu
    scenario.check()


# Soft terms


def test_soft_terms_rank_workers_that_have_room(scenario: PlacementScenario) -> None:
    (west,) = scenario.pool("west", 1, spec={"region": "eu-west"}, cpu="2")
    (ssd,) = scenario.pool("ssd", 1, spec={"region": "us-east", "tags": {"disk": "ssd"}}, cpu="1")
    (hdd,) = scenario.pool("hdd", 1, spec={"region": "us-east"}, cpu="8")
    soft = [{"weight": 75, "regions": ["eu-west"]}, {"weight": 25, "workerTags": {"disk": "ssd"}}]
    seen = []
    for number in range(4):
        scenario.submit(workload(f"report-{number}", soft=soft))
        status = scenario.wait_phase(f"report-{number}", "Running")
        seen.append((node_names(status), status["score"]))
    assert seen == [([west], 75), ([west], 75), ([ssd], 25), ([hdd], 0)]
    scenario.submit(workload("no-wish"))
    assert scenario.wait_phase("no-wish", "Running")["score"] == 50
    scenario.check()


def test_preferred_node_affinity_of_the_template_counts_as_a_soft_term(scenario: PlacementScenario) -> None:
    scenario.pool("old", 2, cpu="8", labels={"generation": "1"})
    (new,) = scenario.pool("new", 1, cpu="1", labels={"generation": "4"})
    preference = {"matchExpressions": [{"key": "generation", "operator": "Gt", "values": ["3"]}]}
    wish = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "preference": preference}]}
    for name in ("first", "second"):
        scenario.submit(workload(name, pod={"affinity": {"nodeAffinity": wish}}))
        scenario.wait_running(name)
    assert scenario.nodes_of("first") == [new]
    assert scenario.status("first")["score"] == 100
    assert scenario.nodes_of("second") != [new]
    assert scenario.status("second")["score"] == 0
    scenario.check()


def test_pack_fills_a_worker_and_spread_takes_the_emptiest(scenario: PlacementScenario) -> None:
    scenario.pool("pack", 3, spec={"strategy": "Pack", "tags": {"kind": "pack"}})
    scenario.pool("spread", 3, spec={"strategy": "Spread", "tags": {"kind": "spread"}})
    for kind in ("pack", "spread"):
        scenario.submit(*(workload(f"{kind}-{number}", hard={"workerTags": {"kind": kind}}) for number in range(3)))
    packed = scenario.wait_running("pack-0", "pack-1", "pack-2")
    spread = scenario.wait_running("spread-0", "spread-1", "spread-2")
    assert (len(set(packed)), len(set(spread))) == (1, 3)
    scenario.check()


# Hard terms


def test_region_zone_pool_and_worker_are_hard_terms(scenario: PlacementScenario) -> None:
    zones = {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-1"}
    (by_label,) = scenario.pool("labelled", 1, labels=zones)
    (by_pool,) = scenario.pool("pooled", 1, spec={"region": "us", "zones": ["us-1"]})
    scenario.submit(
        workload("in-eu", hard={"regions": ["eu"]}),
        workload("in-us-1", hard={"zones": ["us-1", "us-2"]}),
        workload("in-pool", hard={"pools": [f"{scenario.unique}-labelled"]}),
        workload("on-worker", hard={"nodeNames": [by_pool]}),
        workload("nowhere", hard={"regions": ["ap"]}),
    )
    workers = scenario.wait_running("in-eu", "in-us-1", "in-pool", "on-worker")
    assert workers == [by_label, by_pool, by_label, by_pool]
    scenario.wait_pending("nowhere", "0/2 workers", "2 not in region ap")
    scenario.check()


def test_a_workload_needs_all_of_its_compliance_regimes(scenario: PlacementScenario) -> None:
    scenario.pool("one", 2, spec={"compliance": ["hipaa"]})
    (both,) = scenario.pool("both", 1, spec={"compliance": ["hipaa", "soc2"]}, cpu="1")
    hard = {"compliance": ["hipaa", "soc2"]}
    scenario.submit(workload("records", hard=hard))
    assert scenario.wait_running("records") == [both]
    scenario.submit(workload("more-records", hard=hard))
    scenario.wait_pending("more-records", "0/3 workers", "2 lack compliance hipaa and soc2", "1 insufficient cpu")
    scenario.check()
    scenario.check_no_needless_wait()


def test_a_type_needs_workers_with_that_capability(scenario: PlacementScenario) -> None:
    scenario.pool("plain", 2)
    (able,) = scenario.pool("able", 1, spec={"capabilities": ["video-transcoding", "avx512"]})
    scenario.submit(
        workload("by-type", type="video-transcoding"),
        workload("by-both", type="video-transcoding", hard={"capabilities": ["avx512"]}),
        workload("none", type="genomics"),
    )
    assert scenario.wait_running("by-type", "by-both") == [able, able]
    scenario.wait_pending("none", "0/3 workers", "3 lack capability genomics")
    scenario.check()


def test_worker_tags_and_expressions_are_hard_terms(scenario: PlacementScenario) -> None:
    scenario.pool("old", 1, spec={"tags": {"disk": "ssd"}}, labels={"generation": "2"})
    (new,) = scenario.pool("new", 1, spec={"tags": {"disk": "ssd"}}, labels={"generation": "3"})
    scenario.pool("slow", 1, spec={"tags": {"disk": "hdd"}}, labels={"generation": "5"})
    newer = {"key": "generation", "operator": "Gt", "values": ["2"]}
    scenario.submit(workload("picky", hard={"workerTags": {"disk": "ssd"}, "workerExpressions": [newer]}))
    assert scenario.wait_running("picky") == [new]
    scenario.check()


# Near


def test_a_near_term_waits_for_a_matching_workload_and_shares_its_zone(scenario: PlacementScenario) -> None:
    zone = "topology.kubernetes.io/zone"
    scenario.pool("a", 2, labels={zone: "a"}, cpu="16")
    b = scenario.pool("b", 2, labels={zone: "b"}, cpu="4")
    near = {"near": [{"workloadSelector": {"matchLabels": {"app": "data"}}, "topologyKey": zone}]}
    scenario.submit(workload("features", hard=near))
    scenario.wait_pending("features", "0/4 workers", "4 not near a required running workload")
    scenario.submit(workload("data", labels={"app": "data"}, hard={"zones": ["b"]}))
    assert scenario.wait_running("data", "features")[1] in b
    scenario.check()


# Room


def test_slots_limit_the_pods_of_a_worker(scenario: PlacementScenario) -> None:
    (node,) = scenario.pool("slotted", 1, spec={"slotsPerWorker": 3})
    scenario.bare_pod("not-a-workload", node=node, cpu="1")
    names = [f"small-{number}" for number in range(4)]
    scenario.submit(*(workload(name, cpu="100m", memory="64Mi") for name in names))

    def settled() -> Counter[str]:
        return Counter(scenario.status(name).get("phase", "") for name in names)

    until(lambda: settled() == {"Running": 3, "Pending": 1}, what="three run and one waits")
    (waiting,) = (name for name in names if scenario.status(name)["phase"] == "Pending")
    scenario.wait_pending(waiting, "0/1 workers", "1 no free slot")
    scenario.check()
    scenario.delete(next(name for name in names if name != waiting))
    scenario.wait_running(waiting)
    scenario.check()


def test_pods_of_other_owners_use_room_on_workers(scenario: PlacementScenario) -> None:
    scenario.pool("shared", 2, cpu="4")
    for number in range(2):
        scenario.bare_pod(f"bare-{number}", cpu="3")
    # kube-scheduler puts one on each node, which has 1 cpu left.
    scenario.submit(workload("fits", cpu="1"), workload("too-big", cpu="2"))
    scenario.wait_running("fits")
    scenario.wait_pending("too-big", "0/2 workers", "2 insufficient cpu")
    scenario.check()
    scenario.check_no_needless_wait()
    scenario.api.delete(f"/api/v1/namespaces/{scenario.namespace}/pods/bare-0", {"gracePeriodSeconds": 0})
    scenario.wait_running("too-big")
    scenario.check()


def test_extended_resources_and_the_maximum_of_pods_limit_a_worker(scenario: PlacementScenario) -> None:
    scenario.pool("tight", 1, pods=2, extra_resources={"example.com/fpga": "1"})
    scenario.submit(workload("with-fpga", requests={"example.com/fpga": "1"}))
    scenario.wait_running("with-fpga")
    scenario.submit(workload("second-fpga", requests={"example.com/fpga": "1"}))
    scenario.wait_pending("second-fpga", "1 insufficient example.com/fpga")
    scenario.submit(workload("plain"))
    scenario.wait_running("plain")
    scenario.submit(workload("one-too-many"))
    scenario.wait_pending("one-too-many", "1 insufficient pods")
    scenario.check()


@pytest.mark.parametrize(
    ("cpu", "memory"), [("100m", "128974848"), ("0.5", "1Gi"), ("1e0", "1e9"), ("1.5", "1G"), ("2", "0.5Gi")]
)
def test_quantities_of_every_form_count_exactly(scenario: PlacementScenario, cpu: str, memory: str) -> None:
    # There is room for exactly one pod: a second must wait for cpu, or for memory.
    scenario.pool("exact", 1, cpu=cpu, memory=memory)
    scenario.submit(workload("exact", cpu=cpu, memory=memory))
    scenario.wait_running("exact")
    scenario.submit(workload("cpu", cpu="1m", memory="0"), workload("memory", cpu="0", memory="1"))
    scenario.wait_pending("cpu", "1 insufficient cpu")
    scenario.wait_pending("memory", "1 insufficient memory")
    scenario.check()


# Time


def test_a_new_pool_takes_workloads_that_wait(scenario: PlacementScenario) -> None:
    nodes = scenario.add_nodes("late", 2)
    scenario.submit(workload("early"), workload("choosy", hard={"workerTags": {"disk": "nvme"}}))
    for name in ("early", "choosy"):
        scenario.wait_pending(name, "no workers")
    scenario.add_pool("late", tags={"disk": "nvme"})
    assert {*scenario.wait_running("early", "choosy")} <= {*nodes}
    scenario.check()


def test_the_message_names_every_reason_with_its_count(scenario: PlacementScenario) -> None:
    us = {"region": "us", **A100}
    scenario.pool("plain", 3, spec={"region": "eu"})
    scenario.pool("gpu-us", 2, spec=us, gpus=4)
    scenario.pool("gpu-eu", 1, spec={"region": "eu", **A100}, gpus=4)
    scenario.submit(workload("first", hard={"regions": ["eu"]}, gpu=gpu("A100", count=3)))
    scenario.wait_running("first")
    scenario.submit(workload("second", hard={"regions": ["eu"]}, gpu=gpu("A100", count=2)))
    wanted = ("0/6 workers: ", "3 GPU model is not A100", "2 not in region eu", "1 insufficient nvidia.com/gpu")
    status = scenario.wait_pending("second", *wanted)
    assert status["reason"] == "Unschedulable"
    path = f"/api/v1/namespaces/{scenario.namespace}/events"
    events = until(
        lambda: [e for e in scenario.api.items(path) if e["involvedObject"]["name"] == "second"],
        what="there is an Event",
    )
    assert "0/6 workers" in events[0]["message"]
    scenario.check()
