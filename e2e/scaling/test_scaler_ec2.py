"""A WorkerPool over an EC2 Auto Scaling group follows spec.replicas; moto's server serves AWS's API, behind a proxy.

The control plane, the operator with the chart's permissions and Postgres are real.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from e2e.conftest import NODE_LABEL, QUICK, leads
from testing.cluster.cluster import NodeSpec
from testing.environment import Environment
from testing.processes.aws import REGION, AwsFault, AwsProxy, MotoCloud, proxy_to
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.placement import POOLS
from testing.scenarios.scaled_pool import ScaledPool, scaled_pool
from testing.scenarios.workloads import PodRecorder, Workloads, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def pool(workloads: Workloads, unique: str) -> Iterator[ScaledPool]:
    """The pool of `workloads`, without a provider at first."""
    with scaled_pool(workloads, unique) as made:
        yield made


class CloudNodeController(threading.Thread):
    """Stands in for kubelets and the cloud node controller: keeps one Node for every instance of the group."""

    def __init__(self, cloud: MotoCloud, pool: ScaledPool) -> None:
        super().__init__(daemon=True)
        self._cloud = cloud
        self._pool = pool
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.5):
            self.follow()

    def follow(self) -> None:
        """Creates missing Nodes, and deletes those whose instance is gone."""
        wanted = {
            provider_id.rsplit("/", 1)[-1]: provider_id for provider_id in self._cloud.provider_ids(self._pool.name)
        }
        present = self._pool.nodes()
        for instance in wanted.keys() - present.keys():
            manifest = NodeSpec(instance, cpu="2", labels={NODE_LABEL: self._pool.name}).manifest()
            manifest["spec"]["providerID"] = wanted[instance]
            self._pool.cluster.api.post("/api/v1/nodes", manifest)
        self._pool.cluster.delete_nodes(present.keys() - wanted.keys())

    def stop(self) -> None:
        self._done.set()
        self.join()


@pytest.fixture(scope="module")
def cloud() -> Iterator[MotoCloud]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield MotoCloud(f"http://{host}:{port}")
    server.stop()


@pytest.fixture
def aws(env: Environment, operator: OperatorProcess, cloud: MotoCloud) -> Iterator[AwsProxy]:
    """A leading operator with AWS credentials and the endpoint of a proxy in front of moto; returns the proxy."""
    operator.terminate()
    with proxy_to(cloud.url) as proxy:
        credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        mine = env.start_operator(extra_env={**QUICK, **credentials, "AWS_ENDPOINT_URL": proxy.url})
        until(lambda: leads(mine), what="the operator leads", timeout=60)
        yield proxy
        mine.terminate()


@pytest.fixture
def group(cloud: MotoCloud, aws: AwsProxy, pool: ScaledPool) -> Iterator[ScaledPool]:
    """A pool with 2 workers over an Auto Scaling group of its name with a maximum of 8 instances."""
    cloud.make(pool.name, maximum=8)
    controller = CloudNodeController(cloud, pool)
    controller.start()
    provider = {"ec2AutoScalingGroup": {"name": pool.name, "region": REGION}}
    pool.edit(provider=provider, replicas=2, scaling={"scaleDownCooldownSeconds": 0}, slotsPerWorker=1)
    pool.wait_ready(2)
    yield pool
    controller.stop()


def test_an_auto_scaling_group_follows_the_pool(group: ScaledPool, cloud: MotoCloud, aws: AwsProxy) -> None:
    """It grows through throttling up to its maximum, and shrinks by exactly the chosen instances although the answer of
    one termination is lost and another termination fails. No workload is disturbed."""
    aws.faults.append(AwsFault("SetDesiredCapacity", "Throttling", "Rate exceeded", times=2))
    group.kubectl_scale(6)
    group.wait_ready(6)
    until(
        lambda: all(i["ProtectedFromScaleIn"] for i in cloud.group(group.name)["Instances"]), what="all are protected"
    )
    group.kubectl_scale(20)
    group.wait_condition("Scaling", "False", "AtGroupMaximum")
    group.wait_ready(8)
    with PodRecorder(group.cluster, group.workloads.namespace) as recorder:
        on = group.run_workloads("a", "b")
        aws.faults.append(AwsFault("TerminateInstanceInAutoScalingGroup", done=True))
        aws.faults.append(AwsFault("TerminateInstanceInAutoScalingGroup", "InternalFailure", status=500))
        group.kubectl_scale(2)
        group.wait_ready(2)
        assert cloud.instances(group.name) == sorted(on.values())
        assert cloud.group(group.name)["DesiredCapacity"] == 2
        # The cloud takes back an instance that is still draining: its drain ends, and the other drain goes on.
        group.kubectl_scale(0)
        until(lambda: len([d for d in group.drains() if d["cordoned_at"]]) == 2, what="both are cordoned")
        group.end_workload("b")
        group.workloads.wait("b", "Succeeded")
        group.wait_nodes(1)
        cloud.vanish(group.name, on["a"])
        until(lambda: group.decisions("WorkerVanished"), what="the loss of the instance is recorded")
        group.wait_nodes(0)
        recorder.close()
    group.assert_undisturbed("b")
    removed = [row["instance"] for row in group.decisions("WorkerRemoved")]
    assert len(removed) == len(set(removed)) == 7
    assert aws.count("TerminateInstanceInAutoScalingGroup") == 7 + 1  # one call failed and was repeated


def test_a_provider_that_hangs_delays_no_other_pool(
    pool: ScaledPool, cloud: MotoCloud, aws: AwsProxy, unique: str
) -> None:
    cloud.make(unique, size=1)
    answered = threading.Event()
    aws.faults.append(AwsFault("DescribeAutoScalingGroups", "Throttling", times=1000, until=answered))
    pool.edit(provider={"ec2AutoScalingGroup": {"name": unique, "region": REGION}}, replicas=3)
    until(lambda: aws.count("DescribeAutoScalingGroups"), what="the operator has called AWS")
    other = ScaledPool(pool.workloads, f"{unique}-other")
    pool.cluster.api.post(POOLS, pool_manifest(other.name, "niyanta-system", {NODE_LABEL: other.name}))
    try:
        other.simulate_workers(replicas=2)
        other.wait_ready(2)
        other.kubectl_scale(0)
        other.wait_ready(0)
        assert not answered.is_set()
        assert len(cloud.instances(unique)) == 1
        answered.set()
        aws.faults.clear()
        until(lambda: len(cloud.instances(unique)) == 3, what="the group follows when AWS answers", timeout=120)
    finally:
        answered.set()
        pool.cluster.api.delete(f"{POOLS}/{other.name}")
        pool.cluster.delete_nodes(other.nodes())


def test_a_group_that_cluster_autoscaler_scales_is_left_alone(
    pool: ScaledPool, cloud: MotoCloud, aws: AwsProxy, unique: str
) -> None:
    cloud.make(unique, size=1, tags={"k8s.io/cluster-autoscaler/enabled": "true"})
    pool.edit(provider={"ec2AutoScalingGroup": {"name": unique, "region": REGION}}, replicas=3)
    message = pool.wait_condition("Scaling", "False", "GroupHasOtherScaler")["message"]
    assert "k8s.io/cluster-autoscaler/enabled" in message
    until(lambda: "GroupHasOtherScaler" in pool.events(), what="an Event names it")
    assert len(cloud.instances(unique)) == 1
    assert aws.count("SetDesiredCapacity") == 0
