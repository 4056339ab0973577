"""WorkerPool.spec.replicas becomes nodes, and back, without harm: simulated workers, and an EC2 group played by moto.

Real are the control plane, the operator with the chart's permissions, Postgres, and AWS's API as moto's server speaks
it. A pool here is that of the `workloads` fixture, given a provider.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from e2e.conftest import NODE_LABEL, QUICK, leads
from testing.cluster import stages
from testing.cluster.api_client import JSON
from testing.cluster.cluster import Cluster, NodeSpec
from testing.environment import Environment
from testing.processes.aws import REGION, AwsFault, AwsProxy, MotoCloud, proxy_to
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.placement import POOLS
from testing.scenarios.workloads import PodRecorder, Workloads, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

MARK = "niyanta.io/scale-down"


@dataclass
class ScaledPool:
    """A WorkerPool with a provider, and its nodes."""

    workloads: Workloads
    name: str

    @property
    def cluster(self) -> Cluster:
        return self.workloads.cluster

    def edit(self, **spec: Any) -> None:
        self.cluster.api.patch(f"{POOLS}/{self.name}", {"spec": spec})

    def provide(self, **spec: Any) -> None:
        """Gives the pool simulated workers that take two pods of 1 cpu; cooldowns off."""
        room = {"cpu": "2", "memory": "8Gi", "pods": "10"}
        provider = {"kwok": {"nodeTemplate": {"status": {"allocatable": room}}}}
        scaling = {"scaleDownCooldownSeconds": 0, **spec.pop("scaling", {})}
        self.edit(provider=provider, scaling=scaling, **spec)

    def kubectl_scale(self, replicas: int) -> None:
        self.cluster.kubectl(
            "scale", f"workerpools.niyanta.io/{self.name}", "-n", "niyanta-system", f"--replicas={replicas}"
        )

    def nodes(self) -> dict[str, JSON]:
        found = self.cluster.api.items("/api/v1/nodes", labelSelector=f"{NODE_LABEL}={self.name}")
        return {node["metadata"]["name"]: node for node in found}

    def status(self) -> JSON:
        status: JSON = self.cluster.api.get(f"{POOLS}/{self.name}").get("status", {})
        return status

    def condition(self, kind: str) -> JSON:
        found = [c for c in self.status().get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def wait_nodes(self, count: int, *, timeout: float = 60) -> list[str]:
        until(lambda: len(self.nodes()) == count, what=f"{self.name} has {count} nodes", timeout=timeout)
        return sorted(self.nodes())

    def wait_ready(self, count: int) -> list[str]:
        until(
            lambda: (self.status().get("replicas"), self.status().get("readyReplicas")) == (count, count),
            what=f"{self.name} has {count} workers, all ready",
        )
        return self.wait_nodes(count)

    def wait_condition(self, kind: str, status: str, reason: str) -> JSON:
        def told() -> JSON | None:
            found = self.condition(kind)
            return found if (found.get("status"), found.get("reason")) == (status, reason) else None

        try:
            return until(told, what=f"condition {kind} is {status} {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.condition(kind)}") from None

    def decisions(self, action: str = "") -> list[dict[str, Any]]:
        rows = self.workloads.database.query(
            "SELECT * FROM scaling_decisions WHERE pool = %(pool)s ORDER BY id", pool=self.name
        )
        return [row for row in rows if action in ("", row["action"])]

    def drains(self) -> list[dict[str, Any]]:
        return self.workloads.database.query("SELECT * FROM worker_drains WHERE pool = %(pool)s", pool=self.name)

    def events(self) -> list[str]:
        """Reasons of the Events on the pool."""
        found = self.cluster.api.items("/apis/events.k8s.io/v1/namespaces/niyanta-system/events")
        return [event["reason"] for event in found if event["regarding"].get("name") == self.name]

    def run(self, *names: str, **life: str) -> dict[str, str]:
        """Workloads of 1 cpu, running; name -> worker."""
        for name in names:
            self.workloads.apply(name, cpu="1", life=life)
        return {name: self.workloads.wait(name, "Running")["workers"][0] for name in names}

    def end(self, name: str) -> None:
        """The workload's pod ends well now."""
        for pod in self.workloads.live_pods(self.workloads.uid(name)):
            path = f"/api/v1/namespaces/{self.workloads.namespace}/pods/{pod['metadata']['name']}"
            self.cluster.api.patch(path, {"metadata": {"annotations": {stages.RUN_FOR: "1s"}}})

    def assert_undisturbed(self, *names: str) -> None:
        for name in names:
            attempts = self.workloads.database.attempts(self.workloads.uid(name))
            assert [(a["attempt"], a["outcome"]) for a in attempts] == [(1, "Succeed")], (name, attempts)


@pytest.fixture
def pool(workloads: Workloads, unique: str) -> Iterator[ScaledPool]:
    """Without provider at first. Its nodes are gone after the test, whoever made them."""
    made = ScaledPool(workloads, unique)
    yield made
    made.edit(provider=None)
    workloads.cluster.delete_nodes(made.nodes())


def test_kubectl_scale_makes_workers_and_takes_them_away(pool: ScaledPool) -> None:
    pool.provide(replicas=1)
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


def test_a_pool_is_adopted_as_it_is_and_bounded_by_its_rails(pool: ScaledPool, nodes: Callable[..., list[str]]) -> None:
    """No replicas given: what is there is written, once. An autoscaler that wants more than maxReplicas isn't stuck."""
    nodes(3)
    pool.provide()
    until(lambda: pool.decisions("ReplicasAdopted"), what="the pool is adopted")
    assert pool.cluster.api.get(f"{POOLS}/{pool.name}")["spec"]["replicas"] == 3
    pool.edit(maxReplicas=4, minReplicas=2)
    pool.kubectl_scale(9)
    pool.wait_ready(4)
    assert "maxReplicas is 4" in pool.wait_condition("ScalingLimited", "True", "TooManyReplicas")["message"]
    pool.kubectl_scale(0)
    pool.wait_ready(2)
    pool.wait_condition("ScalingLimited", "True", "TooFewReplicas")


def test_busy_workers_are_waited_for(pool: ScaledPool) -> None:
    """The empty one goes at once, the busy ones when their workloads have ended; none of these is touched."""
    pool.provide(replicas=3)
    pool.wait_ready(3)
    with PodRecorder(pool.cluster, pool.workloads.namespace) as recorder:
        on = pool.run("a", "b", "c")
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
            pool.end(name)
        pool.wait_nodes(0)
        pool.kubectl_scale(1)
        pool.workloads.wait("late", "Running")
        pool.end("late")
        pool.workloads.wait("late", "Succeeded")
        recorder.close()
        recorder.assert_one_pod_each([pool.workloads.uid(name) for name in (*on, "late")])
    pool.assert_undisturbed(*on, "late")
    assert pool.decisions("WorkloadsEvicted") == []


def test_after_drain_timeout_work_moves_as_a_fresh_attempt(pool: ScaledPool) -> None:
    pool.provide(replicas=2, slotsPerWorker=1, scaling={"drainTimeoutSeconds": 3})
    pool.wait_ready(2)
    (first,) = pool.run("stays").values()
    (second,) = pool.run("moves").values()
    pool.edit(slotsPerWorker=2)
    pool.kubectl_scale(1)
    (left,) = pool.wait_nodes(1)
    name = "moves" if left == first else "stays"
    pool.workloads.wait(name, "Running", attempts=2, workers=[left])
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


def test_scaling_up_again_keeps_the_workers_that_were_to_go(pool: ScaledPool) -> None:
    pool.provide(replicas=2, slotsPerWorker=1)
    before = pool.wait_ready(2)
    pool.run("a", "b")
    pool.kubectl_scale(0)
    until(
        lambda: all(MARK in n["metadata"].get("annotations", {}) for n in pool.nodes().values()), what="both are marked"
    )
    pool.kubectl_scale(3)
    pool.wait_ready(3)
    assert set(before) < set(pool.nodes())
    assert not any(MARK in n["metadata"].get("annotations", {}) for n in pool.nodes().values())
    assert [(row["had"], row["wanted"]) for row in pool.decisions("ScaleUp")] == [(0, 2), (2, 3)]
    assert len(pool.decisions("ScaleDownCancelled")) == 2
    assert pool.drains() == []


def test_what_people_cordoned_is_never_uncordoned(pool: ScaledPool) -> None:
    """It may be chosen (it takes nothing new), and stays cordoned when it is kept after all. What people want to keep
    is never chosen."""
    pool.provide(replicas=2, slotsPerWorker=1)
    mine, other = pool.wait_ready(2)
    pool.run("a", "b")
    pool.cluster.cordon(mine)
    until(lambda: pool.status().get("readyReplicas") == 1, what="the cordon is seen")
    pool.kubectl_scale(1)
    until(lambda: MARK in pool.nodes()[mine]["metadata"].get("annotations", {}), what="the cordoned one is chosen")
    pool.kubectl_scale(2)
    until(lambda: MARK not in pool.nodes()[mine]["metadata"].get("annotations", {}), what="it is kept")
    assert pool.nodes()[mine]["spec"]["unschedulable"]
    assert not pool.nodes()[other]["spec"].get("unschedulable")
    for node in (mine, other):
        pool.cluster.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"annotations": {f"{MARK}-disabled": "true"}}})
    pool.kubectl_scale(0)
    pool.wait_condition("Scaling", "False", "ScaleDownBlocked")
    assert len(pool.nodes()) == 2


def test_pods_of_others_keep_their_worker(pool: ScaledPool) -> None:
    pool.provide(replicas=1)
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


def test_a_worker_that_is_not_ready_is_reported_and_not_made_up_for(pool: ScaledPool) -> None:
    pool.provide(replicas=2, scaling={"readyTimeoutSeconds": 2})
    broken, _ = pool.wait_ready(2)
    pool.cluster.set_node_ready(broken, False)
    assert broken in pool.wait_condition("Scaling", "False", "WorkersNotReady")["message"]
    assert len(pool.nodes()) == 2
    pool.kubectl_scale(1)
    pool.wait_nodes(1)
    assert broken not in pool.nodes()
    pool.wait_condition("Scaling", "True", "Steady")


def test_without_a_provider_it_is_only_reported(pool: ScaledPool, nodes: Callable[..., list[str]]) -> None:
    nodes(1)
    pool.edit(replicas=5)
    message = pool.wait_condition("Scaling", "False", "NoProvider")["message"]
    assert message.startswith("5 wanted, 1 there")
    assert len(pool.nodes()) == 1


def test_a_pool_that_loses_its_provider_keeps_its_workers(pool: ScaledPool) -> None:
    pool.provide(replicas=1)
    (node,) = pool.wait_ready(1)
    pool.run("a")
    pool.kubectl_scale(0)
    until(lambda: pool.nodes()[node]["spec"].get("unschedulable"), what="it is cordoned")
    pool.edit(provider=None)
    until(lambda: not pool.nodes()[node]["spec"].get("unschedulable"), what="it is uncordoned")
    until(lambda: not pool.drains(), what="the drain is over")


# --- leaders die -----------------------------------------------------------------------------------------------------

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
    """SIGKILL at four moments. Exactly the wanted number is left, each worker was removed once, and no workload is
    disturbed."""
    other = env.start_operator(extra_env=QUICK)
    pool.provide(replicas=6)
    pool.wait_ready(6)
    with PodRecorder(pool.cluster, pool.workloads.namespace) as recorder:
        on = pool.run("a", "b", "c", run_for="12s")
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
    assert MARK not in left["metadata"].get("annotations", {})


# --- EC2 -------------------------------------------------------------------------------------------------------------


class CloudNodeController(threading.Thread):
    """What EC2 and the cloud controller manager do: instances of a group become nodes, and nodes go with them."""

    def __init__(self, cloud: MotoCloud, pool: ScaledPool) -> None:
        super().__init__(daemon=True)
        self._cloud = cloud
        self._pool = pool
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.5):
            self.follow()

    def follow(self) -> None:
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
    """An operator that has AWS credentials in its environment; the AWS is moto behind a proxy."""
    operator.terminate()
    with proxy_to(cloud.url) as proxy:
        credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        mine = env.start_operator(extra_env={**QUICK, **credentials, "AWS_ENDPOINT_URL": proxy.url})
        until(lambda: leads(mine), what="the operator leads", timeout=60)
        yield proxy
        mine.terminate()


@pytest.fixture
def group(cloud: MotoCloud, aws: AwsProxy, pool: ScaledPool) -> Iterator[ScaledPool]:
    """A pool over an Auto Scaling group of its name, which may have 8 instances."""
    cloud.make(pool.name, maximum=8)
    controller = CloudNodeController(cloud, pool)
    controller.start()
    provider = {"ec2AutoScalingGroup": {"name": pool.name, "region": REGION}}
    pool.edit(provider=provider, replicas=2, scaling={"scaleDownCooldownSeconds": 0}, slotsPerWorker=1)
    pool.wait_ready(2)
    yield pool
    controller.stop()


def test_an_auto_scaling_group_follows_the_pool(group: ScaledPool, cloud: MotoCloud, aws: AwsProxy) -> None:
    """Up to its maximum, through throttling; down by the chosen instances, one answer of a termination lost and one
    termination failing after the protection was removed; no workload disturbed."""
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
        on = group.run("a", "b")
        aws.faults.append(AwsFault("TerminateInstanceInAutoScalingGroup", done=True))
        aws.faults.append(AwsFault("TerminateInstanceInAutoScalingGroup", "InternalFailure", status=500))
        group.kubectl_scale(2)
        group.wait_ready(2)
        assert cloud.instances(group.name) == sorted(on.values())
        assert cloud.group(group.name)["DesiredCapacity"] == 2
        # An instance that is being waited for is taken back by the cloud: its drain ends, the other goes its way.
        group.kubectl_scale(0)
        until(lambda: len([d for d in group.drains() if d["cordoned_at"]]) == 2, what="both are cordoned")
        group.end("b")
        group.workloads.wait("b", "Succeeded")
        group.wait_nodes(1)
        cloud.vanish(group.name, on["a"])
        until(lambda: group.decisions("WorkerVanished"), what="it is told")
        group.wait_nodes(0)
        recorder.close()
    group.assert_undisturbed("b")
    removed = [row["instance"] for row in group.decisions("WorkerRemoved")]
    assert len(removed) == len(set(removed)) == 7
    assert aws.count("TerminateInstanceInAutoScalingGroup") == 7 + 1  # one failed and was asked again


def test_a_provider_that_hangs_delays_no_other_pool(
    pool: ScaledPool, cloud: MotoCloud, aws: AwsProxy, unique: str
) -> None:
    cloud.make(unique, size=1)
    answered = threading.Event()
    aws.faults.append(AwsFault("DescribeAutoScalingGroups", "Throttling", times=1000, until=answered))
    pool.edit(provider={"ec2AutoScalingGroup": {"name": unique, "region": REGION}}, replicas=3)
    until(lambda: aws.count("DescribeAutoScalingGroups"), what="AWS is asked")
    other = ScaledPool(pool.workloads, f"{unique}-other")
    pool.cluster.api.post(POOLS, pool_manifest(other.name, "niyanta-system", {NODE_LABEL: other.name}))
    try:
        other.provide(replicas=2)
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
