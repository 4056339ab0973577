"""cordon, uncordon and drain as admins run them, against a real REST door; the test plays the leader."""

from __future__ import annotations

import subprocess

import pytest

from niyanta.store.rest.api_keys import Role
from niyanta.store.rows import RequestOutcome, WorkerRequest, WorkerRow
from niyanta.store.state import StateManager
from testing.waiting import until
from tests.client.conftest import NewUser, User

pytestmark = pytest.mark.process


@pytest.fixture
def admin(new_user: NewUser) -> User:
    """An admin, with worker node-1."""
    made = new_user(role=Role.ADMIN)

    async def upsert(state: StateManager) -> None:
        await state.upsert_workers([WorkerRow("node-1", "gpu", cordoned=True)])

    made.door.database.run(upsert)
    return made


def open_requests(admin: User) -> list[WorkerRequest]:
    return admin.door.database.run(lambda state: state.get_worker_requests())


def report(admin: User, message: str) -> None:
    """The leader has cordoned the worker of the only open request, and reports."""

    async def work(state: StateManager) -> None:
        (request,) = await state.get_worker_requests()
        await state.report_worker_requests({request: message}, epoch=None)

    admin.door.database.run(work)


def end(admin: User, outcome: RequestOutcome, message: str) -> None:
    """The leader ends all open requests."""

    async def work(state: StateManager) -> None:
        for request in await state.get_worker_requests():
            await state.complete_worker_request(request, outcome=outcome, message=message, epoch=None)

    admin.door.database.run(work)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("verb", ["cordon", "uncordon"])
def test_the_command_ends_when_the_leader_has_done_it(admin: User, verb: str) -> None:
    process = admin.start(verb, "node-1")
    until(lambda: open_requests(admin), what="it is requested")
    assert process.poll() is None
    end(admin, RequestOutcome.DONE, f"{verb}ed")
    assert ended(process) == (0, f"node-1: {verb}ed\n", "")


def test_a_drain_shows_how_far_it_is_and_who_asked(admin: User) -> None:
    process = admin.start("drain", "node-1", "--timeout", "2m")
    (request,) = until(lambda: open_requests(admin), what="it is requested")
    assert request.evict_at is None
    report(admin, "cordoned; 2 workloads still run there")
    assert "Draining" in admin.niyanta("workers")[0]
    assert f"{admin.customer}/" in admin.niyanta("workers")[0]
    end(admin, RequestOutcome.DONE, "drained")
    code, out, _ = ended(process)
    assert (code, out) == (0, "node-1: drained\n")


def test_a_drain_that_takes_longer_goes_on(admin: User) -> None:
    process = admin.start("drain", "node-1", "--evict-after", "600", "--timeout", "1s")
    code, out, err = ended(process)
    assert (code, out) == (5, "")
    assert "the drain of node-1 is not done after 1 s" in err
    (request,) = open_requests(admin)
    assert request.evict_at is not None
    end(admin, RequestOutcome.DONE, "drained")


def test_without_waiting_it_is_only_requested(admin: User) -> None:
    out, _ = admin.niyanta("cordon", "node-1", "--no-wait")
    assert out == "node-1: cordon requested; `niyanta workers` shows its state\n"
    assert admin.json("drain", "node-1", "--no-wait")["action"] == "drain"
    end(admin, RequestOutcome.DONE, "cordoned")


def test_a_request_that_was_not_carried_out_ends_with_3(admin: User) -> None:
    process = admin.start("cordon", "node-1")
    until(lambda: open_requests(admin), what="it is requested")
    end(admin, RequestOutcome.FAILED, "the API server refused to change the node: no")
    code, out, err = ended(process)
    assert (code, out) == (3, "")
    assert "the cordon of node-1 was not carried out: the API server refused to change the node: no" in err


def test_an_unknown_worker_and_other_keys_are_refused(admin: User, new_user: NewUser) -> None:
    _, err = admin.niyanta("cordon", "node-9", code=3)
    assert "there is no worker node-9" in err
    _, err = new_user().niyanta("uncordon", "node-1", code=3)
    assert "this needs a key of role admin" in err
    admin.niyanta("drain", "node-1", "--evict-after", "-1", code=2)
