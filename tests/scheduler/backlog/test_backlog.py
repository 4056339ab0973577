"""The backlog: counts by stored class, and which rows get room in memory."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.lifecycle import Door
from niyanta.scheduler.backlog import stored_class
from niyanta.scheduler.backlog.backlog import Backlog
from niyanta.store.queue_classes import ClassHeads, WaitingClass
from niyanta.store.row_mapping import new_row
from niyanta.store.rows import WorkloadRow
from tests.store.make import intake

pytestmark = pytest.mark.unit


def row(id_: str, queue_class: str = "a", *, customer: str = "acme", key: int = 0, queued_at: int = 1) -> WorkloadRow:
    fresh = new_row(intake(id=id_, door=Door.REST, customer=customer), queued_at, key)
    return replace(fresh, queue_class=queue_class)


def count(name: str, pending: int, *, customer: str = "acme", key: int = 0, oldest_us: int = 1) -> WaitingClass:
    return WaitingClass(customer, name, "team", 1, pending, pending, oldest_us, key)


def anywhere(_customer: str, _namespace: str) -> bool:
    return True


def load(backlog: Backlog, rows: list[WorkloadRow]) -> None:
    """The rows enter as read from Postgres."""
    backlog.loading([one.id for one in rows])
    for one in rows:
        backlog.enter(one)
    backlog.loading(())


def load_first(backlog: Backlog, customer: str, name: str, most: int, *, of: int) -> None:
    """Answer one request: the class has `of` rows, named after it."""
    rows = [row(f"{customer}/{name}/{number}", name, customer=customer) for number in range(min(most, of))]
    missing = backlog.loaded(ClassHeads(customer, name, tuple(one.id for one in rows), None, None, of < most))
    load(backlog, [one for one in rows if one.id in missing])


def test_a_class_begins_with_one_row_and_doubles_with_each_placement() -> None:
    backlog = Backlog()
    backlog.counted([count("a", 1000)])
    wanted = []
    while requests := backlog.to_load(10, anywhere):
        (request,) = requests
        wanted.append(request.most)
        load_first(backlog, "acme", "a", request.most, of=1000)
        assert backlog.to_load(10, anywhere) == []
        for id_ in [f"acme/a/{number}" for number in range(request.most)]:
            backlog.leave(id_, placed=True)
    assert wanted == [1, 2, 8, 512, 477], "it doubles for each row that was placed, up to a bound"
    assert backlog.pending_by_customer() == {}


def test_what_is_outside_is_counted_exactly() -> None:
    backlog = Backlog()
    backlog.counted([count("a", 5, oldest_us=7), count("b", 2, customer="other", oldest_us=3)])
    assert backlog.oldest_us == 3
    load(backlog, [row("1"), row("2")])
    found = {(one.customer, one.queue_class): one for one in backlog.outside()}
    assert found["acme", "a"].workloads == 3
    assert found["acme", "a"].like == "1"
    assert found["other", "b"].like is None
    backlog.leave("1", placed=True)
    assert backlog.pending_by_customer() == {"acme": 4, "other": 2}
    backlog.enter(row("1"))  # its attempt failed
    assert backlog.pending_by_customer() == {"acme": 5, "other": 2}
    backlog.unload("2")
    assert {one.queue_class: one.workloads for one in backlog.outside()} == {"a": 4, "b": 2}
    backlog.counted([], [("other", "b")])
    assert backlog.pending_by_customer() == {"acme": 5}


def test_a_pass_forgets_classes_that_postgres_no_longer_has() -> None:
    backlog = Backlog()
    backlog.begin_pass()
    backlog.counted([count("a", 2), count("b", 2)])
    backlog.end_pass()
    backlog.begin_pass()
    backlog.counted([count("b", 1)])
    backlog.end_pass()
    assert backlog.find("acme", "a") is None
    assert backlog.pending_by_customer() == {"acme": 1}


def test_customers_take_turns_and_each_begins_with_its_highest_key() -> None:
    backlog = Backlog()
    backlog.counted([count(f"low-{number}", 1, key=number) for number in range(50)])
    backlog.counted([count("only", 1, customer="quiet", key=-5)])
    requests = backlog.to_load(3, anywhere)
    assert [(one.customer, one.queue_class) for one in requests] == [
        ("acme", "low-49"),
        ("quiet", "only"),
        ("acme", "low-48"),
    ]


def test_the_first_rows_of_a_class_and_better_ones_are_loaded_when_they_are_heard_of() -> None:
    backlog = Backlog(most_rows=4000)
    heard = [backlog.hear(row(str(number), key=100), anywhere) for number in range(1)]
    assert heard == [True]
    load(backlog, [row(str(number), key=100) for number in range(stored_class.MOST_ROWS_OF_CLASS)])
    assert not backlog.hear(row("worse", key=99), anywhere)
    assert backlog.hear(row("better", key=101), anywhere)
    assert not backlog.hear(row("no-class", ""), anywhere)
    assert not backlog.hear(row("elsewhere", "b"), lambda _customer, _namespace: False), "its budget is used up"
    assert ("acme", "a") in backlog.take_uncounted(10)


def test_one_customers_backlog_leaves_room_for_others() -> None:
    backlog = Backlog(most_rows=100)
    backlog.counted([count(f"{number:04}", 10) for number in range(1000)])
    while requests := backlog.to_load(50, anywhere):
        for request in requests:
            load_first(backlog, "acme", request.queue_class, request.most, of=10)
    assert backlog.room.rows_of("acme") == 75, "alone, it has all but the reserve"
    backlog.counted([count(f"{number}", 1, customer="quiet") for number in range(40)])
    assert len(backlog.to_load(50, anywhere)) == 25
    for number in range(25):
        load_first(backlog, "quiet", f"{number}", 1, of=1)
    assert backlog.to_load(50, anywhere) == [], "memory is full"
    freed = backlog.to_unload(20, lambda _id: True)
    for id_ in freed:
        backlog.unload(id_)
    requests = backlog.to_load(50, anywhere)
    assert {request.customer for request in requests} == {"quiet"}, "the greedy one has more than its share"


def test_parked_classes_make_room_for_the_ones_that_wait_outside() -> None:
    backlog = Backlog(most_rows=10)
    backlog.counted([count(f"{number:02}", 3, key=-number) for number in range(30)])
    seen: Counter[str] = Counter()
    for _ in range(30):
        while requests := backlog.to_load(50, anywhere):
            for request in requests:
                seen[request.queue_class] += 1
                load_first(backlog, "acme", request.queue_class, request.most, of=3)
        assert backlog.total <= 10
        for id_ in backlog.to_unload(5, lambda _id: True):
            backlog.unload(id_)
    assert len(seen) == 30, "each class was in memory"
    assert max(seen.values()) <= 2 + min(seen.values()), "in turns"


def test_a_class_that_is_not_parked_keeps_its_rows() -> None:
    backlog = Backlog(most_rows=4)
    backlog.counted([count(name, 1) for name in "abcde"])
    for request in backlog.to_load(5, anywhere):
        load_first(backlog, "acme", request.queue_class, request.most, of=1)
    assert backlog.to_load(5, anywhere) == []
    assert backlog.to_unload(5, lambda _id: False) == []
    assert backlog.total == 3


def test_rows_whose_budget_of_bytes_is_used_up_wait_outside() -> None:
    backlog = Backlog()
    backlog.counted([count("a", 1), count("b", 1)])
    load(backlog, [row("1", "a")])
    assert backlog.to_load(5, lambda _customer, _namespace: False) == []
    assert backlog.to_unload(5, lambda _id: True) == ["1"], "a parked class of the namespace makes room"
    assert [one.queue_class for one in backlog.to_load(5, anywhere)] == ["b"]


def test_the_classes_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_class, "MOST_CLASSES", 20)
    backlog = Backlog(most_rows=10)
    seen: set[str] = set()
    for _ in range(80):
        backlog.begin_pass()
        backlog.counted([count(f"{number:02}", 1) for number in range(60)])
        backlog.counted([count("only", 1, customer="quiet")])
        backlog.end_pass()
        assert sum(1 for _ in backlog.outside()) <= 21
        while requests := backlog.to_load(50, anywhere):
            for request in requests:
                seen.add(request.queue_class)
                load_first(backlog, request.customer, request.queue_class, request.most, of=1)
        for id_ in backlog.to_unload(5, lambda _id: True):
            backlog.unload(id_)
    assert len(seen) == 61, "all classes have their turn"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whatever_happens_every_class_is_loaded_and_the_counts_agree(seed: int) -> None:
    """A model of Postgres beside it: rows come, are placed, fail, are cancelled elsewhere or unloaded, in any order."""
    rng = random.Random(seed)
    backlog = Backlog(most_rows=rng.choice((8, 30, 1000)))
    rows: dict[str, WorkloadRow] = {}
    serial = retried = 0

    def counts() -> list[WaitingClass]:
        found = Counter((one.customer, one.queue_class) for one in rows.values())
        return [count(name, pending, customer=customer) for (customer, name), pending in sorted(found.items())]

    def in_memory() -> list[str]:
        return [id_ for id_ in rows if (c := backlog.find(rows[id_].customer, rows[id_].queue_class)) and id_ in c.rows]

    def load_due() -> None:
        for request in backlog.to_load(3, anywhere):
            mine = [
                one
                for one in rows.values()
                if (one.customer, one.queue_class) == (request.customer, request.queue_class)
            ]
            mine.sort(key=lambda one: (-one.queue_key, one.id))
            ids = tuple(one.id for one in mine[: request.most])
            oldest = min((one.id for one in mine), default=None)
            heads = ClassHeads(request.customer, request.queue_class, ids, oldest, oldest, len(ids) < request.most)
            load(backlog, [rows[id_] for id_ in backlog.loaded(heads)])

    def recount() -> None:
        names = backlog.take_uncounted(rng.randrange(1, 5))
        backlog.counted([one for one in counts() if (one.customer, one.queue_class) in names], names)

    for _ in range(80):
        step = rng.random()
        loaded = in_memory()
        if step < 0.35:
            serial += 1
            fresh = row(str(serial), rng.choice("abcdef"), customer=rng.choice(("acme", "other")), key=rng.randrange(9))
            rows[fresh.id] = fresh
            if backlog.hear(fresh, anywhere):
                load(backlog, [fresh])
        elif step < 0.55 and loaded:
            id_ = rng.choice(loaded)
            placed = rows.pop(id_)
            backlog.leave(id_, placed=True)
            if rng.random() < 0.3:  # its attempt fails
                rows[id_] = placed
                backlog.enter(placed)
                retried += 1
        elif step < 0.65 and rows:  # cancelled by another process
            gone = rows.pop(rng.choice(list(rows)))
            if gone.id in loaded:
                backlog.leave(gone.id)
            else:
                backlog.doubt(gone.customer, gone.queue_class)
        elif step < 0.75:
            for id_ in backlog.to_unload(rng.randrange(1, 4), lambda _id: rng.random() < 0.8):
                backlog.unload(id_)
        elif step < 0.85:
            recount()
        else:
            load_due()
        assert backlog.total == len(in_memory())
        # Beside its first rows, a class has its oldest one and the one of the highest priority.
        assert backlog.total <= backlog.room.most_rows + 2 * 12 + retried
    backlog.begin_pass()
    backlog.counted(counts())
    backlog.end_pass()
    assert backlog.pending_by_customer() == dict(Counter(one.customer for one in rows.values()))
    unseen = {(one.customer, one.queue_class) for one in rows.values()}
    for _ in range(200):
        load_due()
        unseen -= {(rows[id_].customer, rows[id_].queue_class) for id_ in in_memory()}
        for id_ in backlog.to_unload(4, lambda _id: True):
            backlog.unload(id_)
    assert not unseen, "a class was never loaded"
    outside = {(one.customer, one.queue_class): one.workloads for one in backlog.outside()}
    for one in counts():
        known = backlog.find(one.customer, one.queue_class)
        assert known is not None
        assert outside.get((one.customer, one.queue_class), 0) + len(known.rows) == one.pending_rest
