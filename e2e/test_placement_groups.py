"""Groups are placed all or none: nothing runs while one replica lacks room, and everything once there is."""

from __future__ import annotations

import pytest

from testing.scenarios.placement import Fleet, workload
from testing.waiting import until

pytestmark = pytest.mark.e2e

A100 = {"gpu": {"model": "A100", "count": 4}}


def test_seven_of_eight_is_none_until_there_is_room(fleet: Fleet) -> None:
    fleet.pool("gpu", 1, spec=A100, gpus=4)
    # Seven GPUs: a second worker with three.
    fleet.add_nodes("gpu", 1, gpus=3)
    fleet.wait_pool(f"{fleet.unique}-gpu", 2)
    fleet.submit(workload("pretrain", replicas=8, hard={"gpu": {"models": ["A100"], "count": 1}}))
    fleet.wait_waiting("pretrain", "0/2 workers", "2 fit one replica but not all together")
    # It holds nothing: others may use the room meanwhile.
    fleet.submit(workload("small", hard={"gpu": {"models": ["A100"], "count": 4}}))
    fleet.wait_running("small")
    fleet.delete("small")
    fleet.add_nodes("gpu", 1, gpus=1)
    fleet.wait_phase("pretrain", "Running")
    pods = fleet.pods("pretrain")
    assert sorted(pod["metadata"]["labels"]["niyanta.io/index"] for pod in pods) == [str(n) for n in range(8)]
    assert {pod["metadata"]["labels"]["niyanta.io/attempt"] for pod in pods} == {"1"}
    status = fleet.status("pretrain")
    assert sorted(status["workers"]) == fleet.nodes_of("pretrain")
    fleet.check()


def test_two_groups_that_fit_one_at_a_time_never_block_each_other(fleet: Fleet) -> None:
    fleet.pool("main", 2, cpu="4")
    fleet.submit_at_once(*(workload(f"group-{n}", cpu="1", replicas=6) for n in range(2)))
    names = ["group-0", "group-1"]

    def one_runs() -> str | None:
        running = [name for name in names if fleet.status(name).get("phase") == "Running"]
        return running[0] if len(running) == 1 else None

    first = until(one_runs, what="one group runs")
    (other,) = (name for name in names if name != first)
    fleet.wait_waiting(other, "fit one replica but not all together")
    fleet.check()
    fleet.delete(first)
    fleet.wait_running(other)
    fleet.check()


def test_a_group_with_zone_anti_affinity_needs_as_many_zones(fleet: Fleet) -> None:
    zone = "topology.kubernetes.io/zone"
    for name in ("a", "b"):
        fleet.pool(name, 2, labels={zone: name})
    rule = {"workloadSelector": {"matchLabels": {"app": "quorum"}}, "topologyKey": zone}
    fleet.submit(workload("quorum", replicas=3, labels={"app": "quorum"}, anti=[rule]))
    fleet.wait_waiting("quorum", "0/4 workers")
    fleet.pool("c", 1, labels={zone: "c"})
    fleet.wait_running("quorum")
    assert len(set(fleet.nodes_of("quorum"))) == 3
    fleet.check()
