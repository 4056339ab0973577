"""The leader carries out requests to cordon and uncordon workers; one that fails concerns its worker alone."""

from __future__ import annotations

import pytest

from niyanta.containment import Boundary
from niyanta.lifecycle import Phase
from niyanta.scheduler.cluster_api import NodeWriteError
from niyanta.scheduler.periodic import maintenance, worker_requests
from niyanta.store.rows import WorkerAction, WorkerRequest, WorkerRow
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest, contained_errors, until
from tests.scheduler.conftest import MakeLeader

pytestmark = pytest.mark.store


@pytest.fixture
async def leader(make_leader: MakeLeader, monkeypatch: pytest.MonkeyPatch) -> LeaderUnderTest:
    """A leader that looks for requests often, and repeats failed ones soon."""
    monkeypatch.setattr(maintenance, "WORKER_REQUESTS_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(worker_requests, "FIRST_PAUSE_SECONDS", 0.05)
    leader = make_leader()
    await leader.start()
    return leader


async def ask(leader: LeaderUnderTest, action: WorkerAction, worker: str = "n1") -> WorkerRequest:
    await leader.store.upsert_workers([WorkerRow(worker, "pool-a")])
    found = await leader.store.add_worker_request(worker, action=action, by="ops")
    assert found is not None
    return found


async def ended(leader: LeaderUnderTest, request: WorkerRequest) -> tuple[str | None, str]:
    """Outcome and message of a request, when it has ended."""

    async def over() -> bool:
        found = await leader.store.get_worker_request(request.worker, request.id)
        return found is not None and found.done_at is not None

    await until(over, f"the {request.action} of {request.worker} has ended")
    found = await leader.store.get_worker_request(request.worker, request.id)
    assert found is not None
    return found.outcome, found.message


async def test_a_cordoned_worker_gets_no_work_until_it_is_uncordoned(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    running = cluster.submit("before")
    await leader.is_running(running)
    assert await ended(leader, await ask(leader, WorkerAction.CORDON)) == ("Done", "cordoned")
    waiting = cluster.submit("after")
    await leader.has_reason(waiting, "Unschedulable")
    assert (await leader.row(running)).phase is Phase.RUNNING
    assert await ended(leader, await ask(leader, WorkerAction.UNCORDON)) == ("Done", "uncordoned")
    await leader.reaches(waiting, Phase.SCHEDULED)


async def test_a_cordon_of_another_client_is_undone_too(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    await cluster.cordon("n1")
    assert await ended(leader, await ask(leader, WorkerAction.UNCORDON)) == ("Done", "uncordoned")
    assert cluster.is_schedulable("n1")


async def test_an_uncordon_ends_the_drain_before_it_and_the_later_request_wins(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    uid = cluster.submit("job")
    await leader.is_running(uid)
    drain = await ask(leader, WorkerAction.DRAIN)
    await until(lambda: not cluster.is_schedulable("n1"), "the worker is cordoned")
    uncordon = await ask(leader, WorkerAction.UNCORDON)
    assert await ended(leader, drain) == ("Replaced", "replaced by a later request to uncordon the worker")
    assert await ended(leader, uncordon) == ("Done", "uncordoned")
    assert (await leader.row(uid)).phase is Phase.RUNNING


async def test_only_the_last_of_opposite_requests_is_carried_out(make_leader: MakeLeader, cluster: FakeCluster) -> None:
    leader = make_leader()
    uncordon, cordon = [await ask(leader, action) for action in (WorkerAction.UNCORDON, WorkerAction.CORDON)]
    await leader.start()
    assert (await ended(leader, uncordon))[0] == "Replaced"
    assert (await ended(leader, cordon))[0] == "Done"
    assert cluster.faults.calls["uncordon"] == 0


async def test_a_node_that_is_gone_ends_its_request(leader: LeaderUnderTest) -> None:
    outcome, message = await ended(leader, await ask(leader, WorkerAction.CORDON, "gone"))
    assert (outcome, message) == ("Failed", "the node doesn't exist any more")


async def test_a_refusal_ends_the_request_and_a_failure_is_repeated_while_others_go_on(
    leader: LeaderUnderTest, cluster: FakeCluster
) -> None:
    cluster.add_node("n2")
    cluster.faults.fail("cordon", NodeWriteError("a policy denies it", refused=True))
    outcome, message = await ended(leader, await ask(leader, WorkerAction.CORDON))
    assert (outcome, message) == ("Failed", "the API server refused to change the node: a policy denies it")
    away = cluster.faults.fail("cordon", NodeWriteError("no answer", refused=False), times=2)
    first, second = [await ask(leader, WorkerAction.CORDON, name) for name in ("n1", "n2")]
    assert await ended(leader, first) == await ended(leader, second) == ("Done", "cordoned")
    assert away.times == 0


async def test_an_unexpected_error_leaves_the_other_workers(leader: LeaderUnderTest, cluster: FakeCluster) -> None:
    before = contained_errors(Boundary.DRAIN)
    cluster.add_node("n2")
    cluster.faults.fail("uncordon", ZeroDivisionError("oops"))
    first, second = [await ask(leader, WorkerAction.UNCORDON, name) for name in ("n1", "n2")]
    assert (await ended(leader, first))[0] == (await ended(leader, second))[0] == "Done"
    assert contained_errors(Boundary.DRAIN) == before + 1


async def test_a_hanging_write_is_given_up_and_repeated(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_requests, "WRITE_SECONDS", 0.05)
    hang = cluster.faults.hang("cordon")
    assert await ended(leader, await ask(leader, WorkerAction.CORDON)) == ("Done", "cordoned")
    assert hang.reached.is_set()


async def test_a_change_that_never_shows_was_undone_by_another_client(
    leader: LeaderUnderTest, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_requests, "SEEN_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(cluster, "is_schedulable", lambda _node: True)
    request = await ask(leader, WorkerAction.CORDON)
    await until(lambda: cluster.faults.calls["is_cordoned"] >= 2, "the API server is asked, and shows the cordon")
    found = await leader.store.get_worker_request("n1", request.id)
    assert found is not None
    assert found.done_at is None, "a late watch ends nothing"
    await cluster.uncordon("n1")
    outcome, message = await ended(leader, request)
    assert (outcome, message) == ("Replaced", "another client uncordoned the node meanwhile")
