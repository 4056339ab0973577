"""Invariants of the scaling policy under random actions of users, workloads and the cloud, and failovers at any
step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.pools.actions import BeginDrain, CancelDrain, EvictPods, GrowGroup, RemoveInstance, ScalingRules
from niyanta.pools.policy import SECOND_US, bounded_replicas
from tests.pools.world import PoolWorld

pytestmark = pytest.mark.unit

TIMEOUT = 100

DEEDS = st.one_of(
    st.tuples(st.just("scale"), st.integers(0, 8)),
    *[st.tuples(st.just("look"), st.integers(0, 6))] * 4,
    *[st.tuples(st.just("run"), st.integers(0, 9))] * 2,
    st.tuples(st.just("pass"), st.sampled_from([1, 20, 50, 120])),
    st.tuples(st.just("arrive"), st.just(0)),
    *(
        st.tuples(st.just(what), st.integers(0, 9))
        for what in ("end", "ended", "half", "vanish", "cordon", "uncordon", "break", "mend", "foreign", "left")
    ),
)
"""`look` n: a leader does n actions of its plan and dies; the next one makes a new plan."""

RULES = st.builds(
    ScalingRules,
    replicas=st.integers(0, 8),
    minimum=st.integers(0, 2),
    maximum=st.one_of(st.none(), st.integers(2, 6)),
    up_cooldown=st.sampled_from([0, 30]),
    down_cooldown=st.sampled_from([0, 30]),
    drain_timeout=st.sampled_from([TIMEOUT, None]),
    ready_timeout=st.just(60),
)


class Watched(PoolWorld):
    """Checks the invariants at each action."""

    def do(self, action: object) -> None:
        match action:
            case GrowGroup(to, count):
                assert count > 0
                assert to > self.desired
                assert self.group_maximum is None or to <= self.group_maximum
                staying = to - len(self.drains.keys() & self.workers.keys())
                assert staying <= bounded_replicas(self.rules)
            case CancelDrain(_, drain):
                assert drain.removing_at is None, "a late order may still remove it"
            case BeginDrain(worker):
                assert not worker.kept
                assert not worker.others
                assert worker.instance not in self.drains
                staying = self.workers.keys() - self.drains.keys()
                assert len(staying) - 1 >= bounded_replicas(self.rules), "fewer than wanted would be left"
            case EvictPods(_, drain):
                assert self.rules.drain_timeout is not None
                assert self.now - drain.started_at >= TIMEOUT * SECOND_US
            case RemoveInstance(worker, drain):
                assert worker.instance in self.drains
                assert worker.instance in self.workers, "removed twice"
                assert worker.cordoned or not worker.node
                assert not worker.workloads
                assert not worker.others
                if worker.pods:
                    assert not worker.ready
                    assert self.rules.drain_timeout is not None
                    assert self.now - drain.started_at >= TIMEOUT * SECOND_US
                assert self.desired - 1 >= self.group_minimum
        super().do(action)  # type: ignore[arg-type]

    def happen(self, what: str, number: int) -> None:
        if what == "scale":
            self.scale(number)
        elif what == "look":
            self.step(number)
        elif what == "pass":
            self.pass_time(number)
        elif what == "arrive":
            self.arrive()
        elif self.workers:
            self._to_one(what, sorted(self.workers)[number % len(self.workers)])

    def _to_one(self, what: str, name: str) -> None:
        worker = self.workers[name]
        if what == "run" and not worker.cordoned:
            self.change(name, workloads=worker.workloads + 1, pods=worker.pods + 1)
        elif what == "end":
            self.change(name, workloads=0, pods=0)
        elif what == "ended":  # its row has finished, its pods are still stopping
            self.change(name, workloads=0)
        elif what == "half":
            self.half = True
        elif what == "vanish":
            self.vanish(name)
        elif what in ("cordon", "uncordon"):
            self.change(name, cordoned=what == "cordon")
        elif what in ("break", "mend"):
            ready = what == "mend"
            self.change(name, ready=ready, unready_since=None if ready else self.now)
        elif what in ("foreign", "left"):
            self.change(name, others=("team/pod",) if what == "foreign" else ())


@settings(max_examples=200, deadline=None)
@given(
    rules=RULES,
    bounds=st.tuples(st.integers(0, 1), st.one_of(st.none(), st.integers(4, 7))),
    deeds=st.lists(DEEDS, min_size=40, max_size=100),
)
def test_it_keeps_its_promises_and_gets_there(
    rules: ScalingRules, bounds: tuple[int, int | None], deeds: list[tuple[str, int]]
) -> None:
    pool = Watched(replace(rules), group_minimum=bounds[0], group_maximum=bounds[1])
    pool.add(3)
    for what, number in deeds:
        pool.happen(what, number)
    # At the end, workloads finish, nodes are repaired and time passes: the pool must have the wanted size.
    for _ in range(12):
        for name in pool.workers:
            pool.change(name, workloads=0, pods=0, others=(), ready=True, unready_since=None)
        pool.settle()
        pool.pass_time(TIMEOUT)
    wanted = max(bounded_replicas(pool.rules), pool.group_minimum)
    if pool.group_maximum is not None:
        wanted = min(wanted, pool.group_maximum)
    assert len(pool.workers) == pool.desired == wanted
    assert pool.drains == {}
    assert not any(worker.marked for worker in pool.workers.values())


@settings(max_examples=30, deadline=None)
@given(rules=RULES, deeds=st.lists(DEEDS, min_size=40, max_size=100))
def test_deciding_again_decides_the_same(rules: ScalingRules, deeds: list[tuple[str, int]]) -> None:
    pool = Watched(rules)
    for what, number in deeds:
        pool.happen(what, number)
    assert pool.plan() == pool.plan()
