"""An outage of Postgres under load: placement pauses, no workload is lost, no workload runs twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import PodRecorder, Workloads
from testing.waiting import until

pytestmark = pytest.mark.e2e

Nodes = Callable[..., list[str]]


@pytest.mark.parametrize(("how", "seconds"), [("stopped", 20.0), ("hung", 12.0)])
def test_work_continues_after_an_outage_of_postgres(
    env: Environment, workloads: Workloads, nodes: Nodes, operator: OperatorProcess, how: str, seconds: float
) -> None:
    """One workload runs for ever, some end during the outage, some wait for room, and some are created in it."""
    nodes(1, cpu="4")
    endless = workloads.apply("endless", cpu="1")
    lasting = workloads.create(
        workloads.manifest(f"w{i:02}", cpu="300m", life={"run_for": "3s"}, backoffLimit=0) for i in range(40)
    )
    with PodRecorder(workloads.cluster, workloads.namespace) as recorder:
        until(lambda: workloads.database.count(lasting, "RUNNING") >= 8, what="some run")
        if how == "stopped":
            env.postgres.stop()
        else:
            env.postgres.pause()
        gone_at = time.monotonic()
        try:
            manifests = [workloads.manifest(f"m{i:02}", cpu="100m", life={"run_for": "1s"}) for i in range(20)]
            workloads.cluster.apply(*manifests)
            running = {pod["metadata"]["uid"] for pod in workloads.live_pods(endless)}
            until(lambda: time.monotonic() - gone_at > seconds, what="the outage is over", timeout=seconds + 30)
            assert operator.running
            assert operator.http("/healthz")[0] == 200
            assert {pod["metadata"]["uid"] for pod in workloads.live_pods(endless)} == running
            # Ended pods stay until their outcome is in Postgres.
            ended = [p for p in workloads.pods() if p["status"]["phase"] == "Succeeded"]
            assert any(pod["metadata"].get("finalizers") for pod in ended)
        finally:
            if how == "stopped":
                env.postgres.start()
            else:
                env.postgres.resume()
        back = time.monotonic()
        uids = [*lasting, *(workloads.uid(manifest["metadata"]["name"]) for manifest in manifests)]
        until(
            lambda: workloads.database.count(uids, "SUCCEEDED") == len(uids),
            what="all succeeded",
            timeout=120,
            interval=0.5,
            tolerate=True,
        )
        print(
            f"\nPostgres {how} for {seconds:g} s: all {len(uids)} done {time.monotonic() - back:.1f} s after its return"
        )
        recorder.close()
        recorder.assert_one_pod_each(uids)
    assert operator.running, "the operator survives an outage of Postgres without a restart"
    assert workloads.status("endless")["phase"] == "Running"
    row = workloads.database.row(endless)
    assert row is not None
    assert row["attempt"] == 1
