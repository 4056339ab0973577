"""Queue classes in Postgres follow the label keys that selectors name, and are deleted when nothing waits in them."""

from __future__ import annotations

import psycopg
import pytest

from niyanta.scheduler.periodic import class_upkeep
from niyanta.scheduler.periodic.class_upkeep import ClassUpkeep
from niyanta.settings import Settings
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest
from tests.scheduler.conftest import MakeLeader, SubmitRest

pytestmark = pytest.mark.store


@pytest.fixture
async def recovered(make_leader: MakeLeader) -> LeaderUnderTest:
    """A leader after recovery, without its loop."""
    leader = make_leader()
    await leader.recover()
    return leader


def upkeep(leader: LeaderUnderTest) -> ClassUpkeep:
    return ClassUpkeep(leader.state, store=leader.store)


async def finish(upkeep: ClassUpkeep) -> None:
    await upkeep.run()
    while upkeep._more:
        await upkeep.run()


async def test_rows_get_other_classes_when_a_selector_names_a_label(
    recovered: LeaderUnderTest, cluster: FakeCluster, submit_rest: SubmitRest
) -> None:
    uids = [*await submit_rest("a", labels={"app": "a"}), *await submit_rest("b", labels={"app": "b"})]
    assert len({row.queue_class for row in await recovered.rows(uids)}) == 1
    anti = {"anti": [{"workloadSelector": {"matchLabels": {"app": "a"}}}]}
    carrier = cluster.submit("carrier", affinity=anti)
    await recovered.take_in(carrier)
    await finish(upkeep(recovered))
    assert len({row.queue_class for row in await recovered.rows(uids)}) == 2
    await recovered.follow_changes()
    known = [recovered.backlog.find("acme", row.queue_class) for row in await recovered.rows(uids)]
    assert [one is not None and list(one.rows) for one in known] == [[uid] for uid in uids], "memory follows"


async def test_keys_that_only_the_leader_knows_are_written(
    recovered: LeaderUnderTest, cluster: FakeCluster, settings: Settings
) -> None:
    """Rows from before the queue classes have no keys in Postgres."""
    anti = {"anti": [{"workloadSelector": {"matchLabels": {"app": "a"}}, "scope": "Customer"}]}
    await recovered.take_in(cluster.submit("carrier", affinity=anti))
    with psycopg.connect(settings.dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM visible_label_keys")
        await finish(upkeep(recovered))
        found = connection.execute("SELECT reach, key FROM visible_label_keys").fetchall()
    assert found == [("namespace/team", "app")], "acme is the customer of a wildcard"


async def test_more_deltas_than_one_fold_takes_are_folded_in_one_round(
    recovered: LeaderUnderTest, submit_rest: SubmitRest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_upkeep, "FOLD_AT_ONCE", 10_000)
    for number in range(5):
        await submit_rest(f"job-{number}")
    await finish(upkeep(recovered))
    with psycopg.connect(settings.dsn, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM queue_class_deltas").fetchone() == (0,)
    assert await recovered.store.wrong_class_counts() == []
