"""The cache: pods are made of the spec that was checked, and the memory of all workloads is within one budget."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import orjson
import pytest

from niyanta.engine.queue.order import QueueSettings
from niyanta.engine.types import Subject
from niyanta.lifecycle import Door, Phase
from niyanta.resources.compile.requirements import parse_spec
from niyanta.scheduler.memory.memory_budget import MemoryBudget
from niyanta.scheduler.memory.tracked_workload import BASE_BYTES, TrackedWorkload
from niyanta.scheduler.memory.workload_cache import WorkloadCache
from niyanta.store.postgres.pool import Pool
from niyanta.store.row_mapping import new_row
from tests.fakes import objects
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.memory.test_memory_budget import MIB, incompressible
from tests.scheduler.test_hostile_rows import HOST_PATH, spec, write
from tests.store.make import intake

REPLACE_SPEC = b"UPDATE workloads SET spec = %s::jsonb, generation = generation + 1 WHERE id = %s"
TOUCH = (
    b"UPDATE workload_state SET version = version + 1, changed = pg_current_xact_id(), writer = 0 WHERE id = %s::uuid"
)


def tracked_of(namespace: str = "team", customer: str = "acme", phase: Phase = Phase.PENDING) -> TrackedWorkload:
    raw = incompressible(56 * 1024)
    row = new_row(intake(spec=raw, namespace=namespace, customer=customer, door=Door.REST), 1, 1)
    return TrackedWorkload(replace(row, phase=phase), parse_spec(raw), None, Subject(namespace, customer))


@pytest.mark.store
@pytest.mark.parametrize("fields", [HOST_PATH, {"serviceAccountName": "controller"}], ids=["hostPath", "account"])
async def test_a_spec_that_was_replaced_after_the_check_is_checked_before_it_is_placed(
    leader: LeaderUnderTest, cluster: FakeCluster, pool: Pool, fields: dict[str, object]
) -> None:
    large = objects.restricted(objects.workload("", cpu="100")["spec"])
    id_ = (await write(leader, honest={"spec": large}))["honest"]
    await until(lambda: leader.workloads.get(id_) and leader.tracked(id_).eligible, "it was checked")
    async with pool.transaction() as connection:
        await connection.execute(REPLACE_SPEC, (orjson.dumps(spec(**fields)).decode(), id_))
        await connection.execute(TOUCH, (id_,))
    leader.work_queue.put_hint()
    await leader.reaches(id_, Phase.HELD)
    cluster.add_node("big", cpu="200")
    leader.work_queue.put_capacity()
    await leader.reaches(cluster.submit("bystander", cpu="100m"), Phase.SCHEDULED)
    assert not cluster.live_pods(id_)


@pytest.mark.store
async def test_a_replaced_spec_that_is_allowed_is_placed_as_it_is_now(
    leader: LeaderUnderTest, cluster: FakeCluster, pool: Pool
) -> None:
    large = objects.restricted(objects.workload("", cpu="100")["spec"])
    id_ = (await write(leader, honest={"spec": large}))["honest"]
    await until(lambda: leader.workloads.get(id_) and leader.tracked(id_).eligible, "it was checked")
    async with pool.transaction() as connection:
        await connection.execute(REPLACE_SPEC, (orjson.dumps(spec(hostname="other")).decode(), id_))
        await connection.execute(TOUCH, (id_,))
    leader.work_queue.put_hint()
    await leader.reaches(id_, Phase.SCHEDULED)  # its requests are the new ones
    await leader.pods_of(id_)
    assert leader.tracked(id_).full_spec().template.manifest()["spec"]["hostname"] == "other"


@pytest.mark.unit
def test_a_later_row_does_not_bring_a_spec() -> None:
    tracked = tracked_of()
    packed = tracked.packed
    tracked.row = replace(tracked.row, generation=2, spec=spec(**HOST_PATH))
    assert tracked.packed is packed
    assert not tracked.row.spec


@pytest.mark.unit
def test_namespaces_and_customers_share_one_budget_and_the_last_quarter_is_for_small_customers() -> None:
    budget = MemoryBudget(MIB)
    for number in range(1000):
        account = f"customer-{number % 4}", f"ns-{number % 16}"
        if budget.has_room(account, 10_000):
            budget.count(str(number), account, 10_000)
    assert budget.total <= 1.5 * MIB
    assert budget.has_room(("small", "ns-1"), 10_000)
    one = MemoryBudget(MIB)
    for number in range(1000):
        account = "customer", f"ns-{number}"
        if one.has_room(account, 10_000):
            one.count(str(number), account, 10_000)
    assert one.total <= 1.5 * MIB
    for number in range(1000):
        budget.forget(str(number))
    assert budget.total == 0
    assert budget.used("customer-1", "ns-1") == 0


@pytest.mark.unit
def test_six_hundred_large_templates_in_many_namespaces_take_no_more_than_the_budget() -> None:
    cache = WorkloadCache(QueueSettings(), budget_bytes=4 * MIB)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(600):
        cache.put(tracked_of(namespace=f"ns-{number % 20}", customer=f"customer-{number % 10}"))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(cache.unloaded) > 300
    assert grown < 2 * 4 * MIB
    assert abs(cache.memory.total - grown) < 2 * MIB


@pytest.mark.unit
def test_bound_workloads_are_counted_and_finished_ones_keep_no_spec() -> None:
    cache = WorkloadCache(QueueSettings(), budget_bytes=MIB)
    bound = tracked_of(phase=Phase.RUNNING)
    cache.put(bound)
    assert cache.used_bytes("acme", "team") > 40_000
    bound.row = replace(bound.row, phase=Phase.FAILED)
    cache.note_phase(bound)
    assert not bound.packed
    assert cache.used_bytes("acme", "team") < 2 * BASE_BYTES
    cache.put(tracked_of(phase=Phase.SUCCEEDED))
    assert cache.used_bytes("acme", "team") < 4 * BASE_BYTES
