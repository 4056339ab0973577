"""Pending reasons: the latest one of each workload is kept until it is written."""

from __future__ import annotations

from typing import cast

import pytest

from niyanta.scheduler.cluster_api import ClusterReports
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.postgres.clock import Clock
from niyanta.store.state import StateManager

pytestmark = pytest.mark.unit


async def test_the_latest_reason_of_a_workload_counts() -> None:
    state = SchedulerState.of_leadership(1, Settings(dsn="x"), clock=cast(Clock, None))
    reasons = PendingReasons(state, store=cast(StateManager, None), cluster=cast(ClusterReports, None))
    reasons.add("u", "R", "one")
    reasons.add("u", "R", "two")
    assert [reason.message for reason in reasons.unwritten] == ["two"]
    await reasons.write()
    assert not reasons.unwritten
