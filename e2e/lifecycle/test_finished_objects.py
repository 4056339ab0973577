"""Finished objects on a real control plane: the oldest beyond a limit are deleted, the others and all rows stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.conftest import QUICK, leads
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.scenarios.workloads import Workloads, metric
from testing.waiting import until

pytestmark = pytest.mark.e2e

MakeNodes = Callable[..., list[str]]

KEPT = 20
COUNT = 200


@pytest.fixture
def operator(env: Environment, operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """An operator with a small limit of its own, which ends with the test."""
    operator.terminate(timeout=60)
    limits = {
        "NIYANTA_FINISHED_OBJECTS_PER_NAMESPACE": str(KEPT),
        "NIYANTA_FINISHED_OBJECT_DELETIONS_PER_SECOND": "200",
    }
    mine = env.start_operator(extra_env={**QUICK, **limits})
    until(lambda: leads(mine), what="the operator leads", timeout=60)
    yield mine
    mine.terminate(timeout=60)


def test_a_namespace_keeps_the_objects_that_finished_last_and_every_row(
    workloads: Workloads, nodes: MakeNodes, operator: OperatorProcess
) -> None:
    nodes(4, cpu="64", pods=110)
    manifests = [workloads.manifest(f"w{number}", life={"run_for": "10ms"}) for number in range(COUNT)]
    uids = workloads.create(manifests)
    until(lambda: workloads.database.count(uids, "SUCCEEDED") == COUNT, what="all have finished", timeout=180)
    until(lambda: len(workloads.all()) == KEPT, what="the objects beyond the limit are deleted", timeout=60)
    ends = {uid: row["finished_at"] for uid in uids if (row := workloads.database.row(uid)) is not None}
    assert len(ends) == COUNT, "every row stays"
    kept = {obj["metadata"]["uid"] for obj in workloads.all()}
    assert min(ends[uid] for uid in kept) >= max(at for uid, at in ends.items() if uid not in kept)
    assert workloads.database.count(uids, "SUCCEEDED") == COUNT, "a deletion cancels nothing"
    deleted = metric(operator.metrics(), "niyanta_finished_objects_deleted_total", cause="namespace_limit")
    assert deleted == COUNT - KEPT
    until(lambda: metric(operator.metrics(), "niyanta_finished_objects") >= KEPT, what="the gauge shows the kept ones")
    # A status may be seconds behind its row.
    until(
        lambda: all(obj.get("status", {}).get("phase") == "Succeeded" for obj in workloads.all()),
        what="the kept ones say that they succeeded",
        timeout=60,
    )
    until(lambda: len(workloads.pods()) <= KEPT, what="the pods of deleted objects are gone", timeout=120)
