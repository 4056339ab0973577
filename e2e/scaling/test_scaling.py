"""Autoscaling in a closed loop: Kubernetes' HorizontalPodAutoscaler reads the metrics adapter and scales a pool of
simulated workers, up for the queue and down again.

The autoscalers are those of hpa/ with shorter windows, so that growing and shrinking take less than a minute. Every
timeline is printed. A recorder of all pods and the attempts in Postgres prove that each workload ran once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testing.cluster.api_client import JSON
from testing.environment import Environment
from testing.scenarios.autoscaling import ScalingScenario, gpu_workloads
from testing.scenarios.scaling_timeline import Timeline, autoscaler, autoscaler_files, quick, simulated_pool
from testing.scenarios.workloads import PodRecorder, Workloads

pytestmark = pytest.mark.e2e

QUICK = {"NIYANTA_POOL_STATUS_INTERVAL": "1", "NIYANTA_STATUS_DEBOUNCE": "0.3"}
GPUS = 8
"""GPUs of each worker of a GPU pool."""
REACTION, RESPONSE = 60.0, 300.0
"""Maximum of seconds until the autoscaler acts, and until all workloads are placed."""


@pytest.fixture(scope="module")
def env() -> Iterator[Environment]:
    """A control plane with the metrics adapter, and one operator."""
    with Environment.start("scaling", fast_node_loss=False, adapter=True, operators=1, operator_env=QUICK) as made:
        yield made


@pytest.fixture
def scenario(
    env: Environment, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Iterator[ScalingScenario]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)

    made = ScalingScenario(env, f"work-{abs(hash(request.node.name)) % 10**8}", say)
    yield made
    made.close()


def gpu_pool(env: Environment, hpa: JSON, **spec: Any) -> JSON:
    """The pool that an autoscaler of hpa/ scales, with workers of 8 GPUs."""
    return simulated_pool(hpa["spec"]["scaleTargetRef"]["name"], env.namespace, gpus=GPUS, model="A100", **spec)


def scale_by(scenario: ScalingScenario, shipped: JSON, *, max_replicas: int | None = None) -> str:
    """Applies an autoscaler as shipped, which must read its metric, and then a copy with short windows."""
    scenario.apply_autoscaler(shipped)
    return scenario.apply_autoscaler(quick(shipped, max_replicas=max_replicas))


def run_undisturbed(
    scenario: ScalingScenario, work: Workloads, manifests: list[JSON], timeline: Timeline, end: int
) -> list[str]:
    """Creates workloads without an end, ends them when all run, and waits until the pool has `end` workers.

    Each must run exactly once.
    """
    with PodRecorder(scenario.env.cluster, scenario.namespace) as recorder:
        timeline.restart_clock()
        uids = work.create(manifests)
        timeline.wait(lambda sample: sample.running > 0, "something runs", timeout=RESPONSE)
        timeline.wait(lambda sample: sample.queued == 0, "the queue is empty", timeout=RESPONSE)
        timeline.wait(lambda sample: sample.running == len(manifests), "all run at once", timeout=RESPONSE)
        scenario.end_pods((1, 15))
        timeline.wait(lambda sample: sample.running == 0, "all has ended", timeout=180)
        timeline.wait(
            lambda sample: sample.workers == end == sample.replicas, f"the pool is back at {end}", timeout=120
        )
    recorder.assert_one_pod_each(uids)
    assert {attempt for _, _, attempt in recorder.ever_ran} == {"1"}, "an attempt was disturbed and made again"
    rows = work.database.query(
        "SELECT attempt, status, failures, count(*) AS n FROM workload_state WHERE id = ANY(%(ids)s::uuid[])"
        " GROUP BY 1, 2, 3",
        ids=uids,
    )
    assert rows == [{"attempt": 1, "status": "SUCCEEDED", "failures": 0, "n": len(uids)}]
    return uids


def test_400_workloads_grow_a_gpu_pool_of_one_and_it_shrinks_again(env: Environment, scenario: ScalingScenario) -> None:
    shipped = autoscaler("workers-needed.yaml")
    pool = scenario.pool(gpu_pool(env, shipped, replicas=1, minReplicas=1))
    scale_by(scenario, shipped, max_replicas=60)
    work = scenario.workloads(pool)
    with scenario.timeline(pool) as timeline:
        run_undisturbed(scenario, work, gpu_workloads(work, 400), timeline, end=1)
    scenario.report("400 workloads, from 1 worker, by workers_needed", timeline)
    check_400(timeline)


def test_400_workloads_grow_a_gpu_pool_that_the_autoscaler_scaled_to_zero(
    env: Environment, scenario: ScalingScenario
) -> None:
    shipped = autoscaler("workers-needed-from-zero.yaml")
    pool = scenario.pool(gpu_pool(env, shipped, replicas=1))
    hpa = scale_by(scenario, shipped, max_replicas=60)
    scenario.wait_workers(pool, 0, timeout=90)
    conditions = {item["type"]: item["status"] for item in env.cluster.api.get(hpa)["status"]["conditions"]}
    assert conditions["ScaledToZero"] == "True"
    work = scenario.workloads(pool)
    with scenario.timeline(pool) as timeline:
        run_undisturbed(scenario, work, gpu_workloads(work, 400), timeline, end=0)
    scenario.report("400 workloads, from 0 workers, by workers_needed", timeline)
    check_400(timeline)


def check_400(timeline: Timeline) -> None:
    """Asserts that the pool reacted in time, and that all of its workers were in use at the same time."""
    seen = timeline.summary()
    assert seen.first_reaction < REACTION
    assert seen.all_placed < RESPONSE
    assert seen.overshoot == 0, "a worker too many"
    assert seen.made == 400 // GPUS
    assert seen.peak_replicas == 400 // GPUS


@pytest.mark.parametrize("limit", [None, 5], ids=["unlimited", "best-pool-limited"])
def test_two_suitable_pools_grow_no_more_than_one_would(
    env: Environment, scenario: ScalingScenario, limit: int | None
) -> None:
    """80 workloads need 10 workers, in both pools together."""
    shipped = [autoscaler("workers-needed.yaml"), autoscaler("workers-needed-from-zero.yaml")]
    limits = {"maxReplicas": limit} if limit else {}
    pools = [
        scenario.pool(gpu_pool(env, hpa, replicas=1, minReplicas=1, **extra))
        for hpa, extra in zip(shipped, (limits, {}), strict=True)
    ]
    for hpa in shipped:
        made = quick(hpa)
        made["spec"]["minReplicas"] = 1
        scenario.apply_autoscaler(made)
    work = scenario.workloads(pools[0])
    manifests = gpu_workloads(work, 80, pools=pools)
    with scenario.timeline(pools[0]) as first, scenario.timeline(pools[1]) as second:
        second.restart_clock()
        run_undisturbed(scenario, work, manifests, first, end=1)
        second.wait(lambda sample: sample.workers == 1, "the other pool is back at 1", timeout=60)
    for pool, timeline in zip(pools, (first, second), strict=True):
        scenario.report(f"80 workloads for two pools: {pool}", timeline)
    together = len(first.ever) + len(second.ever)
    scenario.say(f"two pools: {len(first.ever)} + {len(second.ever)} workers for work that fills {80 // GPUS}")
    assert together <= 80 // GPUS
    assert first.summary().overshoot + second.summary().overshoot == 0
    if limit is not None:
        assert len(first.ever) <= limit


@pytest.mark.parametrize("name", ["demand.yaml", "demand-from-zero.yaml"])
def test_by_demand_a_pool_has_a_worker_for_every_ten_pods(
    env: Environment, scenario: ScalingScenario, name: str
) -> None:
    shipped = autoscaler(name)
    least = shipped["spec"]["minReplicas"]
    pool = scenario.pool(simulated_pool("cpu-eu", env.namespace, replicas=1, slotsPerWorker=10))
    scale_by(scenario, shipped)
    scenario.wait_workers(pool, least, timeout=90)
    work = scenario.workloads(pool)
    manifests = [work.manifest(f"w-{number}") for number in range(60)]
    with scenario.timeline(pool) as timeline:
        run_undisturbed(scenario, work, manifests, timeline, end=least)
    scenario.report(f"60 workloads, from {least}, by demand", timeline)
    seen = timeline.summary()
    assert seen.first_reaction < REACTION
    assert seen.made == 6
    assert seen.overshoot == 0


def test_by_utilization_a_full_pool_grows_until_there_is_room_again(
    env: Environment, scenario: ScalingScenario
) -> None:
    """Utilization does not include the queue: the pool grows by steps, and may grow beyond the need."""
    shipped = autoscaler("utilization.yaml")
    pool = scenario.pool(simulated_pool("cpu-us", env.namespace, cpu="4", replicas=1))
    scale_by(scenario, shipped)
    work = scenario.workloads(pool)
    manifests = [work.manifest(f"w-{n}", cpu="1") for n in range(24)]
    with scenario.timeline(pool) as timeline:
        run_undisturbed(scenario, work, manifests, timeline, end=1)
    scenario.report("24 workloads that fill 6 workers, by utilization", timeline)
    seen = timeline.summary()
    assert seen.first_reaction < REACTION
    assert seen.all_placed < RESPONSE
    # 6 workers full are 600 %: 9 workers of 67 %.
    assert 2 <= seen.made <= 9


def test_every_autoscaler_of_the_folder_has_a_test_here() -> None:
    tried = {"workers-needed.yaml", "workers-needed-from-zero.yaml", "demand.yaml", "demand-from-zero.yaml"}
    assert set(autoscaler_files()) == tried | {"utilization.yaml"}
    for name in autoscaler_files():
        (metric,) = autoscaler(name)["spec"]["metrics"]
        assert (metric["type"], metric["object"]["target"]["type"]) == ("Object", "AverageValue"), name
