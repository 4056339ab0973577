"""Running counts agree with a full count, whatever happened."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.lifecycle import Phase
from niyanta.scheduler.memory.tally import Tally
from niyanta.store.row_mapping import new_row
from niyanta.store.rows import WorkloadRow
from tests.store.make import intake

pytestmark = pytest.mark.unit


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_counts_agree_with_the_workloads(seed: int) -> None:
    rng = random.Random(seed)
    tally = Tally()
    rows: dict[str, WorkloadRow] = {}
    for number in range(100):
        step = rng.random()
        if step < 0.4 or not rows:
            place = {"namespace": rng.choice("ab"), "customer": rng.choice("xy")}
            fresh = new_row(intake(id=str(number), replicas=rng.randrange(1, 4), **place), rng.randrange(9), 0)
            rows[fresh.id] = fresh
            tally.note(fresh)
        elif step < 0.8:
            row = rows[rng.choice(list(rows))]
            phase, reason = rng.choice(list(Phase)), rng.choice(("NoCustomer", "QueueFull"))
            moved = replace(row, phase=phase, pool=rng.choice(("", "p", "q")), reason=reason)
            rows[row.id] = replace(moved, customer=rng.choice("xy"), queued_at_us=rng.randrange(9))
            tally.note(rows[row.id])
        else:
            gone = rows.pop(rng.choice(list(rows)))
            tally.forget(gone.id)
            tally.forget("unknown")
        bound = [row for row in rows.values() if row.phase.bound]
        waiting = [row for row in rows.values() if row.phase is Phase.PENDING]
        assert tally.bound == Counter(row.pool for row in bound)
        assert tally.pending == len(waiting)
        assert tally.held == Counter(row.reason for row in rows.values() if row.phase is Phase.HELD)
        oldest: dict[tuple[str, str], int] = {}
        for row in sorted(waiting, key=lambda row: row.queued_at_us):
            oldest.setdefault((row.customer, row.namespace), row.queued_at_us)
        assert dict(tally.oldest) == oldest
        assert set(tally.namespaces) == {row.namespace for row in (*bound, *waiting)}
        for name, space in tally.namespaces.items():
            mine = [row.replicas for row in waiting if row.namespace == name]
            theirs = [row.replicas for row in bound if row.namespace == name]
            counts = (space.waiting, space.waiting_pods, space.running, space.running_pods)
            assert counts == (len(mine), sum(mine), len(theirs), sum(theirs))
