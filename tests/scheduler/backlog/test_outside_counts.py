"""Running sums of what only Postgres has agree with a full count, whatever happened."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.scheduler.backlog.backlog import Backlog
from niyanta.store.queue_classes import WaitingClass
from tests.scheduler.backlog.test_backlog import anywhere, load, row

pytestmark = pytest.mark.unit


def a_step(rng: random.Random, backlog: Backlog) -> None:
    """Something that happens to a backlog."""
    customer, name, number = rng.choice("xy"), rng.choice("abc"), rng.randrange(4)
    id_ = f"{customer}{name}{number}"
    match rng.randrange(7):
        case 0:
            pending = rng.randrange(1, 6)
            place = {"namespace": f"{customer}-{name}", "replicas": 1 + ord(name) % 3}
            counts = {"pending": pending, "pending_rest": pending, "oldest_us": rng.randrange(1, 9), "key": 0}
            backlog.counted([WaitingClass(customer, name, **place, **counts)])
        case 1:
            load(backlog, [row(id_, name, customer=customer, queued_at=rng.randrange(1, 9))])
        case 2:
            backlog.enter(row(id_, rng.choice("abc"), customer=customer))
        case 3:
            backlog.leave(id_, placed=rng.random() < 0.5)
        case 4:
            backlog.unload(id_)
        case 5:
            backlog.counted([], [(customer, name)])
        case 6:
            backlog.begin_pass()
            backlog.hear(row(id_, name, customer=customer), anywhere)
            if rng.random() < 0.5:
                backlog.end_pass()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_sums_agree_with_the_classes(seed: int) -> None:
    rng = random.Random(seed)
    backlog = Backlog()
    counts = backlog.outside_counts
    seen: dict[tuple[str, str], object] = {}
    for _ in range(60):
        a_step(rng, backlog)
        if rng.random() < 0.5:
            continue  # several changes before one read
        outside = {(one.customer, one.queue_class): one for one in backlog.outside()}
        workloads: Counter[tuple[str, str]] = Counter()
        pods: Counter[tuple[str, str]] = Counter()
        oldest: dict[tuple[str, str], int] = {}
        for one in outside.values():
            account = one.customer, one.namespace
            workloads[account] += one.workloads
            pods[account] += one.workloads * one.replicas
            oldest[account] = min(oldest.get(account, one.oldest_us), one.oldest_us)
        assert counts.workloads() == workloads
        assert counts.pods() == pods
        assert dict(counts.oldest()) == oldest
        for name in counts.take_changed():
            seen[name] = outside.get(name)
        assert {name: one for name, one in seen.items() if one is not None} == outside, "every change is told"
