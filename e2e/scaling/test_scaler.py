"""spec.replicas of a WorkerPool becomes nodes and back, with workers that kwok simulates, and no workload is disturbed.

The control plane, the operator with the chart's permissions and Postgres are real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.conftest import QUICK, leads
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.placement import POOLS
from testing.scenarios.scaled_pool import SCALE_DOWN_MARK, ScaledPool, scaled_pool
from testing.scenarios.workloads import PodRecorder, Workloads
from testing.waiting import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def pool(workloads: Workloads, unique: str) -> Iterator[ScaledPool]:
    """The pool of `workloads`, without a provider at first."""
    with scaled_pool(workloads, unique) as made:
        yield made


def test_kubectl_scale_makes_workers_and_takes_them_away(pool: ScaledPool) -> None:
    pool.simulate_workers(replicas=1)
    pool.wait_ready(1)
    pool.kubectl_scale(4)
    pool.wait_ready(4)
    assert pool.wait_condition("Scaling", "True", "Steady")["message"] == "4 wanted"
    pool.kubectl_scale(0)
    pool.wait_ready(0)
    pool.kubectl_scale(2)
    pool.wait_ready(2)
    counts = {action: len(pool.decisions(action)) for action in ("ScaleUp", "ScaleDown", "WorkerRemoved")}
    assert counts == {"ScaleUp": 3, "ScaleDown": 4, "WorkerRemoved": 4}
    assert [(row["had"], row["wanted"]) for row in pool.decisions("ScaleUp")] == [(0, 1), (1, 4), (0, 2)]
    until(lambda: sorted(pool.events()) == sorted(row["action"] for row in pool.decisions()), what="an Event for each")
    assert pool.status()["selector"]


def test_a_pool_without_replicas_adopts_its_workers_and_keeps_to_its_bounds(
    pool: ScaledPool, nodes: Callable[..., list[str]]
) -> None:
    """Without spec.replicas, the number of existing workers is written once. More than maxReplicas may be requested."""
    nodes(3)
    pool.simulate_workers()
    until(lambda: pool.decisions("ReplicasAdopted"), what="the pool is adopted")
    assert pool.cluster.api.get(f"{POOLS}/{pool.name}")["spec"]["replicas"] == 3
    pool.edit(maxReplicas=4, minReplicas=2)
    pool.kubectl_scale(9)
    pool.wait_ready(4)
    assert "maxReplicas is 4" in pool.wait_condition("ScalingLimited", "True", "TooManyReplicas")["message"]
    pool.kubectl_scale(0)
    pool.wait_ready(2)
    pool.wait_condition("ScalingLimited", "True", "TooFewReplicas")


def test_busy_workers_are_removed_when_their_workloads_have_ended(pool: ScaledPool) -> None:
    """The empty worker is removed at once, each busy one when its workload has ended; no workload is evicted."""
    pool.simulate_workers(replicas=3)
    pool.wait_ready(3)
    with PodRecorder(pool.cluster, pool.workloads.namespace) as recorder:
        on = pool.run_workloads("a", "b", "c")
        (free,) = set(pool.nodes()) - set(on.values())
        pool.kubectl_scale(0)
        pool.wait_nodes(2)
        assert free not in pool.nodes()
        until(lambda: all(n["spec"].get("unschedulable") for n in pool.nodes().values()), what="both are cordoned")
        pool.workloads.apply("late", cpu="1")
        pool.workloads.wait_message("late", "Unschedulable", "cordoned")
        assert pool.wait_condition("Scaling", "True", "Draining")
        assert len(pool.workloads.live_pods()) == 3
        for name in on:
            pool.end_workload(name)
        pool.wait_nodes(0)
        pool.kubectl_scale(1)
        pool.workloads.wait("late", "Running")
        pool.end_workload("late")
        pool.workloads.wait("late", "Succeeded")
        recorder.close()
        recorder.assert_one_pod_each([pool.workloads.uid(name) for name in (*on, "late")])
    pool.assert_undisturbed(*on, "late")
    assert pool.decisions("WorkloadsEvicted") == []


def test_after_the_drain_timeout_a_workload_moves_as_a_new_attempt(pool: ScaledPool) -> None:
    pool.simulate_workers(replicas=2, slotsPerWorker=1, scaling={"drainTimeoutSeconds": 3})
    pool.wait_ready(2)
    (first,) = pool.run_workloads("stays").values()
    (second,) = pool.run_workloads("moves").values()
    pool.edit(slotsPerWorker=2)
    pool.kubectl_scale(1)
    (left,) = pool.wait_nodes(1)
    name = "moves" if left == first else "stays"
    pool.workloads.wait(name, "Running", attempts=2, placement=left)
    uid = pool.workloads.uid(name)
    attempts = pool.workloads.database.attempts(uid)
    assert (attempts[0]["outcome"], attempts[0]["reason"]) == ("Requeue", "WorkerScaledDown")
    row = pool.workloads.database.row(uid)
    assert row is not None
    assert row["failures"] == 0
    assert second in {left, attempts[0]["workers"][0]}
    waited = pool.decisions("WorkloadsEvicted")[0]["at"] - pool.decisions("ScaleDown")[0]["at"]
    assert waited.total_seconds() >= 3
    assert "WorkloadsEvicted" in pool.events()


def test_scaling_up_again_cancels_the_drains_in_progress(pool: ScaledPool) -> None:
    pool.simulate_workers(replicas=2, slotsPerWorker=1)
    before = pool.wait_ready(2)
    pool.run_workloads("a", "b")
    pool.kubectl_scale(0)
    until(
        lambda: all(SCALE_DOWN_MARK in n["metadata"].get("annotations", {}) for n in pool.nodes().values()),
        what="both are marked",
    )
    pool.kubectl_scale(3)
    pool.wait_ready(3)
    assert set(before) < set(pool.nodes())
    assert not any(SCALE_DOWN_MARK in n["metadata"].get("annotations", {}) for n in pool.nodes().values())
    assert [(row["had"], row["wanted"]) for row in pool.decisions("ScaleUp")] == [(0, 2), (2, 3)]
    assert len(pool.decisions("ScaleDownCancelled")) == 2
    assert pool.drains() == []


def test_a_node_cordoned_by_hand_stays_cordoned(pool: ScaledPool) -> None:
    """It is chosen first, as it takes no new pods, and stays cordoned when its drain is cancelled. A node with the
    annotation against scaling down is never chosen."""
    pool.simulate_workers(replicas=2, slotsPerWorker=1)
    mine, other = pool.wait_ready(2)
    pool.run_workloads("a", "b")
    pool.cluster.cordon(mine)
    until(lambda: pool.status().get("readyReplicas") == 1, what="the cordon is seen")
    pool.kubectl_scale(1)
    until(
        lambda: SCALE_DOWN_MARK in pool.nodes()[mine]["metadata"].get("annotations", {}),
        what="the cordoned one is chosen",
    )
    pool.kubectl_scale(2)
    until(lambda: SCALE_DOWN_MARK not in pool.nodes()[mine]["metadata"].get("annotations", {}), what="it is kept")
    assert pool.nodes()[mine]["spec"]["unschedulable"]
    assert not pool.nodes()[other]["spec"].get("unschedulable")
    for node in (mine, other):
        pool.cluster.api.patch(
            f"/api/v1/nodes/{node}", {"metadata": {"annotations": {f"{SCALE_DOWN_MARK}-disabled": "true"}}}
        )
    pool.kubectl_scale(0)
    pool.wait_condition("Scaling", "False", "ScaleDownBlocked")
    assert len(pool.nodes()) == 2


def test_a_pod_of_another_owner_blocks_the_removal_of_its_worker(pool: ScaledPool) -> None:
    pool.simulate_workers(replicas=1)
    (node,) = pool.wait_ready(1)
    container = {"name": "main", "image": "registry.invalid/none"}
    path = f"/api/v1/namespaces/{pool.workloads.namespace}/pods"
    pool.cluster.api.post(path, {"metadata": {"name": "theirs"}, "spec": {"nodeName": node, "containers": [container]}})
    until(lambda: pool.cluster.api.get(f"{path}/theirs")["status"].get("phase") == "Running", what="it runs")
    pool.kubectl_scale(0)
    assert "theirs" in pool.wait_condition("Scaling", "False", "ScaleDownBlocked")["message"]
    assert pool.cluster.api.get(f"{path}/theirs")["status"]["phase"] == "Running"
    pool.cluster.api.delete(f"{path}/theirs", {"gracePeriodSeconds": 0})
    pool.wait_nodes(0)


def test_a_worker_that_is_not_ready_is_reported_and_not_replaced(pool: ScaledPool) -> None:
    pool.simulate_workers(replicas=2, scaling={"readyTimeoutSeconds": 2})
    broken, _ = pool.wait_ready(2)
    pool.cluster.set_node_ready(broken, False)
    assert broken in pool.wait_condition("Scaling", "False", "WorkersNotReady")["message"]
    assert len(pool.nodes()) == 2
    pool.kubectl_scale(1)
    pool.wait_nodes(1)
    assert broken not in pool.nodes()
    pool.wait_condition("Scaling", "True", "Steady")


def test_without_a_provider_missing_replicas_are_only_reported(
    pool: ScaledPool, nodes: Callable[..., list[str]]
) -> None:
    nodes(1)
    pool.edit(replicas=5)
    message = pool.wait_condition("Scaling", "False", "NoProvider")["message"]
    assert message.startswith("5 wanted, 1 there")
    assert len(pool.nodes()) == 1


def test_a_pool_that_loses_its_provider_keeps_its_workers(pool: ScaledPool) -> None:
    pool.simulate_workers(replicas=1)
    (node,) = pool.wait_ready(1)
    pool.run_workloads("a")
    pool.kubectl_scale(0)
    until(lambda: pool.nodes()[node]["spec"].get("unschedulable"), what="it is cordoned")
    pool.edit(provider=None)
    until(lambda: not pool.nodes()[node]["spec"].get("unschedulable"), what="it is uncordoned")
    until(lambda: not pool.drains(), what="the drain is over")


# --- the death of a leader --------------------------------------------------------------------------------------------

BEGUN = "SELECT 1 FROM worker_drains WHERE pool = %(pool)s"
MOMENTS = {
    "begun": BEGUN,
    "some cordoned": f"{BEGUN} AND cordoned_at IS NOT NULL",
    "one being removed": f"{BEGUN} AND removing_at IS NOT NULL",
    "one gone": "SELECT 1 FROM scaling_decisions WHERE pool = %(pool)s AND action = 'WorkerRemoved'",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_leader_killed_while_it_scales_down_is_continued_by_the_next(
    env: Environment, pool: ScaledPool, operator: OperatorProcess, moment: str
) -> None:
    """SIGKILL at one of four moments: the wanted number of workers is left, each of the others was removed once, and no
    workload is disturbed."""
    other = env.start_operator(extra_env=QUICK)
    pool.simulate_workers(replicas=6)
    pool.wait_ready(6)
    with PodRecorder(pool.cluster, pool.workloads.namespace) as recorder:
        on = pool.run_workloads("a", "b", "c", run_for="12s")
        pool.kubectl_scale(1)
        until(lambda: pool.workloads.database.query(MOMENTS[moment], pool=pool.name), what=moment, interval=0.002)
        operator.sigkill()
        until(lambda: leads(other), what="the other one leads", timeout=60)
        pool.wait_ready(1)
        uids = [pool.workloads.uid(name) for name in on]
        until(lambda: pool.workloads.database.count(uids, "SUCCEEDED") == 3, what="all succeeded")
        recorder.close()
        recorder.assert_one_pod_each(uids)
    pool.assert_undisturbed(*on)
    until(lambda: not pool.drains(), what="no drain is left")
    removed = [row["worker"] for row in pool.decisions("WorkerRemoved")]
    assert len(removed) == len(set(removed)) == 5
    assert len({row["instance"] for row in pool.decisions("ScaleDown")}) == 5
    (left,) = pool.nodes().values()
    assert not left["spec"].get("unschedulable")
    assert SCALE_DOWN_MARK not in left["metadata"].get("annotations", {})
