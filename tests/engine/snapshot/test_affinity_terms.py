"""Interned terms that no workload uses are forgotten without changing a plan."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot import affinity_terms
from tests.engine.worlds import World, world

pytestmark = pytest.mark.unit
worlds = st.randoms(use_true_random=False).map(world)
checked = settings(max_examples=60, deadline=None)


@checked
@given(worlds)
def test_dropping_unused_terms_changes_no_plan(made: World) -> None:
    """Unused terms are forgotten when there are many; in this test before every cycle."""
    snapshot = made.snapshot()
    plan = schedule(snapshot, made.pending, now=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affinity_terms, "_MAX_UNUSED_TERMS", -1_000_000)
        assert schedule(snapshot, made.pending, now=0) == plan
        assert schedule(snapshot, made.pending, now=0) == plan
