"""Reviews: a change that concerns many workloads is followed in bounded slices, fair between namespaces."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.lifecycle import Phase
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.intake import object_to_row, reviews
from niyanta.store.rows import WorkloadRow
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


@pytest.fixture
async def leader(make_leader: MakeLeader) -> LeaderUnderTest:
    """Driven by hand: its loop doesn't run."""
    leader = make_leader()
    await leader.recover()
    return leader


async def test_a_slice_is_bounded_and_one_tenants_backlog_delays_no_other(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "SLICE_WORKLOADS", 20)
    many = [cluster.submit(f"many-{number}") for number in range(60)]
    few = [cluster.submit(f"few-{number}", namespace="other") for number in range(3)]
    await leader.take_in(*many, *few)
    cluster.delete_customer("acme")
    leader.request_reviews()

    async def held(uids: list[str]) -> int:
        return sum(row.phase is Phase.HELD for row in await leader.rows(uids))

    await leader.review_slice()
    assert (await held(few), await held(many)) == (3, 17)
    await leader.review_slice()
    assert await held(many) == 37
    cluster.set_customer("acme", "*", "team")
    leader.request_reviews()
    await leader.review_customers()
    assert (await held(few), await held(many)) == (0, 0)


async def test_equal_specs_are_compiled_once_after_an_edit_of_a_limit_range(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [cluster.submit(f"many-{number}", cpu=None) for number in range(40)]
    other = cluster.submit("other", cpu="2")
    await leader.take_in(*many, other)
    compiled: list[str] = []
    read_row = object_to_row.read_row

    def counted(row: WorkloadRow, reads: ClusterReads) -> Any:
        compiled.append(row.id)
        return read_row(row, reads)

    monkeypatch.setattr(object_to_row, "read_row", counted)
    for cpu, units in (("200m", 200), ("300m", 300)):
        cluster.set_default_request("team", cpu=cpu)
        compiled.clear()
        await leader.review_defaults("team")
        assert len(compiled) == 2, "one of the equal ones, and the other"
        assert {leader.requirements(uid)["cpu"] for uid in many} == {units}
        assert leader.requirements(other)["cpu"] == 2000


async def test_changed_labels_count_for_terms_of_others_and_stay_in_the_row(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.take_in(uid)
    labels: dict[str, Any] = {"team": "a"}
    cluster.objects[uid]["metadata"]["labels"] = labels
    await leader.take_in(uid)
    assert leader.tracked(uid).subject.labels == (("team", "a"),)
    assert (await leader.row(uid)).labels == labels
    await leader.take_in(uid)
    version = (await leader.row(uid)).version
    await leader.take_in(uid)
    assert (await leader.row(uid)).version == version
