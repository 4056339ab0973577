"""A candidate takes no leadership while admission policies are missing; a leader goes on without them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.leadership import election, fence
from niyanta.cluster.leadership.election import Candidate, Settled
from niyanta.cluster.leadership.policies import AUTHORS, BINDINGS, MISSING, POLICIES
from niyanta.scheduler.lease import Lease
from niyanta.settings import Settings
from niyanta.store.leadership import LeaderRecord, Leadership
from tests.cluster.leadership.policies_in_memory import PoliciesInMemory
from tests.fakes.scripted_api_server import until

pytestmark = pytest.mark.unit

BINDING = (BINDINGS.plural, "niyanta-labels")


class LeadershipInMemory:
    """A leadership row without a holder, which counts the attempts to take it."""

    def __init__(self) -> None:
        self.epoch = 0
        self.looks = 0
        self.expires_in = 0.0

    async def current(self) -> LeaderRecord:
        self.looks += 1
        return LeaderRecord("", self.epoch, self.expires_in)

    async def try_acquire(self) -> int:
        self.epoch += 1
        return self.epoch

    async def renew(self, epoch: int) -> bool:
        return epoch == self.epoch

    async def database_identity(self) -> str:
        return "db"


class Election:
    """A candidate, its row, the cluster's policies, and the epochs in which it led."""

    def __init__(self, **settings: Any) -> None:
        self.row = LeadershipInMemory()
        self.cluster = PoliciesInMemory()
        self.led: list[int] = []
        self.candidate = Candidate(
            leadership=cast("Leadership", self.row),
            client=cast("ApiClient", self.cluster),
            lease=Lease(seconds=30, stall_limit=30),
            settings=Settings(request_timeout=0.01, **settings),
        )

    async def lead(self, epoch: int, adopting: bool, settled: Settled) -> None:
        self.led.append(epoch)
        await asyncio.Event().wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.candidate.run(self.lead))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short intervals, and a fence that is always raised."""

    async def read(*_: object) -> fence.Fence:
        return fence.Fence(0, "")

    async def raise_to(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(fence, "read", read)
    monkeypatch.setattr(fence, "raise_to", raise_to)
    monkeypatch.setattr(election, "POLICIES_AWAY_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(election, "POLICIES_INTERVAL_SECONDS", 0.01)


async def test_a_candidate_waits_until_the_policies_are_back() -> None:
    held = Election()
    removed = held.cluster.objects.pop(BINDING)
    async with held.running():
        await until(lambda: held.row.looks > 3)
        assert held.row.epoch == 0
        held.cluster.objects[BINDING] = removed
        await until(lambda: held.led == [1])


async def test_while_another_process_leads_a_candidate_reports_no_missing_policies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the alert would outlast the repair: a standby doesn't look again."""
    monkeypatch.setattr(election, "ACQUIRE_INTERVAL_SECONDS", 0.01)
    held = Election()
    held.cluster.objects.clear()
    async with held.running():
        await until(lambda: MISSING._value.get() == 3)
        held.row.expires_in = 4.0
        await until(lambda: MISSING._value.get() == 0)
        assert held.row.epoch == 0


async def test_a_candidate_waits_while_the_policies_cannot_be_read() -> None:
    held = Election()
    held.cluster.error = ApiError(0, "", "no answer")
    async with held.running():
        await until(lambda: held.row.looks > 3)
        assert held.row.epoch == 0
        held.cluster.error = None
        await until(lambda: held.led == [1])


async def test_a_leader_goes_on_without_policies_and_reports_them() -> None:
    held = Election()
    async with held.running():
        await until(lambda: held.led == [1])
        held.cluster.objects.clear()
        await until(lambda: MISSING._value.get() == 3)
        held.cluster.error = ApiError(0, "", "no answer")
        asked = held.cluster.reads
        await until(lambda: held.cluster.reads > asked + 20)
        assert (held.led, held.row.epoch) == ([1], 1)


async def test_a_missing_policy_on_authors_is_reported_and_keeps_nobody_from_leading() -> None:
    held = Election(require_authors_policy=True)
    del held.cluster.objects[POLICIES.plural, AUTHORS]
    async with held.running():
        await until(lambda: held.led == [1])
        assert MISSING._value.get() == 1


async def test_without_the_setting_policies_are_not_asked_for() -> None:
    held = Election(require_policies=False)
    held.cluster.objects.clear()
    async with held.running():
        await until(lambda: held.led == [1])
