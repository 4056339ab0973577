"""The ScaledObject of hpa/keda with KEDA: a pool grows from zero workers for its queue and shrinks back, through REST.

Only `make e2e-keda` runs it, because KEDA takes minutes to build.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from testing.cluster.api_client import JSON
from testing.environment import Environment
from testing.processes.keda import Keda
from testing.processes.rest_door import RestDoor
from testing.scenarios.placement import CUSTOMERS, POOLS
from testing.scenarios.scaling_timeline import HPA_FOLDER, Timeline, simulated_pool, workers_of
from testing.scenarios.workloads import OperatorDatabase, PodRecorder, Workloads, customer_manifest
from testing.waiting import until

pytestmark = pytest.mark.keda

QUICK = {"NIYANTA_POOL_STATUS_INTERVAL": "1", "NIYANTA_STATUS_DEBOUNCE": "0.3"}
SPACE = "keda-work"
URL = "http://niyanta-api.niyanta-system.svc"


@pytest.fixture(scope="module")
def env() -> Iterator[Environment]:
    with Environment.start("keda", fast_node_loss=False, operators=1, operator_env=QUICK) as made:
        yield made


@pytest.fixture(scope="module")
def scaled(env: Environment) -> Iterator[tuple[JSON, JSON]]:
    """KEDA, and its shipped objects with short intervals and the REST door's address; (pool, ScaledObject)."""
    env.cluster.create_namespace(SPACE)
    env.cluster.api.post(CUSTOMERS, customer_manifest(SPACE, SPACE))
    door = RestDoor(env, "keda", role="metrics")
    Keda(env).start()
    token = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "niyanta-figures", "namespace": env.namespace}}
    authentication, scaled = yaml.safe_load_all((HPA_FOLDER / "keda" / "scaled-object.yaml").read_text())
    spec = scaled["spec"]
    spec |= {"pollingInterval": 2, "cooldownPeriod": 5}
    for rules in spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"].values():
        rules["stabilizationWindowSeconds"] = min(5, rules["stabilizationWindowSeconds"])
        for policy in rules["policies"]:
            policy["periodSeconds"] = 5
    metadata = spec["triggers"][0]["metadata"]
    assert metadata["url"].startswith(URL)
    metadata["url"] = metadata["url"].replace(URL, str(door.client.base_url).rstrip("/"))
    pool = simulated_pool(spec["scaleTargetRef"]["name"], env.namespace, gpus=8, replicas=1)
    env.cluster.api.post(POOLS, pool)
    env.cluster.apply({**token, "stringData": {"token": door.key}}, authentication, scaled)
    yield pool, scaled
    door.close()


def test_keda_scales_a_pool_from_zero_and_back(
    env: Environment, scaled: tuple[JSON, JSON], capsys: pytest.CaptureFixture[str]
) -> None:
    pool, manifest = scaled
    name = str(pool["metadata"]["name"])
    path = f"/apis/keda.sh/v1alpha1/namespaces/{env.namespace}/scaledobjects/{manifest['metadata']['name']}"

    def ready() -> bool:
        found = env.cluster.api.get(path).get("status", {}).get("conditions", [])
        return {item["type"]: item["status"] for item in found}.get("Ready") == "True"

    until(ready, what="KEDA has taken the ScaledObject", timeout=90)
    until(lambda: not workers_of(env.cluster, name), what="the empty pool went to zero", timeout=120)
    work = Workloads(env.cluster, OperatorDatabase(env.dsn), SPACE, name)
    manifests = [
        work.manifest(f"w-{number}", gpu={"models": ["A100"], "count": 1}, life={"run_for": "25s"})
        for number in range(64)
    ]
    with Timeline(env, name, SPACE) as timeline, PodRecorder(env.cluster, SPACE) as recorder:
        timeline.restart_clock()
        uids = work.create(manifests)
        timeline.wait(lambda sample: sample.running == 64, "all runs", timeout=180)
        timeline.wait(lambda sample: sample.running == 0, "all has ended", timeout=120)
        timeline.wait(lambda sample: sample.workers == 0, "the pool is at zero again", timeout=180)
    recorder.assert_one_pod_each(uids)
    seen = timeline.summary()
    with capsys.disabled():
        print("", "--- 64 workloads, from 0 workers, by KEDA ---", *timeline.lines(), seen, sep="\n")
    assert seen.first_reaction < 60
    assert (seen.made, seen.overshoot) == (8, 0)
