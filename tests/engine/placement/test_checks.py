"""Deciding and explaining agree: a workload is placed exactly when some worker fails no check, and on such a worker."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.explain import nearest_miss
from niyanta.engine.schedule import schedule
from niyanta.engine.types import Reason
from tests.engine.worlds import World, world

pytestmark = pytest.mark.unit

worlds = st.randoms(use_true_random=False).map(world)


@settings(max_examples=60, deadline=None)
@given(worlds)
def test_a_workload_goes_where_no_check_fails_or_nowhere(made: World) -> None:
    snapshot = made.snapshot()
    for workload in made.pending:
        single = replace(workload, replicas=1)
        plan = schedule(snapshot, [single], now=0)
        misses = nearest_miss(snapshot, single, limit=len(made.workers))
        passing = {miss.worker for miss in misses if not miss.failed}
        assert bool(plan.placements) == bool(passing)
        for placement in plan.placements:
            assert placement.workers[0] in passing
        for rejection in plan.rejections:
            failed = {reason for miss in misses for reason in miss.failed}
            if len(misses) < len(made.workers):
                failed.add((Reason.POOL_NOT_FOR_CUSTOMER, ""))
            assert {(reason, detail) for reason, detail, _ in rejection.counts} <= failed
