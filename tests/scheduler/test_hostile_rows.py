"""Rows that someone wrote straight into Postgres: none becomes a pod that its author could not have made through a
door, and none stops the leader. Rows of honest authors are held and released as Customers and namespaces change."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.cluster.state.worker_info import PoolInfo
from niyanta.lifecycle import Door, Phase
from niyanta.scheduler.memory.tracked_workload import packed_spec
from niyanta.store.postgres.pool import Pool
from tests.fakes import objects
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, until
from tests.scheduler.conftest import MakeLeader, SubmitRest
from tests.store.make import intake

pytestmark = pytest.mark.store


def spec(**pod: Any) -> dict[str, Any]:
    """A spec that the REST door accepts, with further fields of the pod."""
    found = objects.restricted(objects.workload("")["spec"])
    found["template"]["spec"] |= pod
    return found


HOST_PATH = {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}

HOSTILE: dict[str, dict[str, Any]] = {
    "kube-system": {"namespace": "kube-system"},
    "operator-namespace": {"namespace": "niyanta-system"},
    "host-path": {"spec": spec(**HOST_PATH)},
    "privileged": {"spec": objects.workload("")["spec"]},
    "service-account": {"spec": spec(serviceAccountName="controller")},
    "tolerates-everything": {"spec": spec(tolerations=[{"operator": "Exists"}])},
    "other-customers-namespace": {"namespace": "theirs"},
    "customer-of-others": {"customer": "beta"},
    "customer-in-spec": {"spec": {**spec(), "customer": "beta"}},
    "no-such-customer": {"customer": "ghost"},
    "garbage": {"spec": {"template": 5}},
    "no-object": {"door": Door.KUBERNETES},
    "no-object-in-kube-system": {"door": Door.KUBERNETES, "namespace": "kube-system"},
}


async def write(leader: LeaderUnderTest, **rows: dict[str, Any]) -> dict[str, str]:
    """Write rows past both doors; returns their ids by name."""
    items = [intake(**{"door": Door.REST, "spec": spec(), "name": name, **fields}) for name, fields in rows.items()]
    await leader.store.take_in(items, epoch=None)
    leader.work_queue.put_hint()
    return dict(zip(rows, (item.id for item in items), strict=True))


async def bystander_is_placed(leader: LeaderUnderTest) -> None:
    uid = leader.cluster.submit("bystander", namespace="other", cpu="100m")
    await leader.reaches(uid, Phase.SCHEDULED)
    await leader.pods_of(uid)


@pytest.fixture
def cluster(cluster: FakeCluster) -> FakeCluster:
    cluster.set_customer("beta", "theirs")
    return cluster


async def test_no_hostile_row_becomes_a_pod_and_honest_ones_beside_them_do(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    ids = await write(leader, **HOSTILE)
    honest = await write(leader, honest={})
    await leader.reaches(honest["honest"], Phase.SCHEDULED)
    await bystander_is_placed(leader)

    async def settled() -> bool:
        rows = await leader.rows([ids[name] for name in ids if not name.startswith("no-object")])
        return all(row.phase in (Phase.HELD, Phase.FAILED) for row in rows)

    await until(settled, "every hostile row is held")
    assert not any(cluster.live_pods(id_) for id_ in ids.values())


async def test_hostile_rows_that_claim_to_be_placed_get_no_pods_from_the_next_leader(
    make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    first = make_leader()
    ids = await write(first, **HOSTILE)
    async with pool.connection() as connection:
        await connection.execute(
            b"UPDATE workload_state SET status = 'SCHEDULED', workers = '{n1}', attempt = 1, writer = 99"
        )
    await first.close()
    second = make_leader()
    await second.start()
    await bystander_is_placed(second)

    async def refused() -> bool:
        rows = await second.rows([ids[name] for name in ids if name not in ("garbage", "no-object-in-kube-system")])
        return all(row.phase in (Phase.PENDING, Phase.HELD, Phase.FAILED, Phase.CANCELLED) for row in rows)

    await until(refused, "no hostile row stays placed")
    assert not any(cluster.live_pods(id_) for id_ in ids.values())


async def test_a_row_of_the_kubernetes_door_is_believed_as_its_object_describes_it(
    make_leader: MakeLeader, cluster: FakeCluster, pool: Pool
) -> None:
    first = make_leader()
    await first.recover()
    changed, forged = cluster.submit("changed"), cluster.submit("forged")
    await first.take_in(changed, forged)
    text = '{"template": {"spec": {"containers": [{"name": "x", "image": "theirs"}], "hostPID": true}}}'
    async with pool.connection() as connection:
        await connection.execute("UPDATE workloads SET replicas = 2 WHERE id = %s", (forged,))
        await connection.execute("UPDATE workloads SET spec = %s::jsonb WHERE id = %s", (text, changed))
    second = make_leader()
    await second.start()
    await second.reaches(changed, Phase.SCHEDULED)
    await second.pods_of(changed)
    assert second.tracked(changed).full_spec().template.spec.containers[0].name == "main"
    row = await second.reaches(forged, Phase.HELD)
    assert (row.reason, "replicas" in row.message) == ("ObjectMismatch", True)


FOLLOWED = b"""
UPDATE workload_state SET version = version + 1, changed = pg_current_xact_id(), writer = 0 WHERE id = %s
"""

CHANGES: dict[str, bytes] = {
    "namespace": b"namespace = 'theirs'",
    "name": b"name = 'other'",
    "generation": b"generation = 9",
    "replicas": b"replicas = 2, generation = 9",
    "door": b"door = 'rest'",
}


@pytest.mark.parametrize("changed", [*CHANGES, "priority"])
async def test_a_followed_change_of_a_row_does_not_change_what_its_object_said(
    leader: LeaderUnderTest, cluster: FakeCluster, pool: Pool, changed: str
) -> None:
    uid = cluster.submit("job", cpu="8")
    await leader.has_reason(uid, "Unschedulable")
    async with pool.transaction() as connection:
        if changed in CHANGES:
            await connection.execute(b"UPDATE workloads SET " + CHANGES[changed] + b" WHERE id = %s", (uid,))
        else:
            await connection.execute(b"UPDATE workload_state SET priority = 77 WHERE id = %s", (uid,))
        await connection.execute(FOLLOWED, (uid,))
    before = leader.tracked(uid).row.version
    leader.work_queue.put_hint()
    await until(lambda: leader.tracked(uid).row.version > before, "the row is followed")
    cluster.add_node("n2", cpu="16")
    row = await leader.has_reason(uid, "ObjectMismatch")
    assert row.phase is Phase.HELD
    assert not cluster.live_pods(uid)


async def test_a_spec_that_is_not_its_objects_is_not_placed(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    uid = cluster.submit("job", cpu="8")
    await leader.has_reason(uid, "Unschedulable")
    leader.tracked(uid).packed = packed_spec(spec(hostPID=True))
    cluster.add_node("n2", cpu="16")
    row = await leader.has_reason(uid, "ObjectMismatch")
    assert (row.phase, row.message.endswith(": spec")) == (Phase.HELD, True)
    assert not cluster.live_pods(uid)


async def test_a_row_that_claims_to_be_placed_gets_pods_on_workers_of_its_customer_alone(
    leader: LeaderUnderTest, cluster: FakeCluster, pool: Pool
) -> None:
    cluster.set_pools(
        PoolInfo("theirs", "1", match_labels=(("t", "1"),), customers=frozenset({"beta"})), PoolInfo("pool-a", "2")
    )
    cluster.add_node("theirs", labels={"t": "1"})
    claims = {"nowhere": "{control-plane}", "theirs": "{theirs}", "many": "{n1,n1,n1}"}
    uids = {name: cluster.submit(name, cpu="8") for name in claims}
    for uid in uids.values():
        await leader.has_reason(uid, "Unschedulable")
    for name, workers in claims.items():
        async with pool.transaction() as connection:
            await connection.execute(
                b"UPDATE workload_state SET status = 'SCHEDULED', attempt = 1, workers = %s WHERE id = %s",
                (workers, uids[name]),
            )
            await connection.execute(FOLLOWED, (uids[name],))
    leader.work_queue.put_hint()
    for uid in uids.values():
        await until(
            lambda uid=uid: any(row.reason == "WorkerChanged" for row in cluster.statuses[uid]),
            "it is back in the queue",
        )
        assert not cluster.live_pods(uid)


async def test_rest_rows_follow_their_customer_out_of_the_queue_and_back(
    leader: LeaderUnderTest, cluster: FakeCluster, submit_rest: SubmitRest
) -> None:
    cluster.set_customer("acme", "team", maxConcurrent=1)
    ids = await submit_rest(*(f"job-{number}" for number in range(3)), spec=spec() | {"priority": 0})
    leader.work_queue.put_hint()
    await until(lambda: sum(bool(cluster.live_pods(i)) for i in ids) == 1, "one runs")
    cluster.delete_customer("acme")

    async def held() -> int:
        return sum(row.phase is Phase.HELD for row in await leader.rows(ids))

    await until(lambda: _is(held, 2), "the waiting ones are held")
    cluster.set_customer("acme", "team")
    for id_ in ids:
        await leader.reaches(id_, Phase.SCHEDULED)


async def _is(count: Any, wanted: int) -> bool:
    return bool(await count() == wanted)


async def test_rest_rows_whose_customer_went_while_nobody_led_are_held_and_released_when_it_is_back(
    make_leader: MakeLeader, cluster: FakeCluster, submit_rest: SubmitRest
) -> None:
    (id_,) = await submit_rest("job")
    cluster.delete_customer("acme")
    leader = make_leader()
    await leader.start()
    await leader.reaches(id_, Phase.HELD)
    cluster.set_customer("acme", "*", "team")
    await leader.reaches(id_, Phase.SCHEDULED)


async def test_workloads_of_both_doors_wait_for_the_label_of_their_namespace(
    leader: LeaderUnderTest, cluster: FakeCluster, submit_rest: SubmitRest
) -> None:
    cluster.enabled_namespaces["team"] = False
    ids = [cluster.submit("job"), *await submit_rest("rest")]
    leader.work_queue.put_hint()
    for id_ in ids:
        row = await leader.has_reason(id_, "NamespaceNotEnabled")
        assert row.phase is Phase.HELD
        assert "kubectl label namespace team niyanta.io/enabled=true" in row.message
    cluster.enabled_namespaces["team"] = True
    leader.work_queue.put_defaults({"team"})
    for id_ in ids:
        await leader.reaches(id_, Phase.SCHEDULED)


async def test_a_workload_whose_namespace_loses_its_label_is_not_dispatched(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job", cpu="8")
    await leader.has_reason(uid, "Unschedulable")
    cluster.enabled_namespaces["team"] = False  # nothing tells the leader
    cluster.add_node("n2", cpu="16")
    await leader.has_reason(uid, "NamespaceNotEnabled")
    assert not cluster.live_pods(uid)
