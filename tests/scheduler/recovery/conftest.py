"""The leader whose work a new leader takes over."""

from __future__ import annotations

import pytest

from tests.fakes.leader import LeaderUnderTest
from tests.scheduler.conftest import MakeLeader


@pytest.fixture
async def old(make_leader: MakeLeader) -> LeaderUnderTest:
    """The leader before, which a test drives by hand and closes."""
    leader = make_leader()
    await leader.recover()
    return leader
