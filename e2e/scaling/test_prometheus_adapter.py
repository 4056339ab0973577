"""The rules of hpa/prometheus-adapter with prometheus-adapter and Prometheus: the autoscalers of hpa/ work unchanged.

Only `make e2e-keda` runs it, because prometheus-adapter takes minutes to build.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.environment import Environment
from testing.processes.prometheus_adapter import PrometheusAdapter
from testing.scenarios.autoscaling import ScalingScenario, gpu_workloads
from testing.scenarios.scaling_timeline import autoscaler, quick, simulated_pool

pytestmark = pytest.mark.keda

QUICK = {"NIYANTA_POOL_STATUS_INTERVAL": "1"}
GPUS = 8


@pytest.fixture(scope="module")
def env() -> Iterator[Environment]:
    """An environment without Niyanta's own adapter, because only one server may serve the API."""
    with Environment.start("prometheus", fast_node_loss=False, operators=1, operator_env=QUICK) as made:
        PrometheusAdapter(made).start()
        yield made


@pytest.fixture
def scenario(env: Environment, request: pytest.FixtureRequest) -> Iterator[ScalingScenario]:
    made = ScalingScenario(env, f"work-{abs(hash(request.node.name)) % 10**8}")
    yield made
    made.close()


@pytest.mark.parametrize("name", ["workers-needed.yaml", "demand.yaml", "utilization.yaml"])
def test_the_shipped_autoscaler_reads_its_metric_from_prometheus(
    env: Environment, scenario: ScalingScenario, name: str
) -> None:
    manifest = autoscaler(name)
    target = manifest["spec"]["scaleTargetRef"]["name"]
    scenario.pool(simulated_pool(target, env.namespace, gpus=GPUS, replicas=1, slotsPerWorker=10))
    scenario.apply_autoscaler(manifest)


def test_a_pool_grows_and_shrinks_by_metrics_from_prometheus(
    env: Environment, scenario: ScalingScenario, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = autoscaler("workers-needed.yaml")
    target = shipped["spec"]["scaleTargetRef"]["name"]
    pool = scenario.pool(simulated_pool(target, env.namespace, gpus=GPUS, replicas=1, minReplicas=1))
    scenario.apply_autoscaler(quick(shipped))
    work = scenario.workloads(pool)
    with scenario.timeline(pool) as timeline:
        timeline.restart_clock()
        work.create(gpu_workloads(work, 40, (25, 30)))
        timeline.wait(lambda sample: sample.running == 40, "all runs", timeout=120)
        timeline.wait(lambda sample: sample.running == 0, "all has ended", timeout=120)
        timeline.wait(lambda sample: sample.workers == sample.replicas == 1, "the pool is small again", timeout=120)
    with capsys.disabled():
        print("", *timeline.lines(), timeline.summary(), sep="\n")
    assert (timeline.summary().made, timeline.summary().overshoot) == (40 // GPUS, 0)
