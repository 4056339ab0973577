"""The leader's memory: templates are packed, and a customer's waiting workloads in a namespace share a budget."""

from __future__ import annotations

import base64
import json
import tracemalloc
from random import Random
from typing import Any

import pytest

from niyanta.engine.types import Subject
from niyanta.lifecycle import Door, Phase
from niyanta.resources.compile.requirements import parse_spec
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.store.row_mapping import new_row
from tests.fakes import objects
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import until
from tests.scheduler.conftest import MakeLeader, SubmitRest
from tests.store.make import intake

KIB = 1024
MIB = 1024 * KIB


def dense_spec(size: int = 12 * KIB) -> dict[str, Any]:
    """A spec whose parsed form takes a multiple of its text."""
    spec: dict[str, Any] = objects.workload("")["spec"]
    spec["template"]["spec"]["containers"][0]["args"] = [""] * (size // 3)
    return json.loads(json.dumps(spec))  # type: ignore[no-any-return]


def incompressible(size: int, **fields: Any) -> dict[str, Any]:
    """A spec that hardly gets smaller when it is packed."""
    spec: dict[str, Any] = objects.workload("", **fields)["spec"]
    text = base64.b64encode(Random(0).randbytes(size * 3 // 4)).decode()
    spec["template"]["metadata"] = {"annotations": {"x": text}}
    return spec


@pytest.mark.unit
def test_dense_templates_take_little_memory() -> None:
    def tracked() -> TrackedWorkload:
        raw = dense_spec()
        row = new_row(intake(spec=raw), 1, 1)
        return TrackedWorkload(row, parse_spec(raw), None, Subject("team", "acme"))

    kept = [tracked()]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept += [tracked() for _ in range(30)]
    grown = (tracemalloc.get_traced_memory()[0] - before) / 30
    tracemalloc.stop()
    assert grown < 16 * KIB
    assert abs(kept[-1].size() - grown) < 8 * KIB
    assert len(kept[0].full_row().spec["template"]["spec"]["containers"][0]["args"]) == 12 * KIB // 3


@pytest.mark.unit
def test_a_spec_is_whole_again_when_it_is_needed() -> None:
    spec = objects.workload("", backoffLimit=4)["spec"]
    row = new_row(intake(spec=spec, door=Door.REST), 1, 1)
    tracked = TrackedWorkload(row, parse_spec(spec), None, Subject("team", "acme"))
    assert tracked.spec.backoff_limit == 4
    assert tracked.full_spec() == parse_spec(spec)
    assert tracked.full_row() == row
    assert not tracked.row.spec


@pytest.mark.store
async def test_workloads_beyond_the_budget_are_held_until_there_is_room_and_other_tenants_are_not_affected(
    make_leader: MakeLeader, cluster: FakeCluster
) -> None:
    leader = make_leader(customer_memory_budget=MIB)
    await leader.start()
    uids = [cluster.submit(f"large-{number}", **incompressible(56 * KIB, cpu="8")) for number in range(30)]
    row = await leader.has_reason(uids[-1], "CustomerBudgetExceeded")
    assert row.phase is Phase.HELD
    assert (await leader.has_reason(uids[0], "Unschedulable")).phase is Phase.PENDING
    assert leader.workloads.used_bytes("acme", "team") < 1.1 * MIB
    other = cluster.submit("bystander", namespace="other", **incompressible(56 * KIB))
    await leader.reaches(other, Phase.SCHEDULED)
    for uid in uids[:15]:
        cluster.delete_object(uid)
    await leader.has_reason(uids[-1], "Unschedulable")


@pytest.mark.store
async def test_rest_rows_beyond_the_budget_stay_in_postgres_until_there_is_room(
    make_leader: MakeLeader, cluster: FakeCluster, submit_rest: SubmitRest
) -> None:
    leader = make_leader(customer_memory_budget=MIB)
    await leader.start()
    spec = objects.restricted(incompressible(56 * KIB, cpu="10m"))
    ids = await submit_rest(*(f"large-{number}" for number in range(30)), spec=spec)
    leader.work_queue.put_hint()
    done: set[str] = set()

    async def all_done() -> bool:
        """Placed ones are counted too, so the others are read when some have ended."""
        for id_ in set(ids) - done:
            if cluster.live_pods(id_):
                await leader.is_running(id_)
                leader.kubelet.succeed(id_)
                done.add(id_)
        return len(done) == len(ids)

    await until(all_done, "all were placed")
