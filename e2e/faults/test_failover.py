"""Operators that die or stop while they place many Workloads: no workload is lost, and none runs twice.

Each test begins with one leader and may leave a dead one; the fixture `operator` starts another for the next test.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from e2e.conftest import QUICK, leads
from testing.cluster.api_client import JSON, Api, ApiError
from testing.cluster.cluster import Kind
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import EPOCH, PodRecorder, Workloads
from testing.waiting import until

pytestmark = pytest.mark.e2e

Nodes = Callable[..., list[str]]
BURST = 100


def wait_for_a_burst(workloads: Workloads, nodes: Nodes, *, run_for: str) -> list[str]:
    """Creates BURST Workloads and, when all are pending, a node for them all; returns their UIDs."""
    uids = workloads.create(
        workloads.manifest(f"w{i:03}", cpu="10m", memory="1Mi", life={"run_for": run_for}) for i in range(BURST)
    )
    until(lambda: workloads.database.count(uids, "PENDING") == BURST, what="all are taken in")
    nodes(1, cpu="64", pods=BURST + 10)
    return uids


def when_committed(env: Environment, uids: list[str], act: Callable[[], None]) -> None:
    """Calls `act` as soon as the first placements are committed."""
    text = "SELECT count(*) FROM workload_state WHERE id = ANY(%s::uuid[]) AND status <> 'PENDING'"
    with psycopg.connect(env.dsn, autocommit=True) as connection:

        def begun() -> bool:
            found = connection.execute(text, (uids,)).fetchone()
            return found is not None and found[0] > 0

        until(begun, what="the first placements are committed", interval=0.001)
        act()


def standby(env: Environment) -> OperatorProcess:
    """Starts a second operator, which is ready and does not lead."""
    return env.start_operator(f"standby-{secrets.token_hex(2)}", extra_env=QUICK)


def assert_all_succeeded_once(workloads: Workloads, uids: list[str], recorder: PodRecorder) -> None:
    until(
        lambda: workloads.database.count(uids, "SUCCEEDED") == len(uids),
        what="all succeeded",
        timeout=120,
        interval=0.5,
    )
    recorder.close()
    recorder.assert_one_pod_each(uids)
    attempts = workloads.database.query(
        "SELECT workload_id, attempt, outcome FROM attempts WHERE workload_id = ANY(%(ids)s::uuid[])", ids=uids
    )
    assert [a for a in attempts if (a["attempt"], a["outcome"]) != (1, "Succeed")] == []
    assert len(attempts) == len(uids)


def test_an_operator_killed_between_commit_and_apply_is_continued_by_the_next(
    env: Environment, workloads: Workloads, nodes: Nodes, operator: OperatorProcess
) -> None:
    """SIGKILL when placements are committed and most of their pods are not yet created. The next leader creates the
    missing pods of the same attempts, and none again of those that have ended."""
    with PodRecorder(workloads.cluster, workloads.namespace) as recorder:
        uids = wait_for_a_burst(workloads, nodes, run_for="2s")
        when_committed(env, uids, operator.sigkill)
        committed = BURST - workloads.database.count(uids, "PENDING")
        made = len(workloads.pods())
        assert made < committed, "the operator was killed too late for this test"
        env.start_operator(extra_env=QUICK)
        assert_all_succeeded_once(workloads, uids, recorder)
    print(f"\nkilled with {committed} placements committed and {made} pods made")


def fence_history(api: Api, namespace: str) -> JSON:
    found = api.get(f"/api/v1/namespaces/{namespace}/configmaps/niyanta-fence")
    return {"epoch": int(found["data"]["epoch"]), "version": int(found["metadata"]["resourceVersion"])}


def a_pod_of(pods: list[JSON], epoch: int) -> JSON:
    """The manifest of a pod that a leader of `epoch` would create."""
    pod = pods[0]
    meta = {key: pod["metadata"][key] for key in ("namespace", "labels", "ownerReferences")}
    labels = {**meta["labels"], EPOCH: str(epoch)}
    spec = {key: pod["spec"][key] for key in ("nodeName", "restartPolicy")}
    containers = [{"name": "main", "image": "registry.invalid/none"}]
    return {"metadata": {**meta, "labels": labels, "name": "late"}, "spec": {**spec, "containers": containers}}


def test_a_leader_stopped_beyond_its_lease_writes_nothing_more(
    env: Environment, workloads: Workloads, nodes: Nodes, operator: OperatorProcess
) -> None:
    """SIGSTOP when a few of many pods are created, SIGCONT when another operator leads: the old leader exits, and after
    the fence was raised there is no pod and no commit of its epoch."""
    other = standby(env)
    old = workloads.database.leader()["epoch"]
    with PodRecorder(workloads.cluster, workloads.namespace) as recorder:
        uids = wait_for_a_burst(workloads, nodes, run_for="1s")
        until(lambda: len(recorder.created) >= 3, what="the first pods are created", interval=0.002)
        operator.sigstop()
        made = len(recorder.created)
        until(lambda: leads(other), what="the standby leads", timeout=60)
        fence = until(
            lambda: f if (f := fence_history(workloads.cluster.api, env.namespace))["epoch"] > old else None,
            what="the fence is raised",
        )
        assert fence["epoch"] == workloads.database.leader()["epoch"]
        operator.sigcont()
        assert operator.wait_exit() == 1
        assert_all_succeeded_once(workloads, uids, recorder)
    late = [
        meta["name"]
        for meta in recorder.created
        if meta["labels"][EPOCH] == str(old) and int(meta["resourceVersion"]) > fence["version"]
    ]
    assert not late, f"created after the fence was raised: {late}"
    assert {meta["labels"][EPOCH] for meta in recorder.created} == {str(old), str(fence["epoch"])}, "both made pods"
    print(f"\nstopped when {made} of {BURST} pods were made")
    commits = {
        row["epoch"]: row
        for row in workloads.database.query(
            """SELECT epoch, min(at) AS first, max(at) AS last FROM workload_events
                WHERE workload_id = ANY(%(ids)s::uuid[]) GROUP BY epoch""",
            ids=uids,
        )
    }
    assert commits[old]["last"] < commits[fence["epoch"]]["first"]


def test_a_late_create_of_an_old_leader_is_refused_by_the_api_server(
    env: Environment, workloads: Workloads, nodes: Nodes
) -> None:
    """With the operator's ServiceAccount, a pod of an older epoch is refused and one of the current epoch accepted."""
    nodes(1)
    uid = workloads.apply("owner")
    workloads.wait("owner", "Running")
    epoch = workloads.database.leader()["epoch"]
    api = Api(env.operator_kubeconfig())
    path = f"/api/v1/namespaces/{workloads.namespace}/pods?dryRun=All"
    pods = workloads.pods(uid)
    api.post(path, a_pod_of(pods, epoch))
    with pytest.raises(ApiError, match="comes from a leader that has been replaced") as refused:
        api.post(path, a_pod_of(pods, epoch - 1))
    assert refused.value.status == 403


def test_a_deleted_fence_is_restored(env: Environment, workloads: Workloads, nodes: Nodes) -> None:
    """Without its ConfigMap the API server refuses all pods of the operator, until the leader has restored it."""
    nodes(1)
    path = f"/api/v1/namespaces/{env.namespace}/configmaps/niyanta-fence"
    before = fence_history(workloads.cluster.api, env.namespace)
    workloads.cluster.api.delete(path)
    uid = workloads.apply("unlucky", backoffLimit=0)
    workloads.wait("unlucky", "Running")
    assert fence_history(workloads.cluster.api, env.namespace)["epoch"] == before["epoch"]
    row = workloads.database.row(uid)
    assert row is not None
    assert row["failures"] == 0


def test_the_leader_outlives_an_api_server_that_hangs_during_a_burst(
    env: Environment, workloads: Workloads, nodes: Nodes, operator: OperatorProcess
) -> None:
    """SIGSTOP to the API server for 6 s, which is longer than the lease and the timeout of requests: the leader keeps
    its lease, repeats creates whose answers were lost, and each workload runs once."""
    if env.cluster.kind is not Kind.KWOK:
        pytest.skip("the API server is not a process of this machine")
    server = env.cluster.api_server()
    epoch = workloads.database.leader()["epoch"]
    with PodRecorder(workloads.cluster, workloads.namespace) as recorder:
        uids = wait_for_a_burst(workloads, nodes, run_for="1s")
        when_committed(env, uids, server.suspend)
        try:
            stopped = time.monotonic()
            until(lambda: time.monotonic() - stopped > 6, what="the API server has hung for 6 s")
        finally:
            server.resume()
        assert_all_succeeded_once(workloads, uids, recorder)
    assert operator.running
    assert workloads.database.leader()["epoch"] == epoch


def database_time(workloads: Workloads) -> Any:
    return workloads.database.query("SELECT clock_timestamp() AS now")[0]["now"]


@pytest.mark.parametrize(("how", "most"), [("killed", 15.0), ("asked to end", 10.0)])
def test_another_operator_takes_over(
    env: Environment,
    workloads: Workloads,
    nodes: Nodes,
    operator: OperatorProcess,
    record_property: Callable[[str, object], None],
    how: str,
    most: float,
) -> None:
    """The first commit of the new epoch comes within 15 s of a SIGKILL, and sooner after an orderly end."""
    other = standby(env)
    nodes(1)
    workloads.apply("before")
    workloads.wait("before", "Running")
    old = workloads.database.leader()["epoch"]
    begun = database_time(workloads)
    if how == "killed":
        operator.sigkill()
    else:
        assert operator.terminate() == 0
    uids = workloads.create([workloads.manifest(f"after{i}") for i in range(5)])

    def first_commit() -> Any:
        text = "SELECT min(at) AS at FROM workload_events WHERE workload_id = ANY(%(ids)s::uuid[]) AND epoch > %(old)s"
        return workloads.database.query(text, ids=uids, old=old)[0]["at"]

    seconds = (until(first_commit, what="the first commit under a new epoch", timeout=60) - begun).total_seconds()
    print(f"\nleader {how}: first commit under the new epoch after {seconds:.1f} s")
    record_property("seconds_to_first_commit", round(seconds, 1))
    for i in range(5):
        workloads.wait(f"after{i}", "Running")
    assert leads(other)
    assert workloads.status("before")["attempts"] == 1
    assert seconds < most
